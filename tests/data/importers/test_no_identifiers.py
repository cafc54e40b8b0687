"""Sets of every importer, searched for whatever the source names people, images, files and places by."""

from __future__ import annotations

import csv
import getpass
import hashlib
import io
import json
import re
import socket
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cxrdist.data.deidentify import default_salt_file, load_salt
from cxrdist.data.imaging.codecs import EncodingName
from cxrdist.data.importers.common.base import Importer
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.registry import IMPORTERS
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.tools.verify import verify
from tests.helpers.dicom_files import SECRETS, dicom_file
from tests.helpers.releases import chexpert, mimic_cxr, padchest, vindr
from tests.helpers.releases.nih14 import nih
from tests.helpers.shard_sets import contents
from tests.helpers.tars import write_tar

NAME = "Doe^Jane"
PLANTED = ("Doe", "Jane", "MRN4711", "19581103", "Mercy", "ACC9", "1.2.826.0.1.77")
assert set(SECRETS) <= set(PLANTED)
CLASSES = ("Normal", "Effusion")
PER_CLASS = 4


def drawn(seed: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)


def png(seed: int, dtype: type[np.unsignedinteger] = np.uint8) -> bytes:
    """A PNG whose text chunks, packed and not, and EXIF tell whom it shows."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", f"{NAME} MRN4711")
    text.add_text("Comment", f"{NAME} Mercy Hospital" * 40, zip=True)
    text.add_itxt("Institution", "Mercy Hospital", zip=True)
    buffer = io.BytesIO()
    Image.fromarray(drawn(seed).astype(dtype)).save(buffer, "PNG", pnginfo=text, exif=exif())
    return buffer.getvalue()


def jpg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(drawn(seed)).save(buffer, "JPEG", exif=exif(), comment=f"{NAME} MRN4711")
    return buffer.getvalue()


def exif() -> Image.Exif:
    values = Image.Exif()
    values[0x013B] = NAME  # Artist
    values[0x010E] = "MRN4711 of Mercy Hospital"  # ImageDescription
    return values


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# ---- a small release of each source


def make_nih14(root: Path) -> Importer:
    importer = nih(root, patients=24)
    for seed, path in enumerate(sorted((root / "images").iterdir())):
        put(path, png(seed))
    return importer


def make_chexpert(root: Path) -> Importer:
    lines = []
    for i in range(2 * PER_CLASS):
        path = f"train/patient{64_000 + i}/study7{i}/view1_frontal.jpg"
        cells = {"No_Finding": "1.0"} if i % 2 else {"Edema": "1.0"}
        lines.append(chexpert.line(chexpert.SMALL + path, **cells))
        put(root / path, jpg(i))
    return chexpert.chexpert(root, *lines)


def make_mimic_cxr_jpg(root: Path) -> Importer:
    images, studies = [], []
    for i in range(2 * PER_CLASS):
        dicom, subject, study = f"{i}{mimic_cxr.DICOM[1:]}", f"1000{i}032", f"5041426{i}"
        images.append(mimic_cxr.image(dicom, subject, study))
        cells = {"No_Finding": "1.0"} if i % 2 else {"Edema": "1.0"}
        studies.append(mimic_cxr.labels(subject, study, **cells))
        put(root / f"files/p10/p{subject}/s{study}/{dicom}.jpg", jpg(i))
    return mimic_cxr.mimic(root, images, studies)


def make_padchest(root: Path) -> Importer:
    rows = []
    for i in range(2 * PER_CLASS):
        rows.append(
            {
                "ImageID": f"2053668664013{i}_k6ga29.png",
                "ImageDir": "0",
                "PatientID": f"8398604886942{i}",
                "StudyID": f"4711-{i}-{NAME}",
                "Report": f"{NAME} sin hallazgos",
                "Labels": "['normal']" if i % 2 else "['pneumothorax']",
            }
        )
        put(root / "0" / rows[-1]["ImageID"], png(i, np.uint16))
    return padchest.padchest(root, *rows)


def make_vindr(root: Path) -> Importer:
    train, test, files = [], [], {}
    for i in range(2 * PER_CLASS):
        image = f"deadbeef0815{i}"
        finding = "No finding" if i % 2 else "Pneumothorax"
        is_test = i >= 2 * PER_CLASS - 2
        if is_test:
            test.append(vindr.row(image, finding))
        else:
            train += vindr.read_by_three(image, *[(finding,)] * 3)
        values = {"PatientComments": f"{NAME} lives in Mercy Street", "PatientID": f"MRN4711{i}"}
        data = dicom_file(drawn(i), BurnedInAnnotation="NO", OperatorsName=NAME, **values)  # type: ignore[arg-type]
        files[f"{'test' if is_test else 'train'}/{image}.dicom"] = data
    return vindr.vindr(root, train, test, files=files)


def make_folder(root: Path) -> Importer:
    for label in CLASSES:
        for i in range(PER_CLASS):
            put(root / label / "Mercy" / f"Doe_Jane_{label}_{i}_19581103.png", png(i + 50 * len(label)))
    return Folder(root=str(root))


def make_csv(root: Path) -> Importer:
    text = io.StringIO()
    table = csv.DictWriter(text, ["path", "label", "patient_id", "view", "sex", "age", "name", "MRN4711"])
    table.writeheader()
    for i in range(2 * PER_CLASS):
        path = f"Mercy/Doe_Jane_{i}.jpg"
        put(root / path, jpg(i))
        row = {
            "path": path,
            "label": CLASSES[i % 2],
            "patient_id": f"Jane Doe {i}",
            "name": NAME,
            "MRN4711": i,
        }
        # What should not be there: names where the view, the sex and the age belong.
        table.writerow(row | {"view": f"MRN4711: {NAME}", "sex": "Male, Doe", "age": "19581103"})
    put(root / "Doe_Jane.csv", text.getvalue().encode())
    return CsvTable(root=str(root), table="Doe_Jane.csv")


def make_webdataset(root: Path) -> Importer:
    members = []
    for i in range(2 * PER_CLASS):
        key = f"Mercy/Doe_Jane_{i}"
        meta = {
            "patient_id": f"Jane Doe {i}",
            "label": CLASSES[i % 2],
            "name": NAME,
            "report": f"{NAME} is well",
        }
        meta |= {"view": "Jane Doe", "age": "MRN4711", "sex": NAME}
        members += [
            (f"{key}.png", png(i)),
            (f"{key}.json", json.dumps(meta).encode()),
            (f"{key}.txt", NAME.encode()),
        ]
    write_tar(root / "ACC9" / "Doe_of_Mercy.tar", *members)
    return WebDataset(root=str(root))


MAKERS: dict[str, Callable[[Path], Importer]] = {
    "nih14": make_nih14,
    "chexpert": make_chexpert,
    "mimic-cxr-jpg": make_mimic_cxr_jpg,
    "padchest": make_padchest,
    "vindr": make_vindr,
    "folder": make_folder,
    "csv": make_csv,
    "webdataset": make_webdataset,
}


def test_no_importer_is_left_out() -> None:
    assert {*MAKERS} == {*IMPORTERS} - {"phantom"}


# ---- the search


def names_in(importer: Importer, root: Path) -> set[str]:
    """Whatever the source calls a person, an image, a file or a place; parts that are as short as a word apart."""
    records = list(importer.records())
    names = {name for record in records for name in (record.source_id, record.patient_id, record.file)}
    parts = {part for name in names for part in re.split(r"[/#+]", name)}
    parts |= {Path(part).stem for part in parts} | {re.sub(r"\D+", "", part) for part in parts}
    on_disk = {path.name for path in root.rglob("*") if path.is_file()}
    here = {str(root), str(root.parent), root.parent.name, socket.gethostname(), getpass.getuser()}
    common = {"train", "test", "images", "files", *CLASSES}
    return {name for name in names | parts | on_disk | here if len(name) >= 4} - common | {*PLANTED}


@dataclass(frozen=True)
class Searched:
    """Every byte of a set, packed and unpacked, and every name in it."""

    texts: dict[str, bytes]

    def found(self, words: set[str]) -> list[tuple[str, str]]:
        forms = [
            (word, word.lower().encode(code)) for word in sorted(words) for code in ("utf-8", "utf-16-le")
        ]
        lower = {where: data.lower() for where, data in self.texts.items()}
        return [(word, where) for where, data in lower.items() for word, form in forms if form in data]


def search(place: Path) -> Searched:
    texts = {"the names of its files": "\n".join(path.name for path in place.rglob("*")).encode()}
    for name, data in contents(place).items():
        texts[name] = data
        if name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file is not None
                    check_bare(member.name, file.read())
                    assert (member.uname, member.gname, member.uid, member.gid, member.mtime) == (
                        *("cxrdist", "cxrdist", 0, 0, 0),
                    )
                    assert re.fullmatch(r"[0-9a-f]{24}\.(png|jpg|npy|cls|json)", member.name)
                    assert not member.pax_headers and not member.linkname
    return Searched(texts)


def check_bare(name: str, data: bytes) -> None:
    """An image has nothing but its pixels in it: no text, comment, EXIF or profile, packed or not."""
    if name.endswith(".png"):
        assert list(chunks(data)) == ["IHDR", "IDAT", "IEND"], name
    elif name.endswith(".jpg"):
        assert not markers(data) & {0xFE, *range(0xE1, 0xF0)}, name
    if name.endswith(("png", "jpg")):
        with Image.open(io.BytesIO(data)) as image:
            assert not dict(image.getexif())
            assert {*image.info} <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def chunks(data: bytes) -> Iterator[str]:
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8].decode()
        at += 12 + length
    assert at == len(data)


def markers(data: bytes) -> set[int]:
    """The segments of a JPEG before its pixels."""
    found, at = set(), 2
    while data[at + 1] != 0xDA:
        assert data[at] == 0xFF
        found.add(data[at + 1])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return found


def hashes(words: set[str]) -> set[str]:
    """Hashes without a salt, which a list of all patients' numbers undoes, as the set might abbreviate them."""
    functions = (hashlib.md5, hashlib.sha1, hashlib.sha256, hashlib.sha512, hashlib.blake2b)
    return {
        f(form.encode()).hexdigest()[:12]
        for word in words
        for form in (word, f"image\0{word}", f"patient\0{word}")
        for f in functions
    }


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_nothing_that_a_source_calls_anybody_stands_in_a_set(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "release-of-Mercy", tmp_path / "out" / "set"
    importer = MAKERS[name](root)
    words = names_in(importer, root)
    # It is there to be found.
    source = Searched(
        {str(path): path.read_bytes() + path.name.encode() for path in root.rglob("*") if path.is_file()}
    )
    assert {word for word, _ in source.found(set(PLANTED))} >= {"Doe", "Jane"} or name in (
        "nih14",
        "mimic-cxr-jpg",
    )
    encoding: EncodingName = "jpg" if name in ("csv", "vindr") else "png"
    options = IngestOptions(
        out=str(out), size=16, encoding=encoding, val=1, test=1, workers=1, split="drawn", label_rule="strict"
    )
    manifest = ingest(importer, options)
    assert sum(entry.samples for entry in manifest.strata) >= 2 * PER_CLASS and verify(str(out)) == []
    searched = search(out)
    assert searched.found(words) == []
    assert searched.found(hashes(words)) == []
    assert not searched.found({load_salt(None).secret.decode()})
    assert not default_salt_file().is_relative_to(out.parent)
    assert sorted(path.name for path in out.parent.iterdir()) == ["set"]

    # Keys and patients are hashes with the salt, and no others.
    salt = load_salt(None)
    records = list(importer.records())
    keys = {salt.key(record.source_id) for record in records}
    patients = {salt.patient(record.patient_id or record.source_id) for record in records}
    shards = ShardSet(out)
    for stratum in shards.strata:
        for shard in range(len(shards.stratum(*vars(stratum).values()).shards)):
            index = shards.stratum(*vars(stratum).values()).index(shard)
            assert {key.decode() for key in index["key"].tolist()} <= keys
            assert {patient.decode() for patient in index["patient"].tolist()} <= patients
    # What it says on the way names no person either, though it may name a file that does not decode.
    said = capsys.readouterr()
    assert not [word for word in PLANTED if word in (said.out + said.err).replace(str(tmp_path), "")]


@pytest.mark.usefixtures("inline")
def test_what_a_killed_import_leaves_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cxrdist.data.ingest import ingest as module

    root, out = tmp_path / "release-of-Mercy", tmp_path / "set"
    importer = make_folder(root)
    seen: list[list[tuple[str, str]]] = []

    def look_and_die(*_: object, **__: object) -> None:
        seen.append(search(out).found(names_in(importer, root) - {socket.gethostname()}))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_manifest", look_and_die)
    with pytest.raises(KeyboardInterrupt):
        ingest(importer, IngestOptions(out=str(out), size=16, val=1, test=1, workers=1))
    assert seen == [[]] and (out / ".job.json").exists()
