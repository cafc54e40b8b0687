"""The base of all importers: records, read from tables without decoding an image, and pixels, one image at a time.

A new source is one file with a frozen dataclass, and one entry in ``registry.SOURCES``. ``docs/importing.md`` walks
through an example.

    tables, folder listings -> records() -> Record(source_id, patient_id, findings or label, split, view, ...)
    Record -> pixels(record, size, fit) -> [size, size] uint8

Classes, splits, keys, salted hashes and shards are made by ``ingest`` from the records: an importer only describes
its source.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cxrdist.data.imaging.radiograph import load_grey

LOCATION_OPTIONS = ("root", "table")
"""Options that say where a source is stored. They do not change the set, so no manifest records them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One radiograph as its source describes it, before its pixels are read.

    Text must be free of control characters; ``tables.rows_of`` removes them.
    """

    source_id: str
    """The source's name of the image, unique in the source. Only its salted hash, the key, is stored."""
    patient_id: str = ""
    """The source's name of the patient; "" if unknown, and the image counts as a patient of its own. All images of a
    patient are in one split. Only its salted hash is stored."""
    findings: tuple[str, ...] = ()
    """All positive findings, in the source's own words. A label rule turns them into one class, see
    ``Importer.targets``."""
    uncounted: tuple[str, ...] = ()
    """Other remarks, such as a pacemaker, that no label rule looks at; stored with the findings."""
    label: str | None = None
    """The class, if the source names it itself (a folder, a column). Then no label rule applies."""
    left_out: str | None = None
    """Why the image is not used, such as "lateral view"; None for an image that is used. The reasons are counted,
    printed and recorded in the manifest."""
    no_class: str | None = None
    """Why a usable image has no class, such as "uncertain finding"; it is left out unless ``--keep-unlabelled`` is
    given. The reasons are counted as those of ``left_out``."""
    notes: tuple[str, ...] = ()
    """Warnings about an image that is used. They are counted, logged and recorded in the manifest."""
    split: str | None = None
    """The source's own split: "train", "val", "test", or "train-val" if the source only separates its test images.
    Used by ``--split official``."""
    view: str | None = None
    """The projection, such as PA, AP or LATERAL; None if unknown. See ``tables.view_of``."""
    sex: str | None = None
    """M or F; None if unknown. See ``tables.sex_of``."""
    age: int | None = None
    """Age in whole years; None if unknown. Ages above 90 are stored as 90. See ``tables.age_years``."""
    file: str = ""
    """The image file, relative to the root of the source; "" for images that are computed."""

    @property
    def patient(self) -> str:
        """The patient; an image that names none is its own patient."""
        return self.patient_id or self.source_id

    @property
    def name(self) -> str:
        """The image as messages name it; nothing that is stored holds it."""
        return self.file or self.source_id


@dataclass(frozen=True, kw_only=True)
class Importer:
    """A source of radiographs: a frozen dataclass, pickled to worker processes.

    A subclass overrides ``records`` and ``pixels`` (``FileImporter`` has one for image files) and sets the class
    attributes ``name``, ``release`` and ``example``; those below have defaults. Its dataclass fields are the options
    of ``cxrdist import <name>``, its docstring and theirs are the text of ``--help``. Check the options in
    ``__post_init__``, for example with ``check_choice``.
    """

    name: ClassVar[str]
    """The source on the command line: ``cxrdist import <name>``."""
    release: ClassVar[str]
    """The data set and its version, for messages and the manifest."""
    activity: ClassVar[str | None] = None
    """What the import prints before it reads the records; None for "reading" and ``release``."""
    example: ClassVar[str]
    """A complete command line for ``--help``."""
    targets: ClassVar[Mapping[str, str]] = {}
    """Finding -> class, for the findings that a classifier shall learn; empty if records have a ``label``."""
    normal: ClassVar[str | None] = None
    """The finding that means the class Normal if it is the only one; None if there is none."""
    is_phantom: ClassVar[bool] = False
    """True for computed images: hashed with a public salt, and never compared for near-duplicates."""
    largest_size: ClassVar[int] = 2048
    """The largest ``--size`` of the source: pixels per side."""
    walks_root: ClassVar[bool] = False
    """True if all files below the root are read; then the new set must lie elsewhere."""
    default_out: ClassVar[str | None] = None
    """The default of ``--out``; None if it must be given."""
    no_official_split: ClassVar[str] = "comes without a split of its own: remove the option"
    """The end of the error message if ``--split official`` is given and no record has a split."""
    default_split: ClassVar[str] = "drawn"
    """The default of ``--split`` if records have a split: "official" for sources that users write themselves."""

    @property
    def added_splits(self) -> tuple[str, ...]:
        """Splits that consist of additional images, by the options ``val_images`` and ``test_images``.

        Only the records of additional images have a ``split`` then, and all have a ``label``. The other records are
        split as without the options, and those drawn into an added split are left out.
        """
        return ()

    def records(self) -> Iterator[Record]:
        """Yield all records, from tables and folder listings alone, in the same order on every call.

        Images that are not used are records, too, with ``left_out`` set, so that they are counted. Raises UserError,
        naming file and line, for an invalid table.
        """
        raise NotImplementedError

    def pixels(self, record: Record, size: int, fit: str) -> np.ndarray:
        """Decode one image: [size, size] uint8 grey, 0 is black.

        ``fit`` is "pad" or "crop", see ``load_grey``. A function of the record and the options alone; called in
        worker processes, in any order. Raises UndecodableImage, naming the file, if it is missing or no valid image.
        """
        raise NotImplementedError

    def is_there(self, record: Record) -> bool:
        """False if the image's file is missing, for sources that list their files in tables."""
        return True

    def source_options(self) -> dict[str, Any]:
        """The importer's own options as the manifest records them: all fields but ``LOCATION_OPTIONS``."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in LOCATION_OPTIONS}


@dataclass(frozen=True, kw_only=True)
class FileImporter(Importer):
    """A source whose images are PNG, JPEG or DICOM files, recognized by their content."""

    root: str
    """Folder of the source."""

    def is_there(self, record: Record) -> bool:
        return os.path.exists(os.path.join(self.root, record.file))  # noqa: PTH110, PTH118 - far faster, for 100,000s

    def pixels(self, record: Record, size: int, fit: str) -> np.ndarray:
        return load_grey(Path(self.root) / record.file, size, fit)
