"""Requests to a store at a URL, repeated while it does not answer, for a limited time.

    request -> an answer, or an error that no repetition heals (not allowed, not there): given to the caller
            -> no answer (busy, dropped, unreachable, cut off): pause, and again, until the time is over

Pauses double up to a quarter of a minute.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from cxrdist import logs
from cxrdist.data.storage import traffic
from cxrdist.errors import UserError

log = logging.getLogger(__name__)

LIMIT_VARIABLE = "CXRDIST_RETRY_MINUTES"
DEFAULT_LIMIT_S = 600.0
FIRST_LIMIT_S = 30.0
"""Of a store that has never answered: its address may be wrong."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
WARN_EVERY_S = 10.0

T = TypeVar("T")


class NoAnswer(Exception):
    """A store gave no answer in the time. ``last`` is its last error."""

    def __init__(self, last: Exception, retries: int, after_s: float) -> None:
        super().__init__(str(last))
        self.last, self.retries, self.after_s = last, retries, after_s


class Retries:
    """The requests to one store. ``reason(error)``: what is wrong, in a few words, if a repetition may heal it; else
    None. Thread-safe."""

    def __init__(
        self, place: str, reason: Callable[[Exception], str | None], *, has_answered: bool = False
    ) -> None:
        """``has_answered``: to another process of the same job. Raises UserError for an invalid limit."""
        self.place, self._reason = place, reason
        self.has_answered = has_answered
        self._limit_s = limit_s()
        self._lock = threading.Lock()
        self._warned_s = -math.inf
        self._failed_s: float | None = None
        self._retries = 0

    def until_answered(self, name: str, request: Callable[[], T]) -> T:
        """The result of ``request``, which is repeated while it raises an error that has a reason. Raises NoAnswer
        when the time is over, and every other error at once."""
        with ExitStack() as stack:
            began_s, retries, pause_s = 0.0, 0, FIRST_PAUSE_S
            while True:
                traffic.count(requests=1, retries=int(retries > 0))
                try:
                    result = request()
                except Exception as error:
                    reason = self._reason(error)
                    if reason is None:
                        self.has_answered = True
                        raise
                    now_s = time.monotonic()
                    if not retries:
                        began_s = now_s
                        stack.enter_context(traffic.repeating())
                    limit_s = self._limit_s if self.has_answered else min(self._limit_s, FIRST_LIMIT_S)
                    if now_s >= began_s + limit_s:
                        raise NoAnswer(error, retries, now_s - began_s) from error
                    retries += 1
                    # Random, so that the ranks do not ask at the same moment; the last try is at the end of the time.
                    left_s = began_s + limit_s - now_s
                    wait_s = left_s if left_s < pause_s else pause_s * random.uniform(0.5, 1)
                    self._note_failure(name, reason, retries, wait_s, limit_s)
                else:
                    self._note_answer()
                    return result
                time.sleep(wait_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _note_failure(self, name: str, reason: str, retries: int, wait_s: float, limit_s: float) -> None:
        with self._lock:
            now_s = time.monotonic()
            self._retries += 1
            if self._failed_s is None:
                self._failed_s = now_s
            # A first retry is nothing to speak of.
            if retries < 2 or now_s - self._warned_s < WARN_EVERY_S:
                return
            self._warned_s = now_s
        log.warning(
            "%s%s does not answer (%s): retry %d in %.1f s; gives up after %s",
            self.place,
            f"/{name}" if name else "",
            reason,
            retries,
            wait_s,
            in_minutes(limit_s),
            extra=logs.EVERY_RANK,
        )

    def _note_answer(self) -> None:
        self.has_answered = True
        if self._failed_s is None:
            return
        with self._lock:
            failed_s, retries = self._failed_s, self._retries
            self._failed_s, self._retries = None, 0
            was_warned = failed_s is not None and self._warned_s >= failed_s
        if was_warned and failed_s is not None:
            after_s = time.monotonic() - failed_s
            log.info(
                "%s answers again, after %.0f s and %d retries",
                self.place,
                after_s,
                retries,
                extra=logs.EVERY_RANK,
            )


def limit_s() -> float:
    """How long a request is repeated. Raises UserError for an invalid value of the environment variable."""
    given = os.environ.get(LIMIT_VARIABLE)
    if not given:
        return DEFAULT_LIMIT_S
    try:
        minutes = float(given)
    except ValueError:
        minutes = math.nan
    if not 0 <= minutes < math.inf:
        raise UserError(f"{LIMIT_VARIABLE}={given}: not a time; set a number of minutes, 0 to repeat nothing")
    return 60 * minutes


def in_minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.3g} min"
