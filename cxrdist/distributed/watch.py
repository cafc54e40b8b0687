"""Finds out which rank of a job no longer answers, and ends the job with its name.

Each rank writes to the ranks' store that it is there, and reads whether the next rank is: rank 1 watches rank 2, the
last one rank 0. Who finds that its neighbour is not there tells all others through the store. This goes on in a
thread while a rank works or waits, so that work of any length on one rank is no reason to end.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch

from cxrdist.console import duration
from cxrdist.error_report import say_error

COLLECTIVE_TIMEOUT = 30.0
"""Minutes that a rank may be silent."""
LONGEST_PAUSE_S = 10.0
PAUSES = 8
"""In a timeout, unless that makes a pause longer than LONGEST_PAUSE_S."""


def pause_s(timeout_s: float) -> float:
    """Seconds between two looks at a neighbour."""
    return min(LONGEST_PAUSE_S, timeout_s / PAUSES)


def late_s(timeout_s: float) -> float:
    """Within how many seconds after a rank stopped every other one has ended; nothing else may end them earlier."""
    return timeout_s + 6 * pause_s(timeout_s) + 5


class Watch:
    """The watch of one rank. ``store``: of this start of the job; ``places``: each rank's name for people;
    ``timeout_s``: how long a rank may be silent; ``end``: what is called with the message, from a thread.

    Time is counted in pauses of this process, not by a clock: one that was itself stopped for a while does not take
    the others for lost.
    """

    def __init__(
        self,
        store: torch.distributed.Store,
        rank: int,
        places: Sequence[str],
        timeout_s: float,
        end: Callable[[str], None] | None = None,
    ) -> None:
        # For the threads below: the store's first connection may be waiting for something else.
        self._store: torch.distributed.Store = store.clone()  # type: ignore[attr-defined]  # torch's stubs lack it
        self._rank, self._places = rank, places
        self._timeout_s, self._pause_s = timeout_s, pause_s(timeout_s)
        self._end = end or self._end_process
        self._next = (rank + 1) % len(places)
        self._unchanged, self._unanswered = 0, 0
        self._is_off = threading.Event()
        self._has_ended = threading.Event()
        # In a thread of its own: a store whose host is gone may never answer.
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._look, self._wait_for_store)]
        self.is_judging = True
        """Whether a lost rank ends this one; not while this one does work of its own, for which it needs no other."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """The job is done, on all ranks."""
        self._is_off.set()

    def _look(self) -> None:
        """Say that this rank is there, and look whether the next one is."""
        before, turn = b"", 0
        while not self._is_off.is_set():
            turn += 1
            try:
                self._store.set(f"there/{self._rank}", str(turn))
                lost = self._store.get("lost").decode() if self._store.check(["lost"]) else ""
                there = f"there/{self._next}"
                now = self._store.get(there) if self._store.check([there]) else b""
            except RuntimeError:  # the store's host is gone; see _wait_for_store
                return
            self._unanswered = 0
            self._unchanged = self._unchanged + 1 if now == before and self.is_judging else 0
            before = now
            if not lost and self._unchanged * self._pause_s > self._timeout_s:
                lost = self._store.compare_set("lost", "", self._silent(self._next)).decode()
            if lost and self.is_judging:
                self._end_once(lost)
            self._is_off.wait(self._pause_s)

    def _wait_for_store(self) -> None:
        while not self._is_off.wait(self._pause_s):
            self._unanswered = self._unanswered + 1 if self.is_judging else 0
            if self._unanswered * self._pause_s > self._timeout_s:
                self._end_once(self._silent(0))

    def _silent(self, rank: int) -> str:
        """The message about a rank that is silent; the store lies on the host of rank 0."""
        return (
            f"stopped: {self._places[rank]} did not answer for {_time(self._timeout_s)} (--collective-timeout): it "
            "hangs, or its host or the network to it is lost; the same command resumes"
        )

    def _end_once(self, message: str) -> None:
        if not self._has_ended.is_set():
            self._has_ended.set()
            self._end(message)

    def _end_process(self, message: str) -> NoReturn:
        """End this process, whatever its main thread waits for."""
        say_error(message)
        # A rank that loses a connection before it has read the message would not know why.
        time.sleep(2 * self._pause_s)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(1)


def _time(seconds: float) -> str:
    return duration(seconds).removesuffix(" 00 s")
