from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from webdataset import TarWriter
from webdataset import WebDataset as PlainWebDataset

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.imaging.dicom.header import (
    BURNED_IN,
    NOT_FOR_PRESENTATION,
    NOTE_BURNED_IN,
    NOTE_MAY_BE_BURNED_IN,
)
from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.importers.common import external_tar
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.dicom_headers import NOTE_ONE_PATIENT
from cxrdist.data.importers.common.external_tar import ExternalSample, Place, open_place, read_place, walk
from cxrdist.data.importers.common.sample_fields import SEVERAL_PATIENTS
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers.dicom_files import dicom_file
from tests.helpers.images import png_declaring
from tests.helpers.launching import CLONE
from tests.helpers.tars import info, write_tar

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
PNG = encode(GREY, "png")
PICKLES = ("pyd", "pickle", "pkl", "pth")


def records(root: Path, **options: Any) -> list[Record]:
    return list(WebDataset(root=str(root), **options).records())


def told(record: Record) -> tuple[Any, ...]:
    return (record.source_id, record.label, record.left_out, record.notes)


# ---- what a tar says


def test_records_of_a_mixed_tar_of_webdataset(tmp_path: Path) -> None:
    with TarWriter(str(tmp_path / "mixed-000000.tar"), encoder=False) as tar:
        tar.write({"__key__": "p1/a", "png": PNG, "cls": b"1\n", "txt": b"unused"})
        tar.write(
            {
                "__key__": "p1/b",
                "jpg": encode(GREY, "jpg"),
                "json": b'{"label": "Mass", "patient_id": 17, "view": "PA", "sex": "male", "age": 58.0}',
            }
        )
        tar.write(
            {"__key__": "c", "npy": encode(GREY, "npy"), "cls": b"Normal", "json": b'{"patient_id": "x "}'}
        )
    importer = WebDataset(root=str(tmp_path), class_names=("Normal", "Effusion"))
    first, second, third = importer.records()
    places = [int(record.file.partition("#")[2].partition("+")[0]) for record in (first, second, third)]
    assert first == Record(
        source_id="mixed-000000.tar/p1/a",
        label="Effusion",
        file=f"mixed-000000.tar#{places[0]}+{len(PNG)}",
    )
    assert second == Record(
        source_id="mixed-000000.tar/p1/b",
        patient_id="17",
        label="Mass",
        view="PA",
        sex="M",
        age=58,
        file=f"mixed-000000.tar#{places[1]}+{len(encode(GREY, 'jpg'))}",
    )
    assert (third.label, third.patient_id) == ("Normal", "x")
    np.testing.assert_array_equal(importer.pixels(first, 16, "pad"), GREY)
    np.testing.assert_array_equal(importer.pixels(third, 16, "pad"), GREY)
    assert np.abs(importer.pixels(second, 16, "pad").astype(int) - GREY).max() < 40
    assert list(importer.records()) == [first, second, third]
    assert pickle.loads(pickle.dumps(importer)) == importer


def test_keys_and_bytes_are_those_that_webdataset_reads(tmp_path: Path) -> None:
    with TarWriter(str(tmp_path / "a.tar"), encoder=False) as tar:
        for key in ("x", "deep/er.d/y", "z z"):
            tar.write({"__key__": key, "png": PNG + key.encode(), "cls": b"0", "json": b"{}"})
    theirs = {s["__key__"]: s for s in PlainWebDataset(str(tmp_path / "a.tar"), shardshuffle=False)}
    ours = {s.key: s for s in walk(tmp_path / "a.tar")}
    assert [*ours] == [*theirs] == ["x", "deep/er.d/y", "z z"]
    for key, sample in ours.items():
        assert sample.image is not None
        assert read_place(tmp_path / "a.tar", sample.image) == theirs[key]["png"]
        assert (sample.cls, sample.json, sample.refused) == (theirs[key]["cls"], theirs[key]["json"], ())


def test_members_of_a_sample_may_stand_anywhere(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        info("./d", kind=tarfile.DIRTYPE),
        ("./d/b.cls", b"0"),
        ("./d/a.PNG", PNG),
        ("README", b"no sample"),
        ("__meta__/a.json", b"[]"),
        (".hidden.png", b""),
        ("d/._b.png", b"of a file manager"),
        ("d/b.png", b"12345"),
        ("./d/a.cls", b"1"),
    )
    assert list(walk(path)) == [
        ExternalSample(key="d/b", image=Place(512 * 13, 5), cls=b"0", json=None, refused=()),
        ExternalSample(key="d/a", image=Place(512 * 4, len(PNG)), cls=b"1", json=None, refused=()),
        ExternalSample(key=".hidden.png", image=None, cls=None, json=None, refused=(external_tar.NO_KEY,)),
    ]


@pytest.mark.parametrize(
    ("cls", "meta", "options", "label"),
    [
        (b"0", None, {}, "class-0"),
        (b" 12\n", None, {}, "class-12"),
        (b"1", None, {"class_names": ("A", "B")}, "B"),
        (b"Pleural Effusion", None, {"class_names": ("A", "B")}, "Pleural Effusion"),
        (b"1", {"label": "Mass"}, {}, "class-1"),
        (b"1", {"label": "Mass"}, {"label_field": "label"}, "Mass"),
        (None, {"label": 1}, {"class_names": ("A", "B")}, "B"),
        (None, {"finding": "Mass"}, {"label_field": "finding"}, "Mass"),
        (b"1", {"label": "Mass"}, {"label_field": "finding"}, None),
        (b"", None, {}, None),
        (b"-1", None, {}, None),
        (b"0\n1", None, {}, None),
        (b"\xff\xfe", None, {}, None),
        (b"x" * 101, None, {}, None),
        (None, {"label": ["Mass", "Edema"]}, {}, None),
        (None, {"label": True}, {}, None),
        (None, {"label": 0.5}, {}, None),
        (None, {"label": "\ud800"}, {}, None),
        (None, {"label": "Mass\x9b31m"}, {}, None),  # C1: a terminal takes it for ESC [
        (None, {}, {}, None),
    ],
)
def test_labels(
    tmp_path: Path, cls: bytes | None, meta: Any, options: dict[str, Any], label: str | None
) -> None:
    members = [("a.png", PNG)]
    members += [] if cls is None else [("a.cls", cls)]
    members += [] if meta is None else [("a.json", json.dumps(meta).encode())]
    write_tar(tmp_path / "a.tar", *members)
    (record,) = records(tmp_path, **options)
    assert (record.label, record.left_out) == (label, None if label else "no usable class")


def test_letters_of_class_names_are_those_of_labels(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "Fibröse") for form in ("NFC", "NFD"))
    write_tar(tmp_path / "a.tar", ("x.png", PNG), ("x.cls", b"1"), ("y.png", PNG), ("y.cls", nfd.encode()))
    assert [r.label for r in records(tmp_path, class_names=("A", nfd))] == [nfc, nfc]


def test_a_class_number_without_a_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", ("x.png", PNG), ("x.cls", b"2"))
    with pytest.raises(
        UserError, match=r"a\.tar/x: its class is number 2, but --class-names has only 2 names"
    ):
        records(tmp_path, class_names=("A", "B"))
    with pytest.raises(UserError, match="class_names: A occurs twice"):
        WebDataset(root="", class_names=("A", "B", "A"))


@pytest.mark.parametrize(
    ("meta", "left_out"),
    [
        (b"{", "no usable .json"),
        (b"[]", "no usable .json"),
        (b"[" * 100_000, "no usable .json"),
        (b"\xff", "no usable .json"),
        (b'{"patient_id": ["a", "b"]}', "no usable patient_id"),
        (b'{"patient_id": 1.5}', "no usable patient_id"),
        (b'{"split": 1.5}', "no usable split"),
        (b'{"origin": "synthetic"}', "synthetic image or phantom, no radiograph"),
        (b'{"origin": "real", "phantom": true}', "synthetic image or phantom, no radiograph"),
        (b'{"origin": "real", "phantom": false}', None),
        (b'{"patient_id": null, "split": null, "view": 1.5, "sex": [], "age": {}}', None),
    ],
)
def test_a_json_that_is_not_right(tmp_path: Path, meta: bytes, left_out: str | None) -> None:
    write_tar(tmp_path / "a.tar", ("x.png", PNG), ("x.cls", b"A"), ("x.json", meta))
    (record,) = records(tmp_path)
    assert record.left_out == left_out
    assert (record.patient_id, record.view, record.sex, record.age) == ("", None, None, None)


@pytest.mark.parametrize(
    ("meta", "field", "patient"),
    [
        (b'{"patient_id": "a", "patient": "b"}', None, "a"),
        (b'{"patient": "b"}', None, "b"),
        (b'{"patient_id": null, "patient": "b"}', None, "b"),
        (b'{"patient_id": "", "patient": "b"}', None, "b"),
        (b'{"patient_id": "a", "patient": "b"}', "patient", "b"),
        (b'{"patient_id": "a", "patient": "b"}', "subject", ""),
        (b"{}", None, ""),
    ],
)
def test_the_field_of_the_patient(tmp_path: Path, meta: bytes, field: str | None, patient: str) -> None:
    write_tar(tmp_path / "a.tar", ("x.png", PNG), ("x.cls", b"A"), ("x.json", meta))
    (record,) = records(tmp_path, patient_field=field)
    assert (record.patient_id, record.left_out) == (patient, None)


def test_fields_that_may_both_be_the_patient_leave_an_image_out(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        *(("x.png", PNG), ("x.json", b'{"label": "A", "PatientID": "P1", "Patient ID": "17"}')),
        *(("y.png", PNG), ("y.json", b'{"label": "A", "PatientID": "P1", "Patient ID": "P1"}')),
        *(("z.png", PNG), ("z.json", b'{"label": "A", "PatientID": "P1", "Patient ID": ""}')),
    )
    assert [(r.patient_id, r.left_out) for r in records(tmp_path)] == [
        ("", SEVERAL_PATIENTS),
        ("P1", None),
        ("P1", None),
    ]
    assert records(tmp_path, patient_field="Patient ID")[0].patient_id == "17"


def test_a_set_of_our_own_is_converted_and_not_imported(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", ("x.png", PNG), ("x.cls", b"A"))
    (tmp_path / "manifest.json").write_text('{"name": "somebody else\'s"}')
    assert len(records(tmp_path)) == 1
    (tmp_path / "manifest.json").write_text('{"format": "cxrdist-shards/1"}')
    with pytest.raises(UserError, match="a set that cxrdist wrote; convert it with `cxrdist shards conv"):
        records(tmp_path)
    assert len(records(tmp_path, in_place=True)) == 1


def test_dicom_members_speak_for_themselves(tmp_path: Path) -> None:
    def dicom(**values: Any) -> bytes:
        return dicom_file(GREY, **values)

    no = {"BurnedInAnnotation": "NO"}
    images = {
        "a.dcm": dicom(PatientID="one", PatientSex="F", PatientAge="058Y", ViewPosition="AP", **no),
        "b.dicom": dicom(PatientID="two", BurnedInAnnotation="YES"),
        "c.dcm": dicom(PatientID="two", PresentationIntentType="FOR PROCESSING", **no),
        "d.png": dicom(PatientID="one", BurnedInAnnotation="YES"),  # pixels are read by content, too
        "e.dcm": dicom(PatientID="two"),
        "f.dcm": b"\0" * 128 + b"DICM" + b"damaged",
        "g.png": PNG,
    }
    members = [(name, data) for name, data in images.items()] + [(f"{key}.cls", b"A") for key in "abcdefg"]
    write_tar(tmp_path / "x.tar", *members, ("a.json", b'{"patient": "said", "sex": "M"}'))
    told = {r.source_id[-1]: (r.patient_id, r.sex, r.left_out, r.notes) for r in records(tmp_path)}
    assert told == {
        "a": ("said", "M", None, ()),
        "b": ("two", None, BURNED_IN, (NOTE_BURNED_IN,)),
        "c": ("two", None, NOT_FOR_PRESENTATION, ()),
        "d": ("one", None, BURNED_IN, (NOTE_BURNED_IN,)),
        "e": ("two", None, None, (NOTE_MAY_BE_BURNED_IN,)),
        "f": ("", None, None, ()),
        "g": ("", None, None, ()),
    }
    first = records(tmp_path)[0]
    assert (first.view, first.age) == ("AP", 58)
    kept = {r.source_id[-1]: r.left_out for r in records(tmp_path, burned_in="keep") if r.left_out}
    assert kept == {"c": NOT_FOR_PRESENTATION}
    strict = {r.source_id[-1] for r in records(tmp_path, burned_in="strict") if r.left_out}
    assert strict == {"b", "c", "d", "e"}
    with pytest.raises(UserError, match="burned_in: 'kepe' is not a choice; did you mean 'keep'"):
        records(tmp_path, burned_in="kepe")


def test_a_patient_id_that_all_dicom_members_share_tells_nobody_apart(tmp_path: Path) -> None:
    image = dicom_file(GREY, PatientID="ANON", BurnedInAnnotation="NO")
    write_tar(tmp_path / "x.tar", ("a.dcm", image), ("a.cls", b"A"), ("b.dcm", image), ("b.cls", b"A"))
    assert [(r.patient_id, r.notes) for r in records(tmp_path)] == [("", (NOTE_ONE_PATIENT,))] * 2


def test_a_member_is_a_file_that_ends_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    with open_place(path, Place(2, 5)) as member:
        assert member.read() == b"23456" and member.read() == b""
        assert (member.seek(-2, 2), member.read(9), member.seek(1), member.read(2), member.tell()) == (
            3, b"56", 1, b"34", 3,
        )  # fmt: skip
        assert (member.seek(99), member.read(1)) == (99, b"")


def test_splits(tmp_path: Path) -> None:
    members = [
        ("a.png", PNG),
        ("a.json", b'{"label": "A", "split": "valid"}'),
        ("b.png", PNG),
        ("b.cls", b"A"),
    ]
    write_tar(tmp_path / "train" / "x-000.tar", *members)
    write_tar(tmp_path / "x-Test-000.tar", *members)
    assert [r.split for r in records(tmp_path)] == ["val", None, "val", None]
    assert [r.split for r in records(tmp_path, split_from_names=True)] == ["val", "train", "val", "test"]
    write_tar(tmp_path / "train" / "val-000.tar")
    with pytest.raises(
        UserError, match=r"^split_from_names: .*train/val-000\.tar names train and val; rename"
    ):
        records(tmp_path, split_from_names=True)
    write_tar(tmp_path / "latest.tar")
    with pytest.raises(UserError, match=r"latest\.tar names none of train, val and test"):
        records(tmp_path, split_from_names=True)
    write_tar(tmp_path / "a.tar", ("a.png", PNG), ("a.json", b'{"label": "A", "split": "tset"}'))
    with pytest.raises(UserError, match=r"a\.tar/a: the split 'tset' is none of train, "):
        records(tmp_path)


def test_the_same_key_in_two_tars_is_two_images(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "deep/a.tar", ".hidden.tar", ".d/a.tar", "notes.txt"):
        write_tar(tmp_path / name, ("x.png", PNG), ("x.cls", b"A"))
    assert [r.source_id for r in records(tmp_path)] == ["a.tar/x", "b.tar/x", "deep/a.tar/x"]


# ---- what is refused


def test_refused_members_are_counted_by_sample(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        *((f"good.{ending}", b"code") for ending in PICKLES),
        ("good.png", PNG),
        ("good.cls", b"A"),
        ("label.png", PNG),
        ("label.cls.pkl.gz", b"code"),
        ("alone.model.PT", b"code"),
        (".alone.pkl", b"code"),
        ("../up.png", PNG),
        ("../up.cls", b"A"),
        ("in/../../up.png", PNG),
        ("/abs.png", PNG),
        ("a\\b.png", PNG),
        ("a\nb.png", PNG),
        info("sym.png", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        ("sym.cls", b"A"),
        info("hard.png", kind=tarfile.LNKTYPE, link="good.png"),
        info("fifo.png", kind=tarfile.FIFOTYPE),
        info("null.png", kind=tarfile.CHRTYPE),
        info("sparse.png", kind=tarfile.GNUTYPE_SPARSE),
        ("twice.png", PNG),
        ("twice.png", PNG),
        ("two.png", PNG),
        ("two.jpeg", PNG),
        ("mask.seg.png", PNG),
        ("mask.cls", b"A"),
        ("labelled.png", PNG),
        info("labelled.cls", kind=tarfile.SYMTYPE, link="good.cls"),
        ("labelled.json", b'{"label": "A"}'),
        ("big.png", PNG),
        ("big.cls", b"0" * (2**20 + 1)),
    )
    no_image = "no usable image ({})".format
    assert [told(r) for r in records(path.parent)] == [
        ("a.tar/good", "A", None, (f"beside it {external_tar.PICKLE}",)),
        ("a.tar/label", None, "no usable class (a pickle member, never opened)", ()),
        ("a.tar/alone", None, no_image("a pickle member, never opened"), ()),
        ("a.tar/.alone.pkl", None, no_image("a pickle member, never opened"), ()),
        ("a.tar/../up", None, no_image("a name that leads out of the tar, never followed"), ()),
        ("a.tar/in/../../up", None, no_image("a name that leads out of the tar, never followed"), ()),
        ("a.tar//abs", None, no_image("a name that leads out of the tar, never followed"), ()),
        ("a.tar/a\\b", None, no_image("a name that leads out of the tar, never followed"), ()),
        ("a.tar/a\nb", None, no_image("a name that is not plain UTF-8 text"), ()),
        ("a.tar/sym", None, no_image("a link, never followed"), ()),
        ("a.tar/hard", None, no_image("a link, never followed"), ()),
        ("a.tar/fifo", None, no_image("a device or other special member, never read"), ()),
        ("a.tar/null", None, no_image("a device or other special member, never read"), ()),
        ("a.tar/sparse", None, no_image("a device or other special member, never read"), ()),
        ("a.tar/twice", None, no_image("a member that stands twice"), ()),
        ("a.tar/two", None, no_image("several images in one sample"), ()),
        ("a.tar/mask", None, f"no usable image ({external_tar.OTHER_ENDING})", ()),
        ("a.tar/labelled", "A", None, (f"beside it {external_tar.LINK}",)),
        ("a.tar/big", None, "no usable class (a member over the size cap, never read)", ()),
    ]


def test_no_byte_of_a_pickle_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "a.tar", ("a.png", PNG), ("a.pkl", b"P" * 2000), ("a.cls", b"A"))
    reads: list[bytes] = []

    class Watched(external_tar._Headers):
        def read(self, size: int) -> bytes:
            reads.append(super().read(size))
            return reads[-1]

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        reads.append(real_pread(descriptor, length, offset))
        return reads[-1]

    real_pread = os.pread
    monkeypatch.setattr(external_tar, "_Headers", Watched)
    monkeypatch.setattr(os, "pread", pread)
    importer = WebDataset(root=str(tmp_path))
    (record,) = importer.records()
    importer.pixels(record, 16, "pad")
    assert reads[-3:] == [b"A", PNG[:132], PNG]
    # Only tarfile's look at the last byte of a member's padding, which is zero.
    assert not any(b"PP" in data for data in reads)


def test_a_member_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(info("a.png", 2**30 + 512).tobuf(tarfile.PAX_FORMAT))
        file.truncate(512 + 2**30 + 512 + 1024)  # sparse: it takes no room
    (record,) = records(tmp_path)
    assert record.left_out == "no usable image (a member over the size cap, never read)"


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    member = info("x.png").tobuf(tarfile.GNU_FORMAT, encoding="utf-8")
    damaged = tarfile.TarInfo.frombuf(member, "utf-8", "strict")
    damaged.name = "\udcff.png"
    (tmp_path / "a.tar").write_bytes(
        damaged.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + bytes(1024)
    )
    (record,) = records(tmp_path)
    assert record.source_id == r"a.tar/\udcff"
    assert record.left_out == "no usable image (a name that is not plain UTF-8 text)"


def test_bombs_and_damaged_images_do_not_decode(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        ("bomb.png", png_declaring(100_000, 100_000)),
        ("bomb.cls", b"A"),
        ("empty.png", b""),
        ("empty.cls", b"A"),
        ("code.npy", npy_of_objects()),
        ("code.cls", b"A"),
        ("last.png", PNG),
        ("last.cls", b"A"),
    )
    importer = WebDataset(root=str(tmp_path))
    bomb, empty, code, last = importer.records()
    for record, reason in [
        (bomb, "more than 100 megapixels"),
        (empty, "empty"),
        (code, "1x1 object, not 2-D uint8"),
    ]:
        with pytest.raises(UndecodableImage) as error:
            importer.pixels(record, 16, "pad")
        assert str(error.value) == f"{tmp_path / record.source_id}: {reason}"
    os.truncate(tmp_path / "a.tar", int(last.file.partition("#")[2].partition("+")[0]) + 10)
    with pytest.raises(UndecodableImage, match=r"a\.tar/last: truncated since its tar was read"):
        importer.pixels(last, 16, "pad")
    (tmp_path / "a.tar").unlink()
    with pytest.raises(UndecodableImage, match=r"a\.tar: missing"):
        importer.pixels(last, 16, "pad")


def npy_of_objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([[{}]]))
    return buffer.getvalue()


# ---- tars and folders that are not right


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """A tar of ten samples: each a header and a block for the image, and likewise for the class."""
    members = [(f"{i}.{e}", data) for i in range(10) for e, data in (("png", b"x" * 100), ("cls", b"A"))]
    return write_tar(tmp_path / "whole" / "a.tar", *members).read_bytes()


def test_a_truncated_tar_is_an_error_wherever_it_ends(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.tar"
    assert len(whole) == 30_720  # 20 members of 1,024 bytes, an end mark, and zeros
    for keep, message in [
        (0, "at byte 0 of 0: empty file"),
        (300, "at byte 0 of 300: truncated header"),
        (512, "at byte 0 of 512: "),
        (1024 * 7 + 100, "ends without an end mark at byte 7168 of 7268: truncated"),
        (1024 * 7 + 512, "at byte 7168 of 7680: member '3.cls' reaches past the end: truncated"),
        (1024 * 7 + 700, "at byte 7168 of 7868: member '3.cls' reaches past the end: truncated"),
        (1024 * 8, "ends without an end mark at byte 8192 of 8192: truncated"),
        (1024 * 20, "ends without an end mark at byte 20480 of 20480: truncated"),
    ]:
        path.write_bytes(whole[:keep])
        with pytest.raises(UserError) as error:
            list(walk(path))
        assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
    path.write_bytes(whole[: 1024 * 20 + 512])
    assert len(list(walk(path))) == 10


def test_a_flipped_bit_in_a_header_is_an_error(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.tar"
    for block in range(0, 40, 2):
        for byte in (0, 124, 150, 156):  # name, size, checksum, type
            damaged = bytearray(whole)
            damaged[block * 512 + byte] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=f"at byte {block * 512} of 30720"):
                list(walk(path))


def test_joined_and_compressed_tars_are_errors(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(whole + whole)
    with pytest.raises(UserError, match=r"a\.tar: continues after the end mark at byte 20480 of 61440"):
        list(walk(path))
    path.write_bytes(b"\x1f\x8b" + whole)
    with pytest.raises(UserError, match=r"a\.tar: is compressed with gzip, not a tar: decompress it with"):
        list(walk(path))
    path.write_bytes(b"BZh9" + whole)
    with pytest.raises(
        UserError, match=r"a\.tar: not a plain, complete tar: at byte 0 .* unpack it if it is compr"
    ):
        list(walk(path))


def sizes(size: int) -> Iterator[bytes]:
    """Tars whose first member, or its extended header, says that its size is below 0 or beyond all bounds."""
    yield b"".join(signed(info("a.png"), size))
    yield b"".join(signed(info("a.png", kind=tarfile.XHDTYPE), size)) + bytes(512)
    yield b"".join(signed(info("a.png", kind=tarfile.GNUTYPE_LONGNAME), size)) + bytes(512)
    yield b"".join(signed(info("a.png", kind=tarfile.GNUTYPE_SPARSE), size))


def signed(member: tarfile.TarInfo, size: int) -> tuple[bytes, bytes]:
    """A header with any size, as GNU tar writes large ones (base 256), with a right checksum; an end mark."""
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = bytes([0xFF if size < 0 else 0x80]) + (size % 256**11).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header), bytes(1024)


@pytest.mark.parametrize("size", [-512, -1024, -(2**40), 2**20, 2**50])
def test_sizes_that_lead_back_or_far_away_are_errors(tmp_path: Path, size: int) -> None:
    for data in sizes(size):
        (tmp_path / "a.tar").write_bytes(data)
        with pytest.raises(UserError, match=r"a\.tar: not a plain, complete tar: at byte 0"):
            list(walk(tmp_path / "a.tar"))


@pytest.mark.parametrize(("length", "is_right"), [(12_000, True), (20_000, False)])
def test_a_header_is_not_as_long_as_it_likes(tmp_path: Path, length: int, is_right: bool) -> None:
    member = info("a.png")
    member.pax_headers = {"comment": "1" * length}
    write_tar(tmp_path / "a.tar", member)
    if is_right:
        assert [sample.key for sample in walk(tmp_path / "a.tar")] == ["a"]
    else:
        with pytest.raises(UserError, match=r"at byte 0 of \d+: a header of 20480 bytes"):
            list(walk(tmp_path / "a.tar"))


def test_folders_that_are_not_right(tmp_path: Path) -> None:
    for url in ("pipe:touch owned", "s3://bucket/x", "file:/etc"):
        with pytest.raises(UserError, match=f"^root: {url}: only local folders can be read"):
            list(WebDataset(root=url).records())
    with pytest.raises(UserError, match="nowhere: no such folder; name the folder that holds the tars"):
        records(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no \.tar in this folder; name the folder of the tars"):
        records(tmp_path)
    write_tar(tmp_path / "a.tar", ("a.png", PNG), ("a.cls", b"A"))
    (tmp_path / "b.tar").symlink_to("a.tar")
    with pytest.raises(UserError, match=r"b\.tar and .*a\.tar are one file"):
        records(tmp_path)
    (tmp_path / "b.tar").unlink()
    (tmp_path / "b.tar").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match=r"b\.tar: a link that leads out of .*; move the tar itself there"):
        records(tmp_path)
    (tmp_path / "b.tar").unlink()
    os.mkfifo(tmp_path / "b.tar")
    with pytest.raises(UserError, match=r"b\.tar: not a file"):
        records(tmp_path)
    (tmp_path / "b.tar").rename(tmp_path / "b.tar.gz")
    with pytest.raises(UserError, match=r"b\.tar\.gz: only uncompressed tars can be read"):
        records(tmp_path)


def test_nothing_is_read_through_a_link_that_is_put_there_later(tmp_path: Path) -> None:
    outside = write_tar(tmp_path / "outside.tar", ("a.png", PNG), ("a.cls", b"A"))
    root = write_tar(tmp_path / "root" / "a.tar", ("a.png", PNG), ("a.cls", b"A")).parent
    (record,) = records(root)
    (root / "a.tar").unlink()
    (root / "a.tar").symlink_to(outside)
    with pytest.raises(UndecodableImage, match=r"a\.tar: a link that leads out of the folder"):
        WebDataset(root=str(root)).pixels(record, 16, "pad")


# ---- the whole command


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_the_command_runs_no_code_and_counts_what_it_refused(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    bomb = pickle.dumps(Touch(owned))
    pickle.loads(bomb)
    owned.unlink()  # it would have worked

    members: list[tuple[str, bytes] | tarfile.TarInfo] = []
    for label in ("A", "B"):
        for i in range(4):
            meta = json.dumps({"label": label, "patient_id": f"patient-{label}{i}"}).encode()
            members += [(f"{label}{i}.png", PNG), (f"{label}{i}.json", meta)]
    members += [(f"A0.{ending}", bomb) for ending in PICKLES]
    members += [(f"pickled{i}.{ending}", bomb) for i, ending in enumerate(PICKLES)]
    members += [("../escape.png", PNG), (str(tmp_path / "escape.png"), PNG)]
    members += [info("link.png", kind=tarfile.SYMTYPE, link=str(CLONE / "README.md"))]
    write_tar(tmp_path / "tars" / "a.tar", *members)
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cxrdist",
            *["import", "webdataset", "--root", "tars", "--out", "set", "--size", "16", "--workers", "1"],
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CLONE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    warnings = [line for line in done.stderr.splitlines() if not line.startswith("  a.tar#")]
    assert warnings == [
        "warning: 1 images: beside it a pickle member, never opened",
        "warning: 1 of them lie in more than one split, so test results would be too good: --dedup keeps each "
        "in one split",
    ]
    lines = {" ".join(line.split()) for line in done.stdout.splitlines()}
    assert {
        "images read 15",
        "left out 7",
        "no usable image (a pickle member, never opened) 4",
        "no usable image (a name that leads out of the tar, never followed) 2",
        "no usable image (a link, never followed) 1",
    } <= lines
    out = tmp_path / "set"
    assert sorted(set(tmp_path.rglob("*")) - set(before)) == sorted([out, *out.iterdir()])
    assert verify(str(out)) == []
    provenance = ShardSet(out).manifest.provenance
    assert provenance.left_out == {
        "no usable image (a link, never followed)": 1,
        "no usable image (a name that leads out of the tar, never followed)": 2,
        "no usable image (a pickle member, never opened)": 4,
    }
    assert provenance.notes == {"beside it a pickle member, never opened": 1}
    everything = b"".join(file.read_bytes() for file in out.iterdir())
    assert b"patient-A" not in everything and bomb not in everything
