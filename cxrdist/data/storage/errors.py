"""Errors of the places that hold shard sets."""

from __future__ import annotations

from cxrdist.errors import UserError


class UnreadableFile(UserError):
    """A file of a set that is there, or may be, but can't be read. ``reason`` says why, without the file's place."""

    def __init__(self, place: object, name: str, reason: str) -> None:
        super().__init__(f"{place}/{name}: {reason}" if name else f"{place}: {reason}")
        self.reason = reason
