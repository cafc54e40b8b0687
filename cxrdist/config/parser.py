"""The configuration of one command: dataclass defaults < YAML files < command line, and one line for any mistake.

argparse splits the command line and prints the help; pydantic checks the types and builds the dataclass.
"""

from __future__ import annotations

import csv
import inspect
import json
import math
import re
import sys
from argparse import SUPPRESS, Action, ArgumentError, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from cxrdist import logs
from cxrdist.config.yaml_files import dump_yaml, find, load_yaml
from cxrdist.errors import OptionError, UserError, nearest
from cxrdist.ranks import is_main_rank

T = TypeVar("T")

_places: dict[str, str] = {}
"""Where the values of the last parsed configuration were written, by the names of the options."""


EXPECTED = {
    "bool_type": "a valid boolean",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "float_type": "a valid number",
    "int_from_float": "a valid integer",
    "int_type": "a valid integer",
    "string_type": "a valid string",
    "tuple_type": "a list",
}
"""What a value should have been, by the type of pydantic's error."""


class Option(NamedTuple):
    """One leaf of a configuration; its name is dotted, as in ``tracking.mode``."""

    kind: Any
    default: Any  # MISSING if the option is required
    owner: Any  # the dataclass that declares it


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
    ``positional`` names the fields that may be given without their option; the last one may be a tuple.
    ``--help`` and ``--print-config`` print and raise SystemExit(0); ``--log-level`` sets the level of the log. Raises
    UserError for every mistake.
    """
    options = _options(cls)
    parser = _parser(cls, options, prog, example, positional)
    line = _read_argv(parser, sys.argv[1:] if argv is None else argv, options, positional)
    logs.configure(line.pop("log_level", None))
    values = {name: option.default for name, option in options.items() if option.default is not MISSING}
    places = {name: name.upper() if name in positional else _dashed(name) for name in options}
    print_config, files = line.pop("print_config", False), line.pop("config", [])
    for file in [str(default_config), *files] if default_config else files:
        named = (
            file if Path(file).is_file() else str(find(file))
        )  # as it was written, unless it is the clone's
        for name, value in _leaves(load_yaml(named), options, named):
            values[name], places[name] = _to_json(options[name].kind, value), f"{named}: {name}"
    for name, (value, place) in line.items():
        values[name], places[name] = _to_json(options[name].kind, value, is_word=True), place
    _places.clear()
    _places.update(places)
    if print_config:
        if is_main_rank():
            print(dump_yaml(_plain(_nest({name: values.get(name) for name in options}))), end="")
        raise SystemExit(0)

    from pydantic import TypeAdapter, ValidationError  # takes a tenth of a second, which --help saves

    tree = json.dumps([_nest(values)], default=asdict)
    adapter: Any = TypeAdapter(tuple[cls], config={"extra": "forbid"})  # type: ignore[valid-type]
    try:
        (config,) = adapter.validate_json(tree, strict=True)
    except ValidationError as error:
        raise _mistake(error.errors(include_url=False), options, places, prog) from None
    return cast(T, config)


@contextmanager
def reported_where_written() -> Iterator[None]:
    """Parse a configuration and use it in this block: an OptionError that is raised in the block becomes a UserError
    with the place where the value was written, ``--lr`` or a YAML file and its key."""
    try:
        yield
    except OptionError as error:
        place = _places.get(error.field, _dashed(error.field))
        raise UserError(f"{place}: {error.reason}", is_named=error.is_named) from error
    finally:
        _places.clear()


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain nested dicts, lists and scalars, in the order of the fields."""
    return _plain(asdict(config))


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML: ``--config`` with it gives an equal object."""
    return dump_yaml(to_dict(config))


# ---- options by their dotted names


def _options(cls: Any, prefix: str = "", instance: Any = None) -> dict[str, Option]:
    """Every option by its dotted name. ``instance`` is the outer field's default."""
    kinds = get_type_hints(cls)
    options: dict[str, Option] = {}
    for field in fields(cls):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = getattr(instance, field.name, default)
        if is_dataclass(kinds[field.name]):
            options |= _options(kinds[field.name], f"{prefix}{field.name}.", default)
        else:
            options[prefix + field.name] = Option(kinds[field.name], default, cls)
    return options


def _leaves(
    tree: Mapping[Any, Any], options: Mapping[str, Option], file: str, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """The values of a YAML mapping by the names of their options. Raises UserError for an unknown key."""
    for key, value in tree.items():
        name = prefix + str(key).replace("-", "_")
        if name in options:
            yield name, value
        elif not any(option.startswith(f"{name}.") for option in options):
            raise UserError(f"{file}: no such option {name!r}{_spelling(name, options)}")
        elif isinstance(value, dict):
            yield from _leaves(value, options, file, f"{name}.")
        elif value is not None:  # a group that holds only comments is null
            raise UserError(f"{file}: {name}: expected a mapping, got {value!r}")


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted names to nested mappings."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, leaf = name.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = value
    return tree


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(tree, default=asdict))
    return plain


def _members(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _item_kind(kind: Any) -> Any:
    """The type of a list's items, None if ``kind`` is no list."""
    return next((get_args(member)[0] for member in _members(kind) if get_origin(member) is tuple), None)


def _is_list(text: str) -> bool:
    """True for ``A,B`` and ``[A,B]``, False if one bracket is missing."""
    return text.startswith("[") == text.endswith("]")


def _to_json(kind: Any, value: Any, *, is_word: bool = False) -> Any:
    """``value`` as JSON for pydantic. A list may be written as ``A,B``, or as its only item.

    ``is_word``: a word of the command line, so ``64`` may be a number; the text ``'64'`` of a YAML file stays text.
    """
    if is_word and value == "null" and NoneType in _members(kind):
        return None
    if item_kind := _item_kind(kind):
        if isinstance(value, str) and _is_list(value):
            rows = csv.reader([value.removeprefix("[").removesuffix("]")], skipinitialspace=True)
            words = [word.strip() for word in next(rows, [])]
            return value if "" in words else [_to_json(item_kind, word, is_word=True) for word in words]
        items = [value] if isinstance(value, int | float) else value
        return (
            [_to_json(item_kind, item, is_word=is_word) for item in items]
            if isinstance(items, list)
            else items
        )
    for number in (int, float) if is_word else ():  # the narrowest type first
        if number in _members(kind):
            with suppress(ValueError):
                typed = number(value)
                return value if math.isnan(typed) else typed
    return value


# ---- mistakes


def _mistake(
    errors: list[Any], options: Mapping[str, Option], places: Mapping[str, str], prog: str
) -> UserError:
    """One line for what pydantic found: the first wrong value, else all that is missing."""
    wrong = [error for error in errors if error["type"] != "missing"]
    if not wrong:
        missing = ", ".join(_place(error["loc"][1:], options, places) for error in errors)
        return UserError(f"{missing}: must be given; see {prog} --help")
    kind, path, value = wrong[0]["type"], wrong[0]["loc"][1:], wrong[0]["input"]
    reason = wrong[0]["msg"]
    place = _place(path, options, places)
    if isinstance(cause := wrong[0].get("ctx", {}).get("error"), OptionError):
        place, reason = _place((*path, cause.field), options, places), cause.reason
    elif kind == "unexpected_keyword_argument":
        reason = "no such option"
    elif kind == "literal_error":
        choices = [choice for member in _members(options[".".join(path)].kind) for choice in get_args(member)]
        reason = f"{value!r} is not a choice{nearest(str(value), choices)}"
    elif kind == "tuple_type" and isinstance(value, str) and _is_list(value):
        reason = f"empty item in {value!r}"
    elif kind in EXPECTED:
        same = [error for error in wrong if _place(error["loc"][1:], options, places) == place]
        expected = [
            error["ctx"]["expected"] if error["type"] == "literal_error" else EXPECTED[error["type"]]
            for error in same
            if error["type"] == "literal_error" or error["type"] in EXPECTED
        ]
        quotes = (
            " (write it in quotes)" if isinstance(value, int | float) and "a valid string" in expected else ""
        )
        reason = f"expected {' or '.join(expected)}, got {value!r}{quotes}"
    return UserError(f"{place}: {reason}")


def _place(path: Sequence[str | int], options: Mapping[str, Option], places: Mapping[str, str]) -> str:
    """Where the value at pydantic's path was written: ``--lr``, or a file, its key and the item within it."""
    for length in range(len(path), 0, -1):
        name = ".".join(map(str, path[:length]))
        if name in options:
            is_union = len({*_members(options[name].kind)} - {NoneType}) > 1
            within = [] if is_union else path[length:]  # in a union, pydantic adds the member that it tried
            steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in within)
            return places[name] + "".join(steps)
    return ".".join(map(str, path))


def _spelling(word: str, known: Iterable[str]) -> str:
    known = list(known)
    # `--mode` and `--tracking` mean `--tracking.mode`, though the spellings differ much.
    related = [k for k in known if k.endswith("." + word.lstrip("-")) or k.startswith(word + ".")]
    return f"; did you mean {related[0]!r}?" if len(related) == 1 else nearest(word, known)


# ---- the command line


OTHER_SPELLINGS = {"run": ["--run-folder"]}
"""torchrun takes --run for an abbreviation of its own --run-path, and stops."""
LIST_HINT = "a list is written with commas, as in A,B"


class _Once(Action):
    """Stores a value with its option, and refuses an option that occurs twice."""

    def __init__(self, *args: Any, is_list: bool, **words: Any) -> None:
        super().__init__(*args, **words)
        self.is_list = is_list

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if hasattr(namespace, self.dest):
            remedy = LIST_HINT if self.is_list else "remove one"
            raise ArgumentError(self, f"given twice; {remedy}")
        value = option_string == self.option_strings[0] if self.nargs == 0 else values
        setattr(namespace, self.dest, (value, option_string))


def _read_argv(
    parser: ArgumentParser, argv: Sequence[str], options: Mapping[str, Option], positional: Sequence[str]
) -> dict[str, Any]:
    """What the command line gives, by the names of the options. Raises UserError for an unknown option."""
    stop = [*argv, "--"].index("--")
    if {"-h", "--help"} & {*argv[:stop]}:
        if is_main_rank():
            parser.print_help()
        raise SystemExit(0)
    words: list[str] = []
    for word in argv[:stop]:
        flag, equals, text = word.partition("=")
        if word.startswith("--"):
            flag = flag.replace("_", "-")
            if equals and (action := parser._option_string_actions.get(flag)) and action.nargs == 0:
                raise UserError(f"{flag}: takes no value{_opposite(flag, text, action)}")
            words.append(flag + equals + text)
        elif re.match(r"-\.?\d", word) and words and words[-1].startswith("--"):
            words[-1] += f"={word}"  # argparse would take -1,2 or -1e-4 for an option
        else:
            words.append(word)
    try:
        namespace, free = parser.parse_known_args(words)
    except ArgumentError as error:
        raise UserError(f"{error.argument_name}: {error.message}") from None
    if unknown := [word.partition("=")[0] for word in free if word.startswith("-") and word != "-"]:
        raise UserError(f"{unknown[0]}: no such option{_spelling(unknown[0], parser._option_string_actions)}")
    line, free = vars(namespace), [*free, *argv[stop + 1 :]]
    for name in (name for name in positional if free and name not in line):
        takes_all = _item_kind(options[name].kind) is not None
        line[name] = (free if takes_all else free[0], name.upper())
        free = [] if takes_all else free[1:]
    if free:
        hint = f"; {LIST_HINT}" if _follows_list(free[0], words, parser) else ""
        raise UserError(f"{parser.prog}: unexpected argument {free[0]!r}{hint}")
    return line


def _opposite(flag: str, text: str, action: Action) -> str:
    """For ``--fast=false``: ``; use --no-fast``."""
    others = [other for other in action.option_strings if other != flag]
    is_false = text.lower() in ("false", "no", "off", "0")
    return f"; use {others[0]}" if is_false and isinstance(action, _Once) else ""


def _follows_list(word: str, words: Sequence[str], parser: ArgumentParser) -> bool:
    """True if the last option before ``word`` takes a list, as in ``--classes A B``."""
    before = words[: words.index(word)] if word in words else []
    flags = [w.partition("=")[0] for w in before if w.startswith("--")]
    action = parser._option_string_actions.get(flags[-1]) if flags else None
    return isinstance(action, _Once) and action.is_list


def _parser(
    cls: Any, options: Mapping[str, Option], prog: str, example: str, positional: Sequence[str]
) -> ArgumentParser:
    free = [n.upper() if options[n].default is MISSING else f"[{n.upper()}]" for n in positional]
    parser = ArgumentParser(
        prog=prog,
        usage=" ".join([prog, *free, "[--option VALUE ...]"]),
        description=_first_paragraph(cls),
        epilog=f"Example:\n  {example}",
        formatter_class=RawDescriptionHelpFormatter,
        argument_default=SUPPRESS,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--config", action="append", metavar="FILE", help="YAML file with any of these options."
    )
    parser.add_argument("--print-config", action="store_true", help="Print the configuration as YAML.")
    log_level = "Show warnings and notes from this level on (default: info, or CXRDIST_LOG_LEVEL)"
    parser.add_argument("--log-level", metavar=f"{{{','.join(logs.LEVELS)}}}", help=log_level)
    groups: dict[str, Any] = {"": parser}
    for name, option in options.items():
        prefix, _, leaf = name.rpartition(".")
        if prefix not in groups:
            groups[prefix] = parser.add_argument_group(prefix, _first_paragraph(option.owner))
        is_flag = bool in _members(option.kind)
        flags = [_dashed(name), *([_dashed(f"no-{name}")] if is_flag else OTHER_SPELLINGS.get(name, []))]
        words: dict[str, Any] = {"nargs": 0} if is_flag else {"metavar": _metavar(option.kind)}
        words["is_list"] = _item_kind(option.kind) is not None
        default = "required" if option.default is MISSING else f"default: {_as_typed(option.default)}"
        text = f"{_attribute_docs(option.owner).get(leaf, '')} ({default})".replace("%", "%%")
        groups[prefix].add_argument(*flags, dest=name, action=_Once, help=text, **words)
    return parser


def _dashed(name: str) -> str:
    """``label_rule`` as it is typed: ``--label-rule``; ``from_``, since ``from`` is no name in Python: ``--from``."""
    return "--" + name.rstrip("_").replace("_", "-")


def _metavar(kind: Any) -> str:
    """``INT|null``, ``STR,...`` or ``{a,b}``."""
    if get_origin(kind) in (Literal, tuple):
        args = get_args(kind)
        return f"{{{','.join(args)}}}" if get_origin(kind) is Literal else f"{_metavar(args[0])},..."
    members = _members(kind)
    if len(members) > 1:
        return "|".join(map(_metavar, members))
    return "null" if kind is NoneType else kind.__name__.upper()


def _as_typed(value: Any) -> str:
    """A default as it is written on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(_as_typed, value)) or "[]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _first_paragraph(cls: Any) -> str:
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


@cache
def _attribute_docs(cls: Any) -> dict[str, str]:
    from docstring_parser import parse_from_object

    params = (p for base in reversed(cls.__mro__[:-1]) for p in parse_from_object(base).params)
    return {p.arg_name: " ".join((p.description or "").split()) for p in params}
