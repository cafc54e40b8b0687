"""What every source of radiographs gives: records, read from tables alone, and pixels, one image at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One radiograph as its source describes it, before any pixel is read."""

    source_id: str
    """The source's own name of the image, unique in it. Only its salted hash (the key) is ever stored."""
    patient_id: str
    """The source's own name of the patient. Only its salted hash is ever stored."""
    findings: tuple[str, ...] = ()
    """All findings, in the source's own words; a label rule turns them into one class."""
    label: str | None = None
    """The class, where the source itself says it (a folder's name); then no label rule is needed."""
    view: str | None = None
    """PA, AP, LATERAL ... as the source says."""
    sex: str | None = None
    """M or F."""
    age: int | None = None
    """Whole years; ages from 90 up are stored as 90."""
    file: str = ""
    """Where the pixels are, relative to the source's root; "" where they are computed."""


class Importer(Protocol):
    """A source of radiographs. Implementations are small frozen dataclasses: they travel to worker processes.

    ``targets`` maps a finding of this source to the class it is a target for, in the order of the classes;
    it is empty where ``Record.label`` already holds the class. ``normal`` is the finding that, alone, means
    the class Normal.
    """

    name: str
    release: str
    targets: dict[str, str]
    normal: str | None
    is_phantom: bool

    def records(self) -> list[Record]:
        """All records, from tables and folder listings alone. Raises UserError for a table that is not right."""
        ...

    def pixels(self, record: Record, size: int) -> np.ndarray:
        """One image, [size, size] uint8. Raises images.UndecodableImage where the file is not an image."""
        ...
