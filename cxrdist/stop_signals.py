"""Signals that ask a process to stop: Ctrl-C, SIGTERM, SIGHUP (its terminal has closed), SIGUSR1 (Slurm's and others'
warning before they kill).

A command is interrupted where it is, by an exception; a training, between two steps, by ``stop_between_steps``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from cxrdist.ranks import was_launched

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
PR_SET_PDEATHSIG = 1
ORPHAN_STOPS_WITHIN_S = 30
"""Of a process whose launcher has ended: nobody else would kill it if it waits for a rank that is gone."""

_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
_received: list[int] = []
"""Stop signals of this process so far."""


class Stopped(KeyboardInterrupt):
    """A signal has stopped the command. Code that cleans up after Ctrl-C need not know the difference.

    ``exit_code``: 130 for Ctrl-C, else 143; ``how``: what is left to resume."""

    def __init__(self, exit_code: int, how: str) -> None:
        super().__init__(how)
        self.exit_code = exit_code


def is_stopping() -> bool:
    """True once this process has received a stop signal: who reads its output may have received it too, and have
    ended."""
    return bool(_received)


def exit_code_of(signum: int) -> int:
    """130 for SIGINT; 143, that of SIGTERM, for all others, since what they ask for is the same."""
    return 128 + (signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """In the ``with`` block the first stop signal raises Stopped; more of them, while the command cleans up, would
    leave workers waiting. A signal that is ignored stays so: whoever started this process (nohup) wants that."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    handled = [signum for signum, handler in before.items() if handler in _DEFAULTS]
    for signum in handled:
        signal.signal(signum, _interrupt)
    try:
        yield
    finally:
        for signum in handled:
            signal.signal(signum, before[signum])


def ignore_stop_signals() -> None:
    for signum in SIGNALS:
        if signal.getsignal(signum) is _interrupt:
            signal.signal(signum, signal.SIG_IGN)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    _received.append(signum)
    ignore_stop_signals()
    raise Stopped(exit_code_of(signum), "the same command resumes")


def signal_when_parent_ends(signum: int) -> None:
    """Make the kernel send this process a signal when the process that started it ends (Linux; elsewhere a no-op)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signum)


@dataclass
class StopRequest:
    """Whether this process was asked to stop."""

    signum: int | None = None
    """The first stop signal."""


@contextlib.contextmanager
def stop_between_steps() -> Iterator[StopRequest]:
    """In the ``with`` block stop signals are noted and nothing else; a second Ctrl-C raises KeyboardInterrupt.

    The end of the launcher counts as SIGTERM: a launcher of one process does not pass on the signal that it dies of.
    The handlers of before are there again after the block. In another thread than the main one, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    parent = os.getppid()

    def note(signum: int, frame: FrameType | None) -> None:
        if request.signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        request.signum = request.signum or signum
        _received.append(signum)
        if was_launched() and os.getppid() != parent:
            signal.alarm(ORPHAN_STOPS_WITHIN_S)

    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    handled = [signum for signum, handler in before.items() if handler != signal.SIG_IGN]
    for signum in handled:
        signal.signal(signum, note)
    if was_launched():
        signal_when_parent_ends(signal.SIGTERM)
    try:
        yield request
    finally:
        if was_launched():
            signal_when_parent_ends(signal.SIGKILL)
        for signum in handled:
            signal.signal(signum, before[signum])
        if request.signum is not None:
            ignore_stop_signals()
