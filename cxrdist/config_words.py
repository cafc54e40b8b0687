"""What a user wrote, and where: the words of a command line and the keys of a YAML, matched to options.

Nothing is typed here. Names are matched here rather than by jsonargparse, which would take ``--shard`` for
``--shards``, let a later ``--config`` override the options before it, and suggest no spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

import yaml

from cxrdist.errors import UserError, nearest

_CLONE = Path(__file__).resolve().parents[1]
_BOOL_WORDS = ("true", "false", "yes", "no", "null")


class Option(NamedTuple):
    """One leaf of a configuration; its name is dotted, as in ``tracking.mode``."""

    kind: Any
    default: Any  # dataclasses.MISSING where the option is required
    owner: Any  # the dataclass that it is a field of


class Given(NamedTuple):
    """A value as it was written, and where."""

    value: Any
    where: str  # "--lr", or "configs/gan/dcgan.yaml: lr"
    is_text: bool  # a word of the command line: '64' may yet be a number, while a YAML's '64' is text


class CommandLine(NamedTuple):
    """A command line, its names matched: the options, the files of ``--config``, ``--print-config``."""

    given: dict[str, Given]
    files: list[str]
    print_config: bool


def members(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def is_list(kind: Any) -> bool:
    """Whether a tuple fits: a list is written with commas, or as several positional arguments."""
    return any(get_origin(member) is tuple for member in members(kind))


def dashed(name: str) -> str:
    """``label_rule`` as it is typed: ``--label-rule``."""
    return "--" + name.replace("_", "-")


# ---- the command line


def read_argv(
    argv: Sequence[str], options: Mapping[str, Option], positional: Sequence[str], prog: str
) -> CommandLine:
    """Match words to options. Raises UserError for an unknown option or a missing value."""
    known = {dashed(name): name for name in options}
    no = {f"--no-{flag[2:]}": flag for flag, name in known.items() if bool in members(options[name].kind)}
    given: dict[str, Given] = {}
    files: list[str] = []
    free: list[str] = []
    print_config = False
    todo = list(argv)
    while todo:
        word = todo.pop(0)
        if word == "--":
            free += todo
            break
        if not _is_flag(word):
            free.append(word)
            continue
        flag, equals, text = word.partition("=")
        flag = flag.replace("_", "-")
        if flag == "--print-config" and not equals:
            print_config = True
            continue
        if flag in no and flag not in known and not equals:
            flag, text = no[flag], "false"
        elif flag not in known and flag != "--config":
            spelling = _spelling(flag, [*known, *no, "--config", "--print-config", "--help"])
            raise UserError(f"{flag}: no such option{spelling}")
        elif not equals:
            text = _take_value(flag, options[known[flag]].kind if flag in known else str, todo)
        if flag == "--config":
            files.append(text)
        else:
            given[known[flag]] = Given(text, flag, True)
    for name in positional:
        if free:
            takes_all = is_list(options[name].kind)
            given[name] = Given(free if takes_all else free[0], name.upper(), True)
            free = [] if takes_all else free[1:]
    if free:
        raise UserError(f"{prog}: unexpected argument {free[0]!r}; a list is written with commas, as in A,B")
    return CommandLine(given, files, print_config)


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word != "-" and not re.match(r"-\.?(\d|inf)", word)


def _take_value(flag: str, kind: Any, todo: list[str]) -> str:
    """The value of ``flag``, taken from the words that follow it; ``true`` for a bare bool."""
    following = todo[0] if todo and not _is_flag(todo[0]) else None
    if bool in members(kind):
        is_only_bool = set(members(kind)) <= {bool, NoneType}
        if following is None or (is_only_bool and following.lower() not in _BOOL_WORDS):
            return "true"
    if following is None:
        raise UserError(f"{flag}: needs a value")
    return todo.pop(0)


def _spelling(word: str, known: Iterable[str]) -> str:
    known = list(known)
    # '--mode' and '--tracking' mean something about '--tracking.mode', however unlike they look.
    related = [k for k in known if k.endswith("." + word.lstrip("-")) or k.startswith(word + ".")]
    return f"; did you mean {related[0]!r}?" if len(related) == 1 else nearest(word, known)


# ---- files


def find(relative: str) -> Path:
    """A file (``configs/gan/dcgan.yaml``) in the current folder, else in the package's own clone.

    Raises UserError that says where it looked.
    """
    places = list(dict.fromkeys([Path.cwd() / relative, _CLONE / relative]))
    for place in places:
        if place.is_file():
            return place
    raise UserError(f"{relative}: no such file; looked for {' and '.join(map(str, places))}{_no_clone()}")


def find_named(kind: str, name: str) -> Path:
    """``find_named("mix", "ds3")`` is ``configs/mix/DS3.yaml``; a path to a YAML is itself.

    Raises UserError with the nearest name that there is.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return find(name)
    folders = [root / "configs" / kind for root in (Path.cwd(), _CLONE)]
    known: dict[str, Path] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.yaml"))):
        known.setdefault(path.stem, path)
    for stem, path in known.items():
        if stem.casefold() == name.casefold():
            return path
    hint = nearest(name, known) or f"; looked in {' and '.join(map(str, folders))}{_no_clone()}"
    raise UserError(f"configs/{kind}: no {kind} is named {name!r}{hint}")


def _no_clone() -> str:
    if (_CLONE / "configs").is_dir():
        return ""
    return "; cxrdist was not installed from a clone: run this in the folder of a clone"


# ---- YAML


def flatten(
    tree: Mapping[Any, Any],
    options: Mapping[str, Option],
    where: str,
    *,
    is_text: bool = False,
    prefix: str = "",
) -> Iterator[tuple[str, Given]]:
    """The leaves of a YAML, by the names of their options. Raises UserError for a key that is no option."""
    groups = {name[: dot.start()] for name in options for dot in re.finditer(r"\.", name)}
    for key, value in tree.items():
        name = prefix + str(key).replace("-", "_")
        if name in options:
            yield name, Given(value, f"{where}: {name}", is_text)
        elif name not in groups:
            raise UserError(f"{where}: no such option {name!r}{_spelling(name, options)}")
        elif isinstance(value, dict):
            yield from flatten(value, options, where, is_text=is_text, prefix=f"{name}.")
        elif value is not None:  # nothing but comments below a group's key is None
            raise UserError(f"{where}: {name}: expected a mapping, got {value!r}")


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`: dotted names to nested mappings."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, leaf = name.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = value
    return tree


def read_yaml(file: str, options: Mapping[str, Option]) -> dict[str, Given]:
    """The options that a ``--config`` file gives."""
    try:
        path = find(file)
    except UserError as error:
        raise UserError(f"--config: {error}") from None
    named = file if Path(file).is_file() else str(path)  # as it was typed, unless it is the clone's
    return dict(flatten(load_yaml(named), options, named))


_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: ``1e-4`` is a number; ``no``, ``off``, ``1:30`` and ``012`` are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own hook)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value!r} stands twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


for _tag, _pattern, _first in (
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
    ("merge", re.compile(r"<<$"), ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)


class _Dumper(yaml.SafeDumper):
    """Quotes what either dialect would not read as text."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load_yaml(path: str | Path) -> dict[Any, Any]:
    """A YAML file as a plain mapping; one that holds only comments is empty.

    Raises UserError with the file, and the line where there is one, if it is missing or not such a mapping.
    """
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}, line {line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise UserError(f"{path}: not YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping (key: value), got {type(tree).__name__}")
    return tree


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """YAML in the order of the keys, which `load_yaml` reads back as it was."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
