"""Read as they are, repaired, left out: images are counted, with an example, in the last table and the manifest."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

from cxrdist.data.deidentify import load_salt
from cxrdist.data.imaging.faults import RefusedSource
from cxrdist.data.imaging.mend import NO_END_CHUNK, WRONG_CHECKSUM
from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers.images import draw_folder
from tests.helpers.in_place import importer
from tests.helpers.in_place import options as in_place_options
from tests.helpers.shard_sets import contents, make_unfinished
from tests.helpers.tars import write_tar

pytestmark = pytest.mark.usefixtures("inline")

WRONG_CRC = struct.pack(">I4sIIBI", 9, b"pHYs", 1, 1, 0, 1)
HEADER_END = 33


def spoiled(png: bytes) -> bytes:
    """The same pixels, beside a chunk whose checksum is wrong."""
    return png[:HEADER_END] + WRONG_CRC + png[HEADER_END:]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """100 images each of a and b; of a, 0 and 1 with a wrong checksum, 2 also without its end, 3 empty."""
    root = draw_folder(tmp_path / "source", {"a": 100, "b": 100}, size=16)
    for number in range(3):
        file = root / "a" / f"{number:03d}.png"
        data = spoiled(file.read_bytes())
        file.write_bytes(data[:-12] if number == 2 else data)
    (root / "a" / "003.png").write_bytes(b"")
    return root


def options(out: Path, **changes: object) -> IngestOptions:
    return IngestOptions(**{"out": str(out), "size": 16, "workers": 1, "find_duplicates": False, **changes})  # type: ignore[arg-type]


def test_what_became_of_the_images_is_one_table_and_kept(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = ingest(Folder(root=str(source)), options(tmp_path / "set"))
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("read as they are"))
    assert [line.split() for line in lines[start : start + 6]] == [
        ["read", "as", "they", "are", "196"],
        ["repaired", "3"],
        [*NO_END_CHUNK.split(), "1", "such", "as", "a/002.png"],
        [*WRONG_CHECKSUM.split(), "3", "such", "as", "a/000.png"],
        ["left", "out", "1"],
        ["does", "not", "decode:", "empty", "1", "such", "as", f"{source}/a/003.png"],
    ]
    salt = load_salt(None)
    keys = [salt.key(f"a/{number:03d}.png") for number in range(4)]
    kept = manifest.provenance.json_value()
    assert kept["repairs"] == {
        NO_END_CHUNK: {"images": 1, "example": keys[2]},
        WRONG_CHECKSUM: {"images": 3, "example": min(keys[:3])},
    }
    assert kept["undecodable_reasons"] == {"empty": {"images": 1, "example": keys[3]}}
    told = {
        sample.key: sample.meta.get("repairs")
        for stratum in ShardSet(tmp_path / "set").strata
        for sample in ShardSet(tmp_path / "set").stratum(*vars(stratum).values()).whole(0)
    }
    assert {key: what for key, what in told.items() if what} == {
        keys[0]: [WRONG_CHECKSUM],
        keys[1]: [WRONG_CHECKSUM],
        keys[2]: [WRONG_CHECKSUM, NO_END_CHUNK],
    }
    assert verify(str(tmp_path / "set")) == []


def test_repaired_images_have_the_pixels_of_good_ones(source: Path, tmp_path: Path) -> None:
    ingest(Folder(root=str(source)), options(tmp_path / "set"))
    shards = ShardSet(tmp_path / "set")
    found = {
        reader.key(i).decode(): reader.pixels(i)
        for reader in (shards.stratum(*vars(stratum).values()) for stratum in shards.strata)
        for i in range(reader.samples)
    }
    good = draw_folder(tmp_path / "good", {"a": 100, "b": 100}, size=16)
    for number in range(3):
        expected = np.asarray(Image.open(good / "a" / f"{number:03d}.png"))
        assert np.array_equal(found[load_salt(None).key(f"a/{number:03d}.png")], expected)


def test_an_import_that_goes_on_counts_the_same(source: Path, tmp_path: Path) -> None:
    ingest(Folder(root=str(source)), options(tmp_path / "set"))
    whole = contents(tmp_path / "set")
    make_unfinished(tmp_path / "set")
    ingest(Folder(root=str(source)), options(tmp_path / "set"))
    assert contents(tmp_path / "set") == whole


def test_strict_refuses_a_repair_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedSource) as caught:
        ingest(Folder(root=str(source)), options(tmp_path / "set", strict=True))
    assert str(caught.value) == (
        f"3 images need a repair (one is a/000.png: {WRONG_CHECKSUM}), which --strict refuses: mend the files, or "
        "remove the option; nothing was written"
    )
    assert not (tmp_path / "set").exists()


def test_strict_accepts_a_source_without_faults(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "source", {"a": 20, "b": 20}, size=16)
    manifest = ingest(Folder(root=str(root)), options(tmp_path / "set", strict=True))
    assert manifest.provenance.repairs is None and manifest.samples == 40


def test_tars_that_are_indexed_in_place_count_repairs_too(tars: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(buffer, "PNG")
    with TarWriter(str(tars / "c.tar"), encoder=False) as writer:
        told = json.dumps({"patient_id": "MRN91"}).encode()
        writer.write({"__key__": "x", "png": spoiled(buffer.getvalue()), "cls": b"0", "json": told})
    with pytest.raises(RefusedSource, match="1 image needs a repair"):
        ingest(importer(tars, in_place=True), in_place_options(strict=True))
    manifest = ingest(importer(tars, in_place=True), in_place_options())
    (faults,) = (manifest.provenance.repairs or {}).values()
    assert faults.images == 1 and verify(str(tars)) == []


def test_the_wrong_checksum_is_wrong() -> None:
    assert zlib.crc32(WRONG_CRC[4:-4]) != 1


@pytest.mark.parametrize("in_place", [False, True])
def test_a_refusal_for_equal_films_tells_what_was_left_out_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, in_place: bool
) -> None:
    png = (draw_folder(tmp_path / "films", {"a": 1}) / "a" / "000.png").read_bytes()
    members = [(f"{i}.{e}", data) for i in range(12) for e, data in (("png", png), ("cls", b"%d" % (i % 2)))]
    pickles = [(f"p{i}.pkl", b"\x80\x04N.") for i in range(3)]
    write_tar(tmp_path / "tars" / "a.tar", *members, *pickles)
    made = in_place_options("" if in_place else str(tmp_path / "set"))
    with pytest.raises(
        UserError, match=r"with near-duplicate films as one patient: (Normal|Mass) has 1 patient"
    ):
        ingest(importer(tmp_path / "tars", in_place=in_place), made)
    assert caplog.messages == ["3 images: left out, no usable image (a pickle member, never opened)"]


def test_a_refusal_for_too_few_patients_tells_what_was_left_out_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = draw_folder(tmp_path / "source", {"a": 20, "b": 2}, size=16)
    for number in range(5):
        (root / "b" / f"{number}.bmp").write_bytes(b"")
    with pytest.raises(UserError, match="b has 2 patients, too few"):
        ingest(Folder(root=str(root)), options(tmp_path / "set"))
    assert caplog.messages == ["5 images: left out, not a PNG, JPEG or DICOM file"]
