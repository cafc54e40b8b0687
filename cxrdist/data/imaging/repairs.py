"""Faults of an image file that reading it repaired: each is noted, so that an import can count and name them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_noted: ContextVar[list[str] | None] = ContextVar("repairs", default=None)


def repaired(what: str) -> None:
    """Note a repair of the file that is being read: a short phrase that depends only on the kind of fault."""
    noted = _noted.get()
    if noted is not None and what not in noted:
        noted.append(what)


@contextmanager
def noting() -> Iterator[list[str]]:
    """The repairs that are made inside the ``with`` block, each once, in the order they were made."""
    noted: list[str] = []
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)
