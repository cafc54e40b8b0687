"""Finding YAML files, and a strict loader for them: YAML 1.2's scalars, and no key twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cxrdist.errors import UserError, nearest

_CLONE = Path(__file__).resolve().parents[2]


def find(relative: str) -> Path:
    """A file (``configs/gan/dcgan.yaml``) in the current folder, else in the clone that holds the package.

    Raises UserError with the places that were searched.
    """
    places = list(dict.fromkeys([Path.cwd() / relative, _CLONE / relative]))
    if found := next((place for place in places if place.is_file()), None):
        return found
    raise UserError(f"{relative}: no such file; looked for {' and '.join(map(str, places))}{_no_clone()}")


def find_named(kind: str, name: str) -> Path:
    """``find_named("mix", "ds3")`` is ``configs/mix/DS3.yaml``; the path of a YAML file is returned as it is.

    Raises UserError with the nearest existing name.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return find(name)
    folders = [root / "configs" / kind for root in (Path.cwd(), _CLONE)]
    files = [file for folder in folders for file in sorted(folder.glob("*.yaml"))]
    if found := next((file for file in files if file.stem.casefold() == name.casefold()), None):
        return found
    hint = (
        nearest(name, [file.stem for file in files])
        or f"; looked in {' and '.join(map(str, folders))}{_no_clone()}"
    )
    raise UserError(f"configs/{kind}: no {kind} is named {name!r}{hint}")


def _no_clone() -> str:
    no_clone = "; cxrdist was not installed from a clone: run this in the folder of a clone"
    return "" if (_CLONE / "configs").is_dir() else no_clone


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: ``1e-4`` is a number; ``no``, ``off``, ``1:30`` and ``012`` are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own hook)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value!r} occurs twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would not read as text."""


_FLOAT = (
    r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*([eE][-+]?\d+)?|\.(inf|Inf|INF))$"
)
for _tag, _pattern, _first in (
    ("null", r"(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9_]*)$", list("-+0123456789")),
    ("float", rf"{_FLOAT}|\.(nan|NaN|NAN)$", list("-+0123456789.")),
    ("merge", r"<<$", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern, re.ASCII), _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern, re.ASCII), _first)


def load_yaml(path: str | Path) -> dict[Any, Any]:
    """A YAML file as a plain mapping; a file that holds only comments is empty.

    Raises UserError with the file, and the line if it is known, if it is missing or is no such mapping.
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
    if tree is not None and not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping (key: value), got {type(tree).__name__}")
    return tree or {}


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """YAML in the order of the keys; `load_yaml` reads it back unchanged."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
