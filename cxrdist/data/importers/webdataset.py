"""External WebDataset tars, of any mix of classes, rewritten to a shard set or indexed in place."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.data.imaging.dicom import BurnedInPolicy, DicomHeader, read_header
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import grey_of
from cxrdist.data.importers.common.attributes import attributes
from cxrdist.data.importers.common.base import FileImporter, Record
from cxrdist.data.importers.common.contained_files import confined, files_below
from cxrdist.data.importers.common.dicom_headers import check_burned_in, described
from cxrdist.data.importers.common.external_tar import ExternalSample, Place, open_place, read_place, walk
from cxrdist.data.importers.common.intensity import Intensity, check_intensity, tone_of
from cxrdist.data.importers.common.sample_fields import (
    SEVERAL_PATIENTS,
    fields_of,
    label_of,
    patient_field_of,
    text_of,
)
from cxrdist.data.importers.common.tables import SPLIT_OF, split_word
from cxrdist.data.importers.common.texts import composed
from cxrdist.data.shards.schema import FORMAT, MANIFEST
from cxrdist.data.shards.tar import is_tar_name
from cxrdist.errors import OptionError, UserError

COMPRESSED = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".tgz", ".tbz2", ".txz")
LONGEST_CLASS_NAME = 100
# Recorded in manifests.
NOT_REAL = "synthetic image or phantom, no radiograph"


@dataclass(frozen=True, kw_only=True)
class WebDataset(FileImporter):
    """Import ROOT/**/*.tar (uncompressed). A sample is an image (.png, .jpg, .npy or .dcm) with a .cls or .json
    member. A .json may also have patient_id, view, sex, age (years) and split. Pickles, links and names that lead out
    of a tar are refused and counted; nothing is unpacked or executed.

    As in WebDataset, the key of a member is its path up to the first dot of the file name, and members with one key
    are one sample. Missing fields are filled in from the headers of DICOM images. A sample without a usable image or
    class is left out and counted. If any sample has a split, those without one are left out, unless ``--split drawn``
    is given.
    """

    class_names: tuple[str, ...] | None = None
    """Names for classes that labels give by number, from 0 on; by default class-0, class-1 ..."""
    image_ending: str = ""
    """Ending of the images, such as input.png, if their names have more than one dot."""
    label_field: str | None = None
    """Field of the .json with the class; by default the class is the .cls, or 'label' of the .json if there is no
    .cls."""
    patient_field: str | None = None
    """Field of the .json with the patient; by default patient_id, or patient if there is none."""
    split_from_names: bool = False
    """Take the split from the word train, val or test in the path of each tar."""
    burned_in: BurnedInPolicy = "drop"
    """DICOM images whose header says that text is burned into the pixels (BurnedInAnnotation): drop (leave out those
    with YES), strict (also those without the attribute) or keep."""
    intensity: Intensity | None = None
    """How 16-bit PNGs become 8-bit: percentiles (the image's own percentiles 0.5 and 99.5 become black and white;
    many detectors have 12 bits, and their images would be nearly black otherwise) or full (0 and 65535 do). By
    default percentiles; with --in-place only full is possible."""
    in_place: bool = False
    """Write no tars, only indexes and a manifest beside the tars of the folder, which becomes the set. The tars keep
    their names and metadata; images are decoded and resized whenever they are read."""

    name = "webdataset"
    walks_root = True
    release = "WebDataset tars"
    example = (
        "cxrdist import webdataset --root my_tars --class-names Normal,Pneumonia --out shards/mine --size 64"
    )
    default_split = "official"
    no_official_split = (
        "have none in any .json: add --split-from-names if the tars' names have it, or remove the option"
    )
    default_out = ""  # not needed with --in-place; ``ingest`` checks it

    def __post_init__(self) -> None:
        names = tuple(map(composed, self.class_names or ()))
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
        tars = self.tar_names()
        for folder in [] if self.in_place else sorted({root, *((root / tar).parent for tar in tars)}):
            if _holds_a_set(folder):
                raise UserError(
                    f"{folder}: a set that cxrdist wrote; convert it with `cxrdist shards convert {folder}`, which "
                    "keeps its keys, patients and splits"
                )
        for tar in tars:
            path = root / tar
            split = _split_in(tar, path) if self.split_from_names else None
            for sample in walk(path, self.image_ending.lower().lstrip(".")):
                record = self._record(sample, tar, split)
                yield record, _header(sample, path) if record.left_out is None else None

    def tar_names(self) -> list[str]:
        """All tars, relative to the root, sorted. Raises UserError for a tar that cannot be read safely."""
        root = Path(self.root)
        if not root.is_dir() and re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", self.root):
            raise OptionError("root", f"{self.root}: only local folders can be read; copy the tars to one")
        return [path.relative_to(root).as_posix() for path in _tars(root)]

    def pixels(self, record: Record, size: int, fit: str) -> np.ndarray:
        return self.decoded(record, self.image_bytes(record), size, fit)

    def decoded(self, record: Record, data: bytes, size: int, fit: str) -> np.ndarray:
        """``pixels`` of an image whose bytes have been read."""
        # In place the tone must be that of the set's reader, which has no such option.
        tone = None if self.in_place else tone_of(self._intensity)
        try:
            return grey_of(data, size, fit, tone)
        except UndecodableImage as error:
            # Name the sample: an offset does not help to find it.
            raise UndecodableImage(error.reason, str(Path(self.root, record.source_id))) from error.__cause__

    def is_there(self, record: Record) -> bool:
        return True  # its records come from the tars themselves

    def image_bytes(self, record: Record) -> bytes:
        """The bytes of an image. Raises UndecodableImage if its tar is missing or has been truncated."""
        tar, offset_bytes, length_bytes = self.place_of(record)
        try:
            data = read_place(confined(self.root, tar), Place(offset_bytes, length_bytes))
        except FileNotFoundError:
            raise UndecodableImage("missing", str(Path(self.root, tar))) from None
        if len(data) < length_bytes:
            raise UndecodableImage("truncated since its tar was read", str(Path(self.root, record.source_id)))
        return data

    def place_of(self, record: Record) -> tuple[str, int, int]:
        """The tar of a record's image, relative to the root, and offset and length of the image in bytes."""
        tar, _, place = record.file.rpartition("#")
        offset_bytes, length_bytes = map(int, place.split("+"))
        return tar, offset_bytes, length_bytes

    def _record(self, sample: ExternalSample, tar: str, split: str | None) -> Record:
        source_id = f"{tar}/{sample.key}"
        where = str(Path(self.root, source_id))

        def left_out(lacks: str) -> Record:
            why = f" ({'; '.join(sample.refused)})" if sample.refused else ""
            file = f"{tar}/{sample.other_image}" if sample.other_image else ""
            return Record(source_id=source_id, left_out=f"no usable {lacks}{why}", file=file)

        if sample.image is None:
            return left_out("image")
        values = fields_of(sample.json)
        if values is None:
            return left_out(".json")
        if values.get("origin") == "synthetic" or values.get("phantom") is True:
            # From a set that cxrdist wrote. Imported, it would count as real.
            return Record(source_id=source_id, left_out=NOT_REAL)
        label = self._class(sample.cls, values, where)
        if label is None:
            return left_out("class")
        patient_field = self.patient_field or patient_field_of(values)
        if patient_field is None:
            return Record(source_id=source_id, left_out=SEVERAL_PATIENTS)
        patient, word = text_of(values.get(patient_field)), text_of(values.get("split"))
        if patient is None:
            # As a patient of its own it might be in another split than its patient's other images.
            return left_out(patient_field)
        if word is None:
            return left_out("split")
        view, sex, age = (text_of(values.get(name)) or "" for name in ("view", "sex", "age"))
        of_image = attributes(where, patient=patient, view=view, sex=sex, age=age)
        of_image["notes"] = (*(f"beside it {reason}" for reason in sample.refused), *of_image["notes"])
        return Record(
            source_id=source_id,
            label=label,
            split=split_word(word, where, "field") or split,
            **of_image,
            file=f"{tar}#{sample.image.offset_bytes}+{sample.image.length_bytes}",
        )

    def _class(self, cls: bytes | None, values: dict[str, Any], where: str) -> str | None:
        """The class of a sample; None if it has none, or not exactly one."""
        if self.label_field is None and cls is not None:
            text = label_of(cls.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape"))
        else:
            text = label_of(values.get(self.label_field or "label"))
        if not text or len(text) > LONGEST_CLASS_NAME or re.fullmatch("-[0-9]+", text):
            return None
        if not re.fullmatch("[0-9]+", text):
            return text
        number = int(text)
        if self.class_names is None:
            # Tars that cxrdist wrote name the class; numbers of several sets need not mean the same.
            return text_of(values.get("class")) or f"class-{number}"
        if number >= len(self.class_names):
            raise UserError(
                f"{where}: its class is number {number}, but --class-names has only {len(self.class_names)} "
                "names, from 0 on; name them all"
            )
        return composed(self.class_names[number])


def _header(sample: ExternalSample, path: Path) -> DicomHeader | None:
    """The header of a sample's image; None if it is not DICOM."""
    if sample.image is None or not sample.is_dicom:
        return None
    try:
        with open_place(path, sample.image) as member:
            return read_header(member)
    except UndecodableImage:
        return None  # reported when its pixels are decoded


def _holds_a_set(root: Path) -> bool:
    """True if the folder is a shard set that cxrdist wrote, by its manifest."""
    try:
        manifest = fields_of((root / MANIFEST).read_bytes())
    except OSError:
        return False
    return str((manifest or {}).get("format")).startswith(FORMAT.partition("/")[0])


def _tars(root: Path) -> list[Path]:
    """All tars below ``root``, sorted. Raises UserError for a tar that cannot be read safely."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name the folder that holds the tars")
    tars: list[Path] = []
    for path in files_below(root):
        if path.name.lower().endswith(COMPRESSED):
            raise UserError(
                f"{path}: only uncompressed tars can be read; decompress it to a .tar, or remove it"
            )
        if is_tar_name(path.name):
            tars.append(path)
    if not tars:
        raise UserError(f"{root}: no .tar in this folder; name the folder of the tars")
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
            raise UserError(f"{path}: not a file; remove it")
        if other := name_of.get(target):
            raise UserError(
                f"{path} and {other} are one file, whose images would count twice; remove the link"
            )
        name_of[target] = path
    return list(name_of.values())


def _split_in(tar: str, path: Path) -> str:
    """The split in the path of a tar. Raises UserError if there is none, or more than one."""
    words = {SPLIT_OF[word] for word in re.findall("[a-z]+", tar.lower()) if word in SPLIT_OF}
    if len(words) != 1:
        named = " and ".join(sorted(words)) or "none of train, val and test"
        raise OptionError("split_from_names", f"{path} names {named}; rename it, or remove the option")
    return words.pop()
