"""The CSV tables of the sources: rows with their line numbers, checked cells, and errors that name table and line."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from cxrdist.data.deidentify import capped_age
from cxrdist.errors import CONTROL_CHARACTERS, UserError

SPLIT_OF = {
    "train": "train",
    "training": "train",
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    "test": "test",
    "testing": "test",
}
"""Words for a split in tables and file names -> train, val or test."""

Row = dict[str, str]
"""Column -> the cell's text, stripped and without control characters; "" if it is empty or the row too short."""

LONGEST_LINE = 2**20
"""Characters. A line without an end, compressed to a few kilobytes, would otherwise fill the memory."""
_VIEW_WORD = (
    "PA|AP|L|R|LL|RL|LAT|LATERAL|LLD|RLD|LLO|RLO|LAO|RAO|LPO|RPO|FRONTAL|POSTEROANTERIOR|ANTEROPOSTERIOR|LEFT|RIGHT|"
    "AXIAL|LORDOTIC|OBLIQUE|DECUBITUS|HORIZONTAL|SUPINE|ERECT|UPRIGHT|SITTING|PORTABLE|XTABLE|SWIMMERS|COSTAL"
)
_VIEW = re.compile(rf"(?:{_VIEW_WORD})(?:[ _-](?:{_VIEW_WORD}))*", re.IGNORECASE)


def find_table(root: Path, *names: str) -> Path:
    """The first of ``names``, plain or with ``.gz``, that exists in ``root``. Raises UserError if none does."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name the folder that holds {names[0]}")
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    wanted = names[0] if len(names) == 1 else f"neither {' nor '.join(names)}"
    verb = "holds no" if len(names) == 1 else "holds"
    raise UserError(f"{root}: {verb} {wanted}; name the folder that does")


def rows_of(table: Path, needed: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Yield ("<table>, line <n>", row) for each row of a CSV in UTF-8, plain or gzipped.

    The first text is the ``where`` of the functions below. Raises UserError if one of the ``needed`` columns is
    missing, if two columns have one name, or if the file is not a valid CSV or has no rows.
    """
    is_empty = True
    try:
        with _open(table) as file:
            reader = csv.DictReader(_lines(file, table))
            names = [(name or "").strip() for name in reader.fieldnames or ()]
            if missing := [name for name in needed if name not in names]:
                raise UserError(
                    f"{table}: lacks the columns {', '.join(missing)}; its columns are: {', '.join(names)}"
                )
            if twice := [name for name in names if name and names.count(name) > 1]:
                raise UserError(f"{table}: has two columns {twice[0]}; rename or remove one")
            reader.fieldnames = names
            for row in reader:
                is_empty = False
                if any(row.pop(None, ())):
                    raise UserError(
                        f"{table}, line {reader.line_num}: more cells than the {len(names)} columns; quote "
                        "those that hold a comma"
                    )
                yield (
                    f"{table}, line {reader.line_num}",
                    {k: CONTROL_CHARACTERS.sub(" ", v or "").strip() for k, v in row.items()},
                )
    except csv.Error as error:
        raise UserError(
            f"{table}, line {reader.line_num}: not a valid CSV row ({error}); look for an unclosed quotation "
            "mark, or download it again"
        ) from error
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{table}: is not a CSV table in UTF-8 ({error}); download it again") from error
    if is_empty:
        raise UserError(f"{table}: has no rows; download it again")


def _open(table: Path) -> IO[str]:
    if table.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(table), encoding="utf-8-sig", newline="")
    return table.open(newline="", encoding="utf-8-sig")


def _lines(file: IO[str], table: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise UserError(f"{table}, line {number}: longer than any valid row; download it again")
        yield line


def cell(row: Row, column: str, where: str) -> str:
    """A cell that must not be empty. Raises UserError if it is."""
    if not row[column]:
        raise UserError(f"{where}: no {column}; fill it in, or remove the line")
    return row[column]


class UniqueNames:
    """The names that a table has listed so far, each only once."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, name: str, where: str) -> None:
        """Raises UserError if the name has been added before."""
        if name in self._names:
            raise UserError(f"{where}: {name} is listed twice; remove one line")
        self._names.add(name)


def plain_name(text: str, column: str, where: str) -> str:
    """Check a file name without a folder, and return it. Raises UserError for anything else."""
    if Path(text).name != text or text in ("", ".", "..") or "\\" in text or "\0" in text:
        raise UserError(f"{where}: the {column} {text!r} is not a plain file name; remove the line")
    return text


def inner_path(text: str, column: str, where: str) -> str:
    """Check a path relative to a folder, and return it. Raises UserError if it is absolute or leads out of it."""
    path = Path(text)
    if not text or path.is_absolute() or ".." in path.parts or "\\" in text or "\0" in text:
        raise UserError(f"{where}: the {column} {text!r} leads out of the folder; remove the line")
    return path.as_posix()


def split_word(text: str, where: str) -> str | None:
    """train, val or test, from a word of ``SPLIT_OF``; None for "". Raises UserError for any other word."""
    if text and text.lower() not in SPLIT_OF:
        raise UserError(f"{where}: the split {text!r} is none of {', '.join(SPLIT_OF)}; write one of these")
    return SPLIT_OF.get(text.lower())


def sex_of(text: str) -> str | None:
    """M or F, from texts such as "M", "male" or "Female"; None for anything else."""
    first = text[:1].upper()
    return first if text.upper() in ("M", "F", "MALE", "FEMALE") else None


def view_of(text: str) -> str | None:
    """The projection, such as PA or AP_horizontal, if the text consists of such words alone; None otherwise."""
    return text if _VIEW.fullmatch(text) else None


def age_years(text: str) -> int | None:
    """Age in whole years from texts such as "58", "58.0", "058Y", "013M" or "009D"; None for anything else."""
    match = re.fullmatch(r"([0-9]{1,4})(?:\.[0-9]*)?([YMWD]?)", text.strip())
    if match is None:
        return None
    years = int(match[1]) // {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    return capped_age(years)
