"""Options as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def worded(options: Mapping[str, Any]) -> str:
    """``seed 0, fit pad``; what is not used is not told."""
    return ", ".join(
        f"{name.replace('_', ' ')} {option_words(value)}"
        for name, value in options.items()
        if value is not None
    )


def option_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {item}' for name, item in value.items())})"
    return f"({', '.join(map(str, value))})" if isinstance(value, list) else str(value)
