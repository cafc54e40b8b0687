"""Warnings and notes of the package, through the standard ``logging`` under the logger ``cxrdist``.

    log = logging.getLogger(__name__)
    log.warning("%s images name no patient", count)

A command shows them on stderr, those of rank 0 alone. A program that imports cxrdist redirects or silences them as
it does any library's. What a command was asked to print (a table, a path, progress) is not logged: see console.py.
"""

from __future__ import annotations

import logging
import os
import sys

from cxrdist.errors import UserError, nearest, shown
from cxrdist.ranks import is_main_rank
from cxrdist.stop_signals import is_stopping

LEVELS = ("debug", "info", "warning", "error")
LEVEL_VARIABLE = "CXRDIST_LOG_LEVEL"
EVERY_RANK = {"every_rank": True}
"""``log.warning(message, extra=EVERY_RANK)``: only this rank knows of it, so it is shown whatever the rank is."""


def configure(level: str | None = None) -> None:
    """Show the log of the package on stderr, from ``level`` on: by default that of CXRDIST_LOG_LEVEL, else info.

    Child processes inherit the level. Calling it again changes the level. Raises UserError for an unknown level.
    """
    source = "--log-level" if level else LEVEL_VARIABLE
    level = level or os.environ.get(LEVEL_VARIABLE) or "info"
    if level not in LEVELS:
        raise UserError(f"{source} {level}: unknown{nearest(level, LEVELS)}")
    os.environ[LEVEL_VARIABLE] = level
    logger = logging.getLogger("cxrdist")
    logger.setLevel(level.upper())
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        logger.addHandler(_Stderr())


def configure_child() -> None:
    """In a worker process: show the log as the process that started this one does, or not at all."""
    if LEVEL_VARIABLE in os.environ:
        configure()


class _Stderr(logging.Handler):
    """One line for each record, on whatever ``sys.stderr`` is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        if is_main_rank() or getattr(record, "every_rank", False):
            prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            try:
                print(prefix + shown(record.getMessage()), file=sys.stderr, flush=True)
            except BrokenPipeError:
                if not is_stopping():
                    raise
