"""Output of commands on stdout: result lines, and progress with the time left.

Warnings and notes are not printed but logged: see logs.py.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cxrdist.errors import shown
from cxrdist.ranks import is_main_rank
from cxrdist.stop_signals import is_stopping

if TYPE_CHECKING:
    import rich.progress

LINE_EVERY_S = 5.0
DRAW_EVERY_S = 0.2


def say(message: str, *, every_rank: bool = False) -> None:
    """Print a line of rank 0, or of this rank if ``every_rank``."""
    if every_rank or is_main_rank():
        print_line(message)


def print_line(message: str) -> None:
    """On stdout. Whoever reads it may end with the same signal as this process, as ``tee`` does at Ctrl-C: the rest
    is dropped then. Raises BrokenPipeError if it has ended before."""
    try:
        print(message, flush=True)
    except BrokenPipeError:
        if not is_stopping():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size_text(count: float) -> str:
    """``40960`` -> ``40.0 KiB``."""
    units = ("KiB", "MiB", "GiB", "TiB")
    power = next((n for n in range(1, len(units)) if count < 1024 ** (n + 1)), len(units))
    return f"{count / 1024**power:,.1f} {units[power - 1]}"


def options_text(options: Mapping[str, Any]) -> str:
    """Options as ``seed 0, fit pad``, without those that are None."""
    return ", ".join(
        f"{name.replace('_', ' ')} {option_text(value)}"
        for name, value in options.items()
        if value is not None
    )


def option_text(value: Any) -> str:
    """One value of ``options_text``: ``yes`` for True, lists and mappings in parentheses."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {item}' for name, item in value.items())})"
    return f"({', '.join(map(str, value))})" if isinstance(value, list) else str(value)


class Progress:
    """Progress of a task of ``total`` units: a live line on a terminal, a printed line every 5 s elsewhere, and one
    line at the end.

        with Progress("GAN Normal", total, "img") as progress:
            progress.at(done, "loss 0.3")

    ``start``: units that were done before. Only rank 0 shows it, or every rank with ``every_rank`` (never live).
    """

    def __init__(
        self, what: str, total: int, unit: str = "img", start: int = 0, *, every_rank: bool = False
    ) -> None:
        self.what, self.total, self.unit = shown(what), total, unit
        self.is_shown = every_rank or is_main_rank()
        self.start = self.done = start
        self.began_s = self.last_shown_s = time.monotonic()
        self.is_live = is_main_rank() and not every_rank and _can_redraw()
        self.note = ""
        self._live: rich.progress.Progress | None = None

    def __enter__(self) -> Progress:
        if self.is_live:
            self._live = _live_progress()
            self._live.start()
            fields: dict[str, Any] = self._fields()
            self._live.add_task(self.what, total=max(self.total, 1), completed=self.done, **fields)
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count more units as done."""
        self.at(self.done + count, note)

    def at(self, done: int, note: str = "") -> None:
        """Set the units done so far. An empty note keeps the last one."""
        self.done, self.note = done, note or self.note
        now = time.monotonic()
        if now - self.last_shown_s < (DRAW_EVERY_S if self.is_live else LINE_EVERY_S):
            return
        self.last_shown_s = now
        if self._live is not None:
            fields: dict[str, Any] = self._fields()
            self._live.update(self._live.task_ids[0], completed=done, refresh=True, **fields)
        elif self.is_shown:
            print_line("  ".join([self.what, *filter(None, self._fields().values())]))

    def _fields(self) -> dict[str, str]:
        """What is shown after the description: count, share, rate, time left, note."""
        seconds = max(time.monotonic() - self.began_s, 1e-9)
        rate = (self.done - self.start) / seconds
        return {
            "count": f"{self.done:,}/{self.total:,} {self.unit}",
            "share": f"{100 * self.done // max(self.total, 1)}%",
            "rate": f"{rate:,.0f} {self.unit}/s",
            "left": f"{duration((self.total - self.done) / rate)} left" if rate > 0 else "starting",
            "note": self.note,
        }

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            with contextlib.suppress(BrokenPipeError):
                self._live.stop()
        if kind is None and self.is_shown:
            seconds = time.monotonic() - self.began_s
            note = f"  {self.note}" if self.note else ""
            count = f"{self.done:,} {self.unit}"
            print_line(f"{self.what}  {count} in {duration(seconds)}{note}")


def _can_redraw() -> bool:
    """True if stdout is a terminal that can redraw a line."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _live_progress() -> rich.progress.Progress:
    """One line that is redrawn by ``update`` and removed by ``stop``."""
    # Imported late: it takes longer than all else that this module needs, and most commands print no progress.
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TextColumn

    names = ("description", *(f"fields[{name}]" for name in ("count", "share", "rate", "left", "note")))
    columns = [TextColumn(f"{{task.{name}}}", markup=False) for name in names]
    # Redrawn by this thread: a second one would take time from training between two steps.
    return RichProgress(*columns, console=Console(), auto_refresh=False, transient=True)
