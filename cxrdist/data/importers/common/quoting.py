"""Quotation marks in tables: a stray one opens a cell that takes in the rows below, up to the next."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from cxrdist.errors import UserError

END = "\udcffend of the table"
"""A line that stands after the last. No file in UTF-8 has a lone surrogate."""

_QUOTED = re.compile(r'"[^"]*(?:""[^"]*)*"?')
_LINE_END = "\r\n"

log = logging.getLogger(__name__)


class Quoting:
    """Looks at the lines of each row that takes more than one."""

    def __init__(self, table: Path, separator: str, skips_spaces: bool) -> None:
        self._table = table
        self._separator = separator
        self._before = " " if skips_spaces else ""
        self._to_separator = re.compile(rf"[^{separator}\r\n]*")
        self._like_rows: list[tuple[int, int]] = []
        self._lines: list[str] = []

    def kept(self, lines: Iterable[str]) -> Iterator[str]:
        """``lines``, of which those since the last ``check`` are kept."""
        for line in lines:
            self._lines.append(line)
            yield line

    def check(self, columns: int, number: int) -> None:
        """Raises UserError if a quotation mark of the row that ends with line ``number`` is stray.

        ``columns``: of the table.
        """
        lines = self._lines[:]
        self._lines.clear()
        if len(lines) < 2:
            return
        begin = number - len(lines) + 1
        if lines[-1] == END:
            raise UserError(
                f"{self._table}, line {begin}: a quotation mark that is not closed takes in all lines below; close "
                "or remove it"
            )
        if not self._is_closed("".join(lines)):
            raise UserError(
                f"{self._table}, line {begin}: a quotation mark takes in lines up to {number}, where text follows "
                "the next one; remove both, or write each as two within a quoted cell"
            )
        first, most = self._count(lines[0]), max(map(self._count, lines[1:]))
        if columns > 1 and min(first, most) >= columns - 1:
            self._like_rows.append((begin, number))

    def tell(self) -> None:
        """Warn of rows that may have taken in others: their quotation marks stand where they may."""
        if self._like_rows:
            begin, end = self._like_rows[0]
            more = f", and {len(self._like_rows) - 1:,} more such rows" if len(self._like_rows) > 1 else ""
            log.warning(
                "%s: lines %d to %d are one row, since a quoted cell goes from one to the next, but look like "
                "several%s: if they are, remove the quotation marks at its ends",
                self._table,
                begin,
                end,
                more,
            )

    def _count(self, line: str) -> int:
        return line.count(self._separator)

    def _is_closed(self, text: str) -> bool:
        """Whether each quoted cell of several lines ends where a cell may: csv takes in what follows its end."""
        at = 0
        while at < len(text):
            while self._before and text.startswith(self._before, at):
                at += 1
            cell = _QUOTED.match(text, at)
            spans = cell is not None and any(end in cell[0] for end in _LINE_END)
            at = at if cell is None else cell.end()
            rest = self._to_separator.match(text, at)
            assert rest is not None
            if spans and rest[0].strip():
                return False
            at = rest.end() + 1
        return True
