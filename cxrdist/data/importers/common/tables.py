"""The CSV tables of the sources: rows with their line numbers, checked cells, and errors that name table and line."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import IO

from cxrdist.data.imaging.other_files import ADVICE, GZIP, TEXTS, kind_of_file
from cxrdist.data.importers.common.attributes import is_unknown
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.inner_paths import inner_path, plain_name  # noqa: F401 - for importers of others
from cxrdist.data.importers.common.quoting import END, Quoting
from cxrdist.data.importers.common.texts import UNSEEN, letters_of, plain_text, without_control
from cxrdist.errors import UserError

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

EQUAL_ROWS = "listed in several equal rows, used once"

LONGEST_LINE = 2**20
"""Characters. A line without an end, compressed to a few kilobytes, would otherwise fill the memory."""
csv.field_size_limit(LONGEST_LINE)  # 131,072 by default: too few for some reports

_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}


log = logging.getLogger(__name__)


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


def rows_of(
    table: Path, needed: Sequence[str], optional: Sequence[str] = (), paths: Sequence[str] = ()
) -> Iterator[tuple[str, Row]]:
    """Yield ("<table>, line <n>", row) for each row of a CSV in UTF-8, plain or gzipped.

    The first text is the ``where`` of the functions below. Cells are separated by commas, semicolons or tabs. The
    columns of ``needed`` and ``optional`` may be written otherwise: "Patient ID" is patient_id. Cells of ``paths``
    keep their letters as they are written, which ``inner_path`` looks for. Raises UserError if a ``needed`` one is
    missing, if two columns have one name, or if the file is not a valid CSV or has no rows.
    """
    is_empty = True
    number = 0
    try:
        with _open(table) as file:
            lines = _lines(file, table)
            skipped, header, separator, skips_spaces = _header(lines, needed)
            quoting = Quoting(table, separator, skips_spaces)
            # A cell whose quotation mark is not closed takes in all that follows, the end too.
            rows = csv.reader(
                quoting.kept(itertools.chain([header], lines, [END])),
                delimiter=separator,
                skipinitialspace=skips_spaces,
            )
            titles = [plain_text(title) for title in next(rows)]
            number = rows.line_num + skipped
            quoting.check(len(titles), number)
            names = _names(table, titles, needed, optional)
            as_written = [names.index(name) for name in paths]
            for cells in rows:
                number = rows.line_num + skipped
                quoting.check(len(titles), number)
                if cells == [END]:
                    break
                is_empty = False
                row = [plain_text(text) for text in cells]
                if not any(row) or row == titles:
                    continue  # spreadsheets write rows of commas below a table; joined tables repeat their header
                if any(row[len(names) :]):
                    raise UserError(
                        f"{table}, line {number}: more cells than the {len(names)} columns; quote "
                        f"those that hold {_SEPARATORS[separator]}"
                    )
                row += [""] * (len(names) - len(row))
                for i in as_written:
                    row[i] = row[i] and without_control(cells[i]).strip(" ")
                yield f"{table}, line {number}", dict(zip(names, row))
            quoting.tell()
    except csv.Error as error:
        raise UserError(
            f"{table}, line {number + 1}: not a valid CSV row ({error}); look for an unclosed quotation "
            "mark, or download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{table}: is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8, for example with "
            f"`iconv -f {_other_encoding(table)} -t UTF-8 TABLE > NEW`"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{table}: truncated or damaged ({error}); download it again") from error
    if is_empty:
        raise UserError(f"{table}: has no rows; download it again")


def _header(lines: Iterator[str], needed: Sequence[str]) -> tuple[int, str, str, bool]:
    """The number of lines before the line with the names of the columns, that line, what separates its cells, and
    whether spaces stand between that and quotation marks."""
    for skipped, line in enumerate(lines):
        if line.strip(UNSEEN).lower().startswith("sep="):
            continue  # Excel's way to name the separator
        if line.strip(UNSEEN + "".join(_SEPARATORS)):
            wanted = {letters_of(name) for name in needed}
            # Where names are read without it, a quotation mark after a space is part of a cell: two inches, perhaps.
            for skips_spaces, separator in itertools.product((False, True), _SEPARATORS):
                reader = csv.reader([line], delimiter=separator, skipinitialspace=skips_spaces)
                names = [plain_text(name) for name in next(reader)]
                is_quoted = any(name.startswith('"') for name in names)
                if not is_quoted and wanted <= {letters_of(name) for name in names}:
                    return skipped, line, separator, skips_spaces
            return skipped, line, ",", False
    return 0, "", ",", False


def _names(
    table: Path, titles: Sequence[str], needed: Sequence[str], optional: Sequence[str]
) -> tuple[str, ...]:
    """The names of the columns. Raises UserError if a needed one is missing, or two have one name or may have."""
    names = list(titles)
    otherwise = []
    for known in (*needed, *optional):
        alike = [i for i, name in enumerate(names) if letters_of(name) == letters_of(known)]
        if known in names or not alike:
            continue
        if len(alike) > 1:
            raise UserError(
                f"{table}: {' and '.join(repr(names[i]) for i in alike)} may both be {known}; rename the column that "
                f"is to {known}"
            )
        otherwise.append(f"{names[alike[0]]!r} as {known}")
        names[alike[0]] = known
    if otherwise:
        log.info("%s: columns read: %s", table, ", ".join(otherwise))
    if missing := [name for name in needed if name not in names]:
        raise UserError(
            f"{table}: lacks the columns {', '.join(missing)}; its columns are: {', '.join(names)}"
        )
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise UserError(f"{table}: has two columns {twice[0]}; rename or remove one")
    return tuple(names)


def _open(table: Path) -> IO[str]:
    """Opens a table, plain or gzipped, whatever its name is. Raises UserError for a file that is no text."""
    with table.open("rb") as file:
        head = file.read(512)
    kind = kind_of_file(head)
    if kind == GZIP:
        return io.TextIOWrapper(gzip.open(table), encoding="utf-8-sig", newline="")
    # A table may begin with nearly any letters, such as those of a column BMI, but holds no zero byte.
    if kind is not None and (kind in TEXTS or b"\0" in head):
        raise UserError(f"{table}: is {kind}, not a CSV: {ADVICE[kind]}")
    return table.open(newline="", encoding="utf-8-sig")


def _other_encoding(table: Path) -> str:
    """The likely encoding of a table that is not UTF-8: tables of spreadsheets in UTF-16 begin with a mark."""
    with gzip.open(table) if table.suffix == ".gz" else table.open("rb") as file:
        return "UTF-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "LATIN1"


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


def merged(rows: Iterable[tuple[str, Record]]) -> Iterator[Record]:
    """The records of (where, record) pairs; equal ones of one name become one, with a note.

    Raises UserError, with their number, if records of one name differ.
    """
    kept: dict[str, tuple[str, Record]] = {}
    repeated: set[str] = set()
    contradictions: dict[str, tuple[str, Record]] = {}
    for where, record in rows:
        first_where, first = kept.setdefault(record.source_id, (where, record))
        if first_where == where:
            continue
        if first == record:
            repeated.add(record.source_id)
        else:
            contradictions.setdefault(record.source_id, (where, record))
    for name, (where, record) in contradictions.items():
        first_where, first = kept[name]
        differing = [f.name for f in fields(record) if getattr(record, f.name) != getattr(first, f.name)]
        images = "1 image is" if len(contradictions) == 1 else f"{len(contradictions):,} images are"
        raise UserError(
            f"{where}: {name} is listed before ({first_where.rpartition(', ')[2]}), with another "
            f"{' and '.join(differing).replace('_', ' ')}; {images} listed with contradictions: correct the table"
        )
    for name, (_, record) in kept.items():
        yield replace(record, notes=(*record.notes, EQUAL_ROWS)) if name in repeated else record


def split_word(text: str, where: str, place: str = "column") -> str | None:
    """train, val or test, from a word of ``SPLIT_OF``; None for nothing. Raises UserError for any other word.

    ``place``: what holds the word.
    """
    if is_unknown(text):
        return None
    if text.lower() not in SPLIT_OF:
        raise UserError(
            f"{where}: the split {text!r} is none of {', '.join(SPLIT_OF)}; write one of these, "
            f"or rename the {place} if it is about something else"
        )
    return SPLIT_OF.get(text.lower())
