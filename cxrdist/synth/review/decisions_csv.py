"""Decisions of reviewers from a CSV file with the columns key, decision, reviewer, reason and time, in any order."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cxrdist.errors import UserError, nearest
from cxrdist.synth.review.decision import Given

COLUMNS = ("key", "decision", "reviewer", "reason", "time")
DELIMITERS = ",;\t"


def read_csv(path: Path) -> list[Given]:
    """The decisions as they are given, each with its line. Raises UserError for a file that is no such table."""
    other = "name a CSV file of decisions, or a database with --from"
    try:
        # utf-8-sig: spreadsheets begin a file with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; {other}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8; {other}") from None
    header = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=header.count)  # spreadsheets of some countries write semicolons
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return list(_rows(reader, path))
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: not CSV ({error})") from None


def _rows(reader: Any, path: Path) -> Iterator[Given]:
    columns = [name.strip() for name in next(reader, [])]
    if lacking := [name for name in COLUMNS if name not in columns]:
        raise UserError(
            f"{path}: its first line lacks the column{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}; it must "
            f"name {', '.join(COLUMNS)}"
        )
    if wrong := [name for name in columns if name not in COLUMNS or columns.count(name) > 1]:
        detail = (
            "named twice" if wrong[0] in COLUMNS else f"no column of decisions{nearest(wrong[0], COLUMNS)}"
        )
        raise UserError(f"{path}: column {wrong[0]!r}: {detail}")
    line = reader.line_num + 1
    for row in reader:
        if row:
            fields = dict(zip(columns, (field.strip() for field in row)))
            is_whole = len(row) == len(columns)
            yield Given(
                where=f"line {line}",
                key=fields.get("key", ""),
                decision=fields.get("decision", ""),
                reviewer=fields.get("reviewer", ""),
                reason=fields.get("reason", ""),
                time=fields.get("time") or None,
                problem="" if is_whole else f"{len(row)} fields instead of {len(columns)}",
            )
        line = reader.line_num + 1
