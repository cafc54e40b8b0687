"""One command's configuration: dataclass defaults < YAML files < command line, and one line for any mistake.

    argv ──> read_argv ──┐
    YAML ──> flatten ────┴──> {"tracking.mode": Given} ──> _typed ──> _build ──> the frozen dataclass

jsonargparse types the values and prints the help.
"""

from __future__ import annotations

import inspect
import re
import sys
from argparse import SUPPRESS, ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from cxrdist import logs
from cxrdist.config_words import (
    Given,
    Option,
    dashed,
    dump_yaml,
    find,
    find_named,
    flatten,
    is_list,
    load_yaml,
    members,
    nest,
    read_argv,
    read_yaml,
)
from cxrdist.errors import UserError, nearest
from cxrdist.process import is_main_rank

__all__ = ["find", "find_named", "load_yaml", "parse", "to_dict", "to_yaml"]

T = TypeVar("T")


def parse(
    cls: type[T],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
    example: str,
    positional: Sequence[str] = (),
    default_config: Path | None = None,
) -> T:
    """The configuration of one command: ``cls`` from its defaults, YAML files and the command line.

    ``cls`` is a frozen keyword-only dataclass; a field that is itself a dataclass gives ``--field.option``.
    ``positional`` names the fields that may stand without their option; the last one may be a tuple.
    ``--help`` and ``--print-config`` print and raise SystemExit(0). Raises UserError for every mistake.
    """
    logs.configure()
    argv = list(sys.argv[1:] if argv is None else argv)
    options = _options(cls)
    if "-h" in argv or "--help" in argv:
        if is_main_rank():
            _print_help(cls, options, prog, example, positional)
        raise SystemExit(0)
    line = read_argv(argv, options, positional, prog)
    given: dict[str, Given] = {}
    for file in [*([] if default_config is None else [str(default_config)]), *line.files]:
        given |= read_yaml(file, options)
    given |= line.given
    values = _values(options, given)
    missing = [name for name, value in values.items() if value is MISSING]
    if line.print_config:
        shown = {name: None if value is MISSING else _plain(value) for name, value in values.items()}
        if is_main_rank():
            print(dump_yaml(nest(shown)), end="")
        raise SystemExit(0)
    if missing:
        names = ", ".join(name.upper() if name in positional else dashed(name) for name in missing)
        raise UserError(f"{names}: must be given; see {prog} --help")
    return cast(T, _build(cls, values, given))


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain nested dicts, lists and scalars, in the order of the fields."""
    return {field.name: _plain(getattr(config, field.name)) for field in fields(config) if field.init}


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML: ``--config`` with it gives an equal object."""
    return dump_yaml(to_dict(config))


# ---- dataclasses to options and back


def _options(cls: Any, prefix: str = "", defaults: Any = MISSING) -> dict[str, Option]:
    """Every option by its dotted name. ``defaults``: the instance that is the outer field's default."""
    kinds = get_type_hints(cls)
    options: dict[str, Option] = {}
    for field in fields(cls):
        if not field.init:
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if defaults is not MISSING:
            default = getattr(defaults, field.name)
        name, kind = prefix + field.name, kinds[field.name]
        if is_dataclass(kind):
            options |= _options(kind, f"{name}.", default)
        else:
            options[name] = Option(kind, default, cls)
    return options


def _values(options: Mapping[str, Option], given: Mapping[str, Given]) -> dict[str, Any]:
    return {n: _typed(o.kind, given[n]) if n in given else o.default for n, o in options.items()}


def _build(cls: Any, values: Mapping[str, Any], given: Mapping[str, Given], prefix: str = "") -> Any:
    """``cls`` from the typed values of all its options; what its ``__post_init__`` refuses is a UserError."""
    kinds = get_type_hints(cls)
    names = {field.name: prefix + field.name for field in fields(cls) if field.init}
    arguments = {
        leaf: _build(kinds[leaf], values, given, f"{name}.") if is_dataclass(kinds[leaf]) else values[name]
        for leaf, name in names.items()
    }
    try:
        return cls(**arguments)
    except (ValueError, UserError) as error:
        message = str(error)
        written = [(n.removeprefix(prefix), g.where) for n, g in given.items() if n.startswith(prefix)]
        spelt = {n: re.compile(rf"(?<!\w){n.replace('_', '[-_]')}(?!\w)") for n, _ in written}
        named = [where for n, where in written if spelt[n].search(message)]
        blamed = named or [where for _, where in written] or [dashed(prefix.rstrip("."))] * bool(prefix)
        where = ", ".join(dict.fromkeys(w for w in blamed if w not in message))
        raise UserError(f"{where}: {message}" if where else message) from error


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# ---- what was written to typed values


def _typed(kind: Any, given: Given) -> Any:
    """What was written, as the option's type. Raises UserError with what was expected instead."""
    value, where, is_text = given
    if NoneType in members(kind) and (value is None or (is_text and value == "null")):
        return None
    nested = [m for m in members(kind) if get_origin(m) in (tuple, dict) or is_dataclass(m)]
    if nested and is_text and isinstance(value, str) and value.startswith(("[", "{")):
        try:
            value = yaml.load(value, Loader=yaml.BaseLoader)  # text alone, typed below
        except yaml.YAMLError:
            raise _mistake(kind, given) from None
    for shape in nested:
        if get_origin(shape) is tuple and not isinstance(value, dict) and value is not None:
            return _typed_tuple(shape, Given(value, where, is_text))
        if get_origin(shape) is dict and isinstance(value, dict):
            key, item = get_args(shape)
            return {
                _typed(key, Given(str(k), where, True)): _typed(item, Given(v, f"{where}.{k}", is_text))
                for k, v in value.items()
            }
        if is_dataclass(shape) and isinstance(value, dict):
            options = _options(shape)
            inner = dict(flatten(value, options, where, is_text=is_text))
            values = _values(options, inner)
            if missing := [name for name, item in values.items() if item is MISSING]:
                raise UserError(f"{where}: {', '.join(missing)} must be given")
            return _build(shape, values, inner)
    if isinstance(value, str) and str in members(kind) and not is_text:
        return value
    try:
        typed = _parser_of(kind).parse_object({"value": value}).value
    except ArgumentError:
        typed = None  # as for a None that the type does not allow, which jsonargparse lets pass
    if typed is None:
        raise _mistake(kind, given)
    return typed


def _typed_tuple(kind: Any, given: Given) -> tuple[Any, ...]:
    value, where, is_text = given
    if isinstance(value, str):
        value, is_text = [item.strip() for item in value.split(",")] if value else [], True
    items = value if isinstance(value, list) else [value]
    kinds = get_args(kind)
    if kinds[1:] == (Ellipsis,):
        kinds = kinds[:1] * len(items)
    if len(kinds) != len(items) or (is_text and "" in items):
        raise _mistake(kind, given)
    return tuple(_typed(k, Given(item, where, is_text)) for k, item in zip(kinds, items))


@cache
def _parser_of(kind: Any) -> Any:
    from jsonargparse import ArgumentParser  # a seventh of a second that most importers never need

    # jsonargparse takes the first member that fits: int before float keeps 64 an int, and text comes last.
    order = [bool, int, float]
    strict_first = sorted(members(kind), key=lambda m: order.index(m) if m in order else 4 if m is str else 3)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=Union[tuple(strict_first)])  # noqa: UP007
    return parser


def _mistake(kind: Any, given: Given) -> UserError:
    value, where, _ = given
    choices = [str(choice) for member in members(kind) for choice in get_args(member)]
    if isinstance(value, str) and all(get_origin(m) is Literal for m in members(kind) if m is not NoneType):
        return UserError(f"{where}: {value!r} is not a choice{nearest(value, choices)}")
    quotes = " (write it in quotes)" if isinstance(value, int | float) and str in members(kind) else ""
    return UserError(f"{where}: expected {_expected(kind)}, got {value!r}{quotes}")


_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def _expected(kind: Any) -> str:
    words = []
    for member in members(kind):
        if get_origin(member) is Literal:
            words += [str(choice) for choice in get_args(member)]
        elif get_origin(member) is tuple:
            items = ("..." if item is ... else _expected(item) for item in get_args(member))
            words.append(f"a list ({', '.join(items)})")
        else:
            words.append(_EXPECTED.get(member, "a mapping"))
    return " or ".join(words)


# ---- help


def _print_help(
    cls: Any, options: Mapping[str, Option], prog: str, example: str, positional: Sequence[str]
) -> None:
    """Print every option with its attribute docstring and default, as jsonargparse lays it out."""
    from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
        """Keeps the example's own line breaks."""

    free = [n.upper() if options[n].default is MISSING else f"[{n.upper()}]" for n in positional]
    parser = ArgumentParser(
        prog=prog,
        usage=" ".join([prog, *free, "[--option VALUE ...]"]),
        description=_first_paragraph(cls),
        epilog=f"Example:\n  {example}",
        formatter_class=Formatter,
    )
    parser.add_argument("--config", default=SUPPRESS, metavar="FILE", help="YAML with any of these options.")
    parser.add_argument("--print-config", default=SUPPRESS, action="store_true", help="Print it all as YAML.")
    groups = {"": parser}
    for name, option in options.items():
        prefix, _, leaf = name.rpartition(".")
        if prefix not in groups:
            groups[prefix] = parser.add_argument_group(prefix, _first_paragraph(option.owner))
        words: dict[str, Any] = {"help": _attribute_docs(option.owner).get(leaf), "type": option.kind}
        if any(map(is_dataclass, (m for o in members(option.kind) for m in (o, *get_args(o))))):
            words["type"] = list[dict]  # else jsonargparse adds an option of its own, --arms.help
        if option.default is not MISSING:
            words["default"] = _as_typed(option.default)
        if name in positional:
            nargs = {False: ("?", None), True: ("*", "+")}[is_list(option.kind)][option.default is MISSING]
            parser.add_argument(name, nargs=nargs, metavar=name.upper(), **words)
        elif option.kind is bool and option.default is not MISSING:
            del words["type"]
            groups[prefix].add_argument(dashed(name), action=ActionYesNo(no_prefix="no-"), **words)
        else:
            groups[prefix].add_argument(dashed(name), required=option.default is MISSING, **words)
    parser.print_help()


def _first_paragraph(cls: Any) -> str:
    text = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
    return "" if text.startswith(f"{cls.__name__}(") else " ".join(text.split())  # dataclass's own stand-in


@cache
def _attribute_docs(cls: Any) -> dict[str, str]:
    from docstring_parser import parse_from_object

    params = (p for base in reversed(cls.__mro__[:-1]) for p in parse_from_object(base).params)
    return {p.arg_name: " ".join((p.description or "").split()) for p in params}


def _as_typed(value: Any) -> str:
    """A default as it would be typed on the command line."""
    if isinstance(value, tuple | list):
        return ",".join(map(_as_typed, value)) or "[]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
