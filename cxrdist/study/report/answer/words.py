"""Differences and lists in words, for the answer and the page."""

from __future__ import annotations

from collections.abc import Sequence


def signed(points: float) -> str:
    """``+2.1`` or ``−2.1``, with a true minus sign; ``0.0`` has none."""
    text = f"{points:+.1f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def joined(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
