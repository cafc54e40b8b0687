"""What this process has exchanged with stores at URLs, counted for the summary of a job."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Traffic:
    """Counts of one process, or of several together."""

    requests: int = 0
    """All that were sent, with those that were repeated."""
    retries: int = 0
    bytes: int = 0
    """Of the files, or parts of files, that were received and sent."""
    waited_s: float = 0.0
    """Time in which at least one request was being repeated. Of several processes: the longest."""

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.requests + other.requests,
            self.retries + other.retries,
            self.bytes + other.bytes,
            max(self.waited_s, other.waited_s),
        )


def summary_of(ranks: Iterable[Traffic]) -> dict[str, dict[str, float]]:
    """For the summary of a job, of what each rank counted; empty if no rank asked a store at a URL."""
    together = sum(ranks, Traffic())
    if not together.requests:
        return {}
    return {"storage": asdict(together) | {"waited_s": round(together.waited_s, 1)}}


_lock = threading.Lock()
_mine = Traffic()
_children = Traffic()
_repeating = 0
_since_s = 0.0


def count(*, requests: int = 0, retries: int = 0, bytes: int = 0) -> None:
    with _lock:
        _mine.requests += requests
        _mine.retries += retries
        _mine.bytes += bytes


@contextlib.contextmanager
def repeating() -> Iterator[None]:
    """A request is being repeated in this ``with`` block."""
    global _repeating, _since_s
    with _lock:
        if not _repeating:
            _since_s = time.monotonic()
        _repeating += 1
    try:
        yield
    finally:
        with _lock:
            _repeating -= 1
            if not _repeating:
                _mine.waited_s += time.monotonic() - _since_s


def taken() -> Traffic:
    """What was counted since the last call, for a worker process to report to the one that uses it."""
    global _mine
    with _lock:
        found, _mine = _mine, Traffic()
        return found


def add(of_child: Traffic) -> None:
    """Count what a worker process has reported. Its workers wait at the same time, so their times do not add up."""
    global _children
    with _lock:
        _children = Traffic(
            _children.requests + of_child.requests,
            _children.retries + of_child.retries,
            _children.bytes + of_child.bytes,
            _children.waited_s + of_child.waited_s,
        )


def so_far() -> Traffic:
    """Of this process and its workers, since it began."""
    with _lock:
        return _mine + _children
