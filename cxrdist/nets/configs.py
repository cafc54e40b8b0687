"""A network's config from parsed JSON, as it lies in ``model.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints


def config_of(kind: type, values: Mapping[str, Any]) -> Any:
    """A config dataclass from parsed JSON; lists become tuples where the field is one.

    Raises TypeError for an unknown or missing field or a value of another type, and what the dataclass raises.
    """
    hints = {field.name: get_type_hints(kind)[field.name] for field in dataclasses.fields(kind)}
    typed = dict(values)
    for name, value in values.items():
        if name not in hints:
            raise TypeError(f"unknown field {name}")
        hint = hints[name]
        if get_origin(hint) is Literal:
            fits = value in get_args(hint)
        elif get_origin(hint) is tuple:
            fits = type(value) is list and all(type(number) is get_args(hint)[0] for number in value)
            typed[name] = tuple(value) if fits else value
        else:
            fits = type(value) is hint or (hint is float and type(value) is int)
        if not fits:
            raise TypeError(f"{name} is {value!r}")
    return kind(**typed)
