"""The CSV tables of the sources: rows with their line, and the words for what is wrong with one."""

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
"""Words for a split, as tables and file names use them."""

Row = dict[str, str]
"""Column -> the cell's text without control characters, stripped; "" where it is empty or the row too short."""

LONGEST_LINE = 2**20
"""Characters. A line that never ends, packed into a few kilobytes of .gz, would fill the memory."""
_VIEW_WORD = (
    "PA|AP|L|R|LL|RL|LAT|LATERAL|LLD|RLD|LLO|RLO|LAO|RAO|LPO|RPO|FRONTAL|POSTEROANTERIOR|ANTEROPOSTERIOR|LEFT|RIGHT|"
    "AXIAL|LORDOTIC|OBLIQUE|DECUBITUS|HORIZONTAL|SUPINE|ERECT|UPRIGHT|SITTING|PORTABLE|XTABLE|SWIMMERS|COSTAL"
)
_VIEW = re.compile(rf"(?:{_VIEW_WORD})(?:[ _-](?:{_VIEW_WORD}))*", re.IGNORECASE)


def find_table(root: Path, *names: str) -> Path:
    """The first of ``names`` (each also with ``.gz``) in ``root``. Raises UserError where there is none."""
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
    """("<table>, line <n>", row) of a CSV in UTF-8, plain or gzipped.

    Raises UserError where it lacks one of the ``needed`` columns or has two of one name, is no such CSV, or has no
    rows.
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
            f"{table}, line {reader.line_num}: no row of a CSV table ({error}); look for a quotation mark that is "
            "never closed, or download it again"
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
            raise UserError(f"{table}, line {number}: longer than any row can be; download it again")
        yield line


def cell(row: Row, column: str, where: str) -> str:
    """A cell that must hold something. Raises UserError where it does not."""
    if not row[column]:
        raise UserError(f"{where}: no {column}; put it in, or remove the line")
    return row[column]


def once(seen: set[str], name: str, where: str) -> None:
    """Adds a name to those that were seen. Raises UserError where it is among them."""
    if name in seen:
        raise UserError(f"{where}: {name} is listed twice; remove one line")
    seen.add(name)


def plain_name(text: str, column: str, where: str) -> str:
    """A file's name without a folder. Raises UserError for one that could lead elsewhere."""
    if Path(text).name != text or text in ("", ".", "..") or "\\" in text or "\0" in text:
        raise UserError(f"{where}: the {column} {text!r} is not a plain file name; remove the line")
    return text


def inner_path(text: str, column: str, where: str) -> str:
    """A path below a folder. Raises UserError for one that is absolute or could lead out of it."""
    path = Path(text)
    if not text or path.is_absolute() or ".." in path.parts or "\\" in text or "\0" in text:
        raise UserError(f"{where}: the {column} {text!r} leads out of the folder; remove the line")
    return path.as_posix()


def split_word(text: str, where: str) -> str | None:
    """train, val or test, from these or another common word for one; None for "".

    Raises UserError for any other word.
    """
    if text and text.lower() not in SPLIT_OF:
        raise UserError(f"{where}: the split {text!r} is none of {', '.join(SPLIT_OF)}; write one of these")
    return SPLIT_OF.get(text.lower())


def sex_of(text: str) -> str | None:
    """M or F, from "M", "male", "Female" ...; None for anything else."""
    first = text[:1].upper()
    return first if text.upper() in ("M", "F", "MALE", "FEMALE") else None


def view_of(text: str) -> str | None:
    """How the image was taken, such as PA or AP_horizontal; None for anything that is more than such words."""
    return text if _VIEW.fullmatch(text) else None


def age_years(text: str) -> int | None:
    """Whole years from "58", "58.0", "058Y", "013M", "009D"; None where it cannot be one."""
    match = re.fullmatch(r"([0-9]{1,4})(?:\.[0-9]*)?([YMWD]?)", text.strip())
    if match is None:
        return None
    years = int(match[1]) // {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    return capped_age(years)
