"""The records of a source before they get classes and splits: those of missing files, and other names of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from cxrdist.data.imaging.faults import MAX_UNDECODABLE_SHARE
from cxrdist.data.importers.common.base import Importer, Record
from cxrdist.data.importers.common.texts import composed
from cxrdist.errors import OptionError, UserError, nearest

MISSING_FILE = "its file is missing"


def missing_of(importer: Importer, records: Sequence[Record]) -> list[int]:
    """Numbers of the records whose files are missing, those that are left out anyway aside."""
    return [
        i for i, record in enumerate(records) if record.left_out is None and not importer.is_there(record)
    ]


def without_missing(importer: Importer, records: list[Record]) -> list[Record]:
    """The records, those of missing files as left out."""
    missing = {*missing_of(importer, records)}
    return [
        replace(record, left_out=MISSING_FILE) if i in missing else record for i, record in enumerate(records)
    ]


def check_missing(importer: Importer, records: Sequence[Record]) -> None:
    """Raises UserError if more than 1 % of the files are missing; fewer are left out when they are read."""
    missing = missing_of(importer, records)
    if len(missing) > max(1, MAX_UNDECODABLE_SHARE * len(records)):
        first = records[missing[0]]
        raise UserError(
            f"{len(records) - len(missing):,} of the {len(records):,} images of {importer.release} are there, and "
            f"{len(missing):,} are missing, such as {first.name}{_hint(importer, first)}: "
            "complete the download, or import what is there with --missing skip"
        )


def _hint(importer: Importer, record: Record) -> str:
    """Names the file that may be meant, if there is one of nearly the same name."""
    wanted = Path(getattr(importer, "root", ""), record.file)
    try:
        names = sorted(file.name for file in wanted.parent.iterdir() if file.is_file())
    except OSError:
        return ""
    alike = [name for name in names if _folded(name) == _folded(wanted.name)]
    alike += [name for name in names if Path(_folded(name)).stem == Path(_folded(wanted.name)).stem]
    return f" (there is {alike[0]}: capitals and endings have to be those of the files)" if alike else ""


def _folded(name: str) -> str:
    return composed(unquote(name)).casefold().strip(" '\"")


def with_class_names(
    records: list[Record], targets: Mapping[str, str], class_map: Sequence[str]
) -> tuple[list[Record], Mapping[str, str]]:
    """The records and targets with the class names of ``--class-map``. Raises OptionError for a class that the source
    does not have."""
    if not class_map:
        return records, targets
    new_name: dict[str, str] = {}
    for pair in class_map:
        old, equals, new = (composed(part.strip()) for part in pair.partition("="))
        if not (equals and old and new) or old in new_name:
            raise OptionError("class_map", f"{pair!r} is not OLD=NEW, with each OLD once")
        new_name[old] = new
    known = {record.label for record in records if record.label is not None} | {*targets.values()}
    for old in new_name:
        if old not in known:
            raise OptionError("class_map", f"{old!r}: no class of the source{nearest(old, sorted(known))}")
    named = [replace(r, label=new_name.get(r.label, r.label)) if r.label is not None else r for r in records]
    return named, {finding: new_name.get(name, name) for finding, name in targets.items()}
