"""WebDataset tars that others wrote, of any mix of classes, rewritten into a set of our own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.data.imaging.dicom import DicomHeader, read_header
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import grey_of
from cxrdist.data.importers.common.base import FileImporter, Record
from cxrdist.data.importers.common.contained_files import confined, files_below
from cxrdist.data.importers.common.dicom_headers import check_burned_in, described
from cxrdist.data.importers.common.external_tar import ForeignSample, Place, open_place, read_place, walk
from cxrdist.data.importers.common.intensity import check_intensity, tone_of
from cxrdist.data.importers.common.tables import SPLIT_OF, age_years, sex_of, split_word, view_of
from cxrdist.data.shards.manifest import FORMAT, MANIFEST
from cxrdist.data.shards.tar import is_tar_name
from cxrdist.errors import OptionError, UserError, is_plain

COMPRESSED = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".tgz", ".tbz2", ".txz")
LONGEST_CLASS_NAME = 100
PATIENT_FIELDS = ("patient_id", "patient")
"""What a .json calls the patient; the second is the word of sets that cxrdist wrote."""
NOT_REAL = "synthetic image or phantom, no radiograph"


@dataclass(frozen=True, kw_only=True)
class WebDataset(FileImporter):
    """Import DIR/*.tar at any depth (plain tars), whose samples are an image (.png, .jpg, .npy or .dcm) and a .cls or
    .json member. A .json may also hold patient_id, view, sex, age (years) and split. Pickles, links and names that
    lead out of a tar are refused and counted; nothing is unpacked or run.

    Members belong together by WebDataset's rule: their key is their path up to the first dot of the file name.
    What they leave open a DICOM image may say. A sample that lacks a usable image or class is left out and counted.
    Where any sample has a split, those without one are left out, unless ``--split drawn``.
    """

    class_names: tuple[str, ...] | None = None
    """Names of the classes that a label says by number, from 0 on; by default class-0, class-1 ..."""
    label_field: str | None = None
    """Field of the .json that holds the class; by default it is the .cls, or 'label' in the .json where there is no
    .cls."""
    patient_field: str | None = None
    """Field of the .json that holds the patient; by default patient_id, or patient where there is none."""
    split_from_names: bool = False
    """Take the split from the word train, val or test in the path of each tar."""
    burned_in: str = "drop"
    """DICOM images with text in their pixels, by their own word: drop those that say YES, or strict (also those
    that do not say), or keep."""
    intensity: str | None = None
    """How 16-bit PNGs become 8-bit: percentiles (each image's own 0.5 and 99.5 are black and white: many detectors
    have 12 bits, and their images would be black) or full (0 and 65535 are). By default percentiles; with --in-place
    full, which is all that there is."""
    in_place: bool = False
    """Write no tars: make a set of the folder itself, with indexes and a manifest beside its tars. They keep the
    names and the metadata that others gave them; images are decoded and resized as they are read."""

    name = "webdataset"
    walks_root = True
    release = "WebDataset tars"
    example = (
        "cxrdist import webdataset --root my_tars --class-names Normal,Pneumonia --out shards/mine --size 64"
    )
    default_split = "official"
    no_official_split = (
        "have none where no .json says split: take --split-from-names, where the tars' names do, or leave the option "
        "out"
    )
    default_out = ""  # not asked for with --in-place

    def __post_init__(self) -> None:
        names = self.class_names or ()
        if repeated := [name for name in names if names.count(name) > 1]:
            raise OptionError("class_names", f"{repeated[0]} occurs twice")
        check_burned_in(self.burned_in)
        check_intensity(self._intensity)
        if self.in_place and self._intensity != "full":
            raise OptionError(
                "intensity",
                f"{self.intensity} does not go with --in-place, which reads images as they were written; remove one "
                "of the two",
            )

    @property
    def _intensity(self) -> str:
        return self.intensity or ("full" if self.in_place else "percentiles")

    def source_options(self) -> dict[str, Any]:
        return super().source_options() | {"intensity": self._intensity}

    def records(self) -> Iterator[Record]:
        return described(self._records(), self.burned_in)

    def _records(self) -> Iterator[tuple[Record, DicomHeader | None]]:
        root = Path(self.root)
        if not self.in_place and _holds_a_set(root):
            raise UserError(
                f"{root}: a set that cxrdist wrote; make another of it with `cxrdist shards convert {root}`, which "
                "keeps its keys, patients and splits"
            )
        for tar in self.tar_names():
            path = root / tar
            split = _split_in(tar, path) if self.split_from_names else None
            for sample in walk(path):
                record = self._record(sample, tar, split)
                yield record, _header(sample, path) if record.left_out is None else None

    def tar_names(self) -> list[str]:
        """All tars, relative to the root, sorted. Raises UserError where one of them cannot be read as it should."""
        root = Path(self.root)
        if not root.is_dir() and re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", self.root):
            raise UserError(f"--root {self.root}: only local folders are read here; copy the tars into one")
        return [path.relative_to(root).as_posix() for path in _tars(root)]

    def pixels(self, record: Record, size: int, fit: str) -> np.ndarray:
        return self.decoded(record, self.image_bytes(record), size, fit)

    def decoded(self, record: Record, data: bytes, size: int, fit: str) -> np.ndarray:
        """``pixels`` of an image that has been read from its tar."""
        # In place the same as a set's reader does, which knows of no such choice.
        tone = None if self.in_place else tone_of(self._intensity)
        try:
            return grey_of(data, size, fit, tone)
        except UndecodableImage as error:
            # The sample's name, since an offset tells nobody which one it is.
            raise UndecodableImage(error.reason, str(Path(self.root, record.source_id))) from error.__cause__

    def image_bytes(self, record: Record) -> bytes:
        """An image as it lies in its tar. Raises UndecodableImage where it is no longer there."""
        tar, offset_bytes, length_bytes = self.place_of(record)
        try:
            data = read_place(confined(self.root, tar), Place(offset_bytes, length_bytes))
        except FileNotFoundError:
            raise UndecodableImage("missing", str(Path(self.root, tar))) from None
        if len(data) < length_bytes:
            raise UndecodableImage("truncated since its tar was read", str(Path(self.root, record.source_id)))
        return data

    def place_of(self, record: Record) -> tuple[str, int, int]:
        """The tar of a record's image, relative to the root, and its offset and length in bytes."""
        tar, _, place = record.file.rpartition("#")
        offset_bytes, length_bytes = map(int, place.split("+"))
        return tar, offset_bytes, length_bytes

    def _record(self, sample: ForeignSample, tar: str, split: str | None) -> Record:
        source_id = f"{tar}/{sample.key}"
        where = str(Path(self.root, source_id))

        def left_out(lacks: str) -> Record:
            why = f" ({'; '.join(sample.refused)})" if sample.refused else ""
            return Record(source_id=source_id, left_out=f"no usable {lacks}{why}")

        if sample.image is None:
            return left_out("image")
        values = _fields(sample.json)
        if values is None:
            return left_out(".json")
        if values.get("origin") == "synthetic" or values.get("phantom") is True:
            # What a shard set of our own says; all that an import takes in counts as real.
            return Record(source_id=source_id, left_out=NOT_REAL)
        label = self._class(sample.cls, values, where)
        if label is None:
            return left_out("class")
        patient_field = self.patient_field or next(
            (name for name in PATIENT_FIELDS if values.get(name) not in (None, "")), PATIENT_FIELDS[0]
        )
        patient, said = _text(values.get(patient_field)), _text(values.get("split"))
        if patient is None:
            # As a patient of its own it might be parted from the others of its patient.
            return left_out(patient_field)
        if said is None:
            return left_out("split")
        return Record(
            source_id=source_id,
            patient_id=patient,
            label=label,
            notes=tuple(f"beside it {reason}" for reason in sample.refused),
            split=split_word(said, where) or split,
            view=view_of(_text(values.get("view")) or ""),
            sex=sex_of(_text(values.get("sex")) or ""),
            age=age_years(_text(values.get("age")) or ""),
            file=f"{tar}#{sample.image.offset_bytes}+{sample.image.length_bytes}",
        )

    def _class(self, cls: bytes | None, values: dict[str, Any], where: str) -> str | None:
        """The class of a sample; None where it says none, or no single one."""
        if self.label_field is None and cls is not None:
            text = _text(cls.decode(errors="surrogateescape"))
        else:
            text = _text(values.get(self.label_field or "label"))
        if not text or len(text) > LONGEST_CLASS_NAME or re.fullmatch("-[0-9]+", text):
            return None
        if not re.fullmatch("[0-9]+", text):
            return text
        number = int(text)
        if self.class_names is None:
            return f"class-{number}"
        if number >= len(self.class_names):
            raise UserError(
                f"{where}: its class is number {number}, but --class-names has only {len(self.class_names)} "
                "names, from 0 on; name them all"
            )
        return self.class_names[number]


def _header(sample: ForeignSample, path: Path) -> DicomHeader | None:
    """What a sample's image says of itself, where it is DICOM."""
    if sample.image is None or not sample.is_dicom:
        return None
    try:
        with open_place(path, sample.image) as member:
            return read_header(member)
    except UndecodableImage:
        return None  # told when its pixels are asked for


def _holds_a_set(root: Path) -> bool:
    """Whether a folder is a set of our own, by its manifest."""
    try:
        manifest = _fields((root / MANIFEST).read_bytes())
    except OSError:
        return False
    return str((manifest or {}).get("format")).startswith(FORMAT.partition("/")[0])


def _tars(root: Path) -> list[Path]:
    """All tars below ``root``, sorted. Raises UserError where one of them cannot be read as it should."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name the folder that holds the tars")
    tars: list[Path] = []
    for path in files_below(root):
        if path.name.lower().endswith(COMPRESSED):
            raise UserError(
                f"{path}: only plain tars are read, in place; unpack it to a .tar, or take it away"
            )
        if is_tar_name(path.name):
            tars.append(path)
    if not tars:
        raise UserError(f"{root}: holds no .tar; name the folder that does")
    name_of: dict[Path, Path] = {}
    for path in sorted(tars):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(f"{root}: the file name {str(path)!a} is not UTF-8; rename the file") from None
        target = path.resolve()
        if not target.is_relative_to(root.resolve()):
            raise UserError(f"{path}: a link that leads out of {root}; move the tar itself there")
        if not target.is_file():
            raise UserError(f"{path}: not a file; take it away")
        if other := name_of.get(target):
            raise UserError(
                f"{path} and {other} are one file, whose images would count twice; remove the link"
            )
        name_of[target] = path
    return list(name_of.values())


def _split_in(tar: str, path: Path) -> str:
    """The split that the path of a tar names. Raises UserError where it names none or several."""
    words = {SPLIT_OF[word] for word in re.findall("[a-z]+", tar.lower()) if word in SPLIT_OF}
    if len(words) != 1:
        named = " and ".join(sorted(words)) or "none of train, val and test"
        raise UserError(f"--split-from-names: {path} names {named}; rename it, or leave the option out")
    return words.pop()


def _fields(data: bytes | None) -> dict[str, Any] | None:
    """The fields of a .json; None where it is no object."""
    if data is None:
        return {}
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _text(value: Any) -> str | None:
    """Text, stripped, from text or a whole number; "" from nothing; None from anything else."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 17.0 is how a table with gaps says 17
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    return text if is_plain(text) else None
