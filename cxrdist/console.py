"""Progress and time left, on rank 0: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from cxrdist.process import is_main_rank

LINE_EVERY_S = 5.0


def say(message: str, *, every_rank: bool = False) -> None:
    """One line of rank 0, or of any rank where it alone knows."""
    if every_rank or is_main_rank():
        print(message, flush=True)


def duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def options_text(options: Mapping[str, Any]) -> str:
    """Options as ``seed 0, fit pad``; an option that is None is left out."""
    return ", ".join(
        f"{name.replace('_', ' ')} {option_text(value)}"
        for name, value in options.items()
        if value is not None
    )


def option_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {item}' for name, item in value.items())})"
    return f"({', '.join(map(str, value))})" if isinstance(value, list) else str(value)


class Progress:
    """Of rank 0; ``every_rank`` where each one works on something of its own.

    ``with Progress("GAN Normal", total, "img") as progress: progress.at(done, "loss 0.3")``."""

    def __init__(
        self, what: str, total: int, unit: str = "img", start: int = 0, *, every_rank: bool = False
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.is_shown = every_rank or is_main_rank()
        self.start = self.done = start
        self.began_s = self.last_line_s = time.monotonic()
        self.live = is_main_rank() and sys.stdout.isatty() and not every_rank
        self.note = ""

    def __enter__(self) -> Progress:
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        self.at(self.done + count, note)

    def at(self, done: int, note: str = "") -> None:
        self.done, self.note = done, note or self.note
        now = time.monotonic()
        if now - self.last_line_s >= (0.2 if self.live else LINE_EVERY_S):
            self.last_line_s = now
            self._show("\r" if self.live else "")

    def _show(self, before: str) -> None:
        if not self.is_shown:
            return
        seconds = max(time.monotonic() - self.began_s, 1e-9)
        rate = (self.done - self.start) / seconds
        left = f"{duration((self.total - self.done) / rate)} left" if rate > 0 else "starting"
        share = 100 * self.done // max(self.total, 1)
        line = f"{self.what}  {self.done:,}/{self.total:,} {self.unit}  {share}%  {rate:,.0f} {self.unit}/s  {left}"
        if self.note:
            line += f"  {self.note}"
        clear = "\x1b[K" if self.live else ""
        print(f"{before}{line}{clear}", end="" if self.live else "\n", flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            print("\r\x1b[K", end="", flush=True)
        if kind is None and self.is_shown:
            seconds = time.monotonic() - self.began_s
            note = f"  {self.note}" if self.note else ""
            count = f"{self.done:,} {self.unit}"
            print(f"{self.what}  {count} in {duration(seconds)}{note}", flush=True)
