"""What every source of radiographs gives: records, read from tables alone, and pixels, one image at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cxrdist.data.imaging.radiograph import load_grey

PLACES = ("root", "table")
"""Options that say where a source lies: they stand in no manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One radiograph as its source describes it, before any pixel is read."""

    source_id: str
    """The source's own name of the image, unique in it. Only its salted hash (the key) is ever stored."""
    patient_id: str = ""
    """The source's own name of the patient, "" where it names none: then the image is its own patient. Only its
    salted hash is ever stored."""
    findings: tuple[str, ...] = ()
    """All positive findings, in the source's own words; a label rule turns them into one class."""
    uncounted: tuple[str, ...] = ()
    """What else the source says of the image, such as a pacemaker, that no label rule looks at; kept with the
    sample's findings."""
    label: str | None = None
    """The class, where the source itself says it (a folder's name); then no label rule is needed."""
    left_out: str | None = None
    """Why the source itself leaves this image out, such as "lateral view"; counted, and told in the manifest."""
    notes: tuple[str, ...] = ()
    """What is to be known of this image though it is used; counted, told as a warning and in the manifest."""
    split: str | None = None
    """The source's own split: train, val, test, or train-val where it keeps only test apart; see ``--split``."""
    view: str | None = None
    """PA, AP, LATERAL ... as the source says."""
    sex: str | None = None
    """M or F."""
    age: int | None = None
    """Whole years; ages from 90 up are stored as 90."""
    file: str = ""
    """Where the pixels are, relative to the source's root; "" where they are computed."""

    @property
    def patient(self) -> str:
        """The patient; an image that names none is its own patient."""
        return self.patient_id or self.source_id


@dataclass(frozen=True, kw_only=True)
class Importer:
    """A source of radiographs: a small frozen dataclass, since it travels to worker processes.

    Its fields, with their docstrings, are the options of ``cxrdist import <name>``.
    """

    name: ClassVar[str]
    release: ClassVar[str]
    example: ClassVar[str]
    """A command line for ``--help``."""
    targets: ClassVar[Mapping[str, str]] = {}
    """A finding of this source -> the class it is a target for; empty where records hold their ``label``."""
    normal: ClassVar[str | None] = None
    """The finding that, alone, means the class Normal."""
    is_phantom: ClassVar[bool] = False
    largest_size: ClassVar[int] = 2048
    """Pixels a side that it can give."""
    walks_root: ClassVar[bool] = False
    """Whether it takes all that lies below its root, so that a set in there would be read, too."""
    default_out: ClassVar[str | None] = None
    """What ``--out`` is where it is not given; None where it must be."""
    no_official_split: ClassVar[str] = "comes without a split of its own: leave it out"
    """What is said where ``--split official`` finds none."""
    default_split: ClassVar[str] = "drawn"
    """What ``--split`` is where it is not given: "official" where the user wrote the source's splits."""

    def records(self) -> Iterator[Record]:
        """All records, from tables and folder listings alone, in the same order each time it is called.

        Raises UserError for a table that is not right.
        """
        raise NotImplementedError

    def pixels(self, record: Record, size: int, fit: str) -> np.ndarray:
        """One image, [size, size] uint8. Raises images.UndecodableImage where the file is not an image."""
        raise NotImplementedError

    def source_options(self) -> dict[str, Any]:
        """The source's own options, as the manifest keeps them: all but where it lies."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in PLACES}


@dataclass(frozen=True, kw_only=True)
class FileImporter(Importer):
    """A source whose images are files: PNG, JPEG or DICOM, whatever their names say."""

    root: str
    """Folder of the source."""

    def pixels(self, record: Record, size: int, fit: str) -> np.ndarray:
        return load_grey(Path(self.root) / record.file, size, fit)
