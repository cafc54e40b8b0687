"""What goes into a set comes out of it: through every encoding, and through the readers of others."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter, WebDataset

from cxrdist.data.deidentify import load_salt
from cxrdist.data.imaging.codecs import ENCODINGS, EncodingName, encode
from cxrdist.data.imaging.radiograph import decode, load_grey
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.nih14 import NIH14
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from tests.helpers.images import draw_folder
from tests.helpers.shard_sets import write_shard

LEAST_PSNR_DB = {64: 42.0, 256: 44.0}
"""As the docstring of ``encode`` says."""


def psnr_db(pixels: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((pixels.astype(float) - other) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("drawn") / "root", {"Normal": 6, "Effusion": 5})


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_an_import_takes_in_comes_out(drawn: Path, tmp_path: Path, encoding: EncodingName) -> None:
    salt = load_salt(None)
    ingest(
        Folder(root=str(drawn)),
        IngestOptions(out=str(tmp_path / "set"), size=32, encoding=encoding, val=1, test=1, workers=1),
    )
    shards = ShardSet(tmp_path / "set")
    source = {salt.key(p.relative_to(drawn).as_posix()).encode(): p for p in drawn.rglob("*.png")}
    seen = set()
    for stratum in shards.strata:
        reader = shards.stratum(stratum.split, stratum.class_name, stratum.origin)
        for number in range(reader.samples):
            path = source[reader.key(number)]
            seen.add(path)
            pixels = np.array(Image.open(path))
            assert path.parent.name == stratum.class_name
            if encoding == "jpg":
                expected = decode(encode(pixels, "jpg"), "jpg", 32)
                assert np.array_equal(reader.pixels(number), expected) and psnr_db(pixels, expected) > 30
            else:
                assert np.array_equal(reader.pixels(number), pixels)
    assert len(seen) == 11


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_webdataset_and_tarfile_give_the_bytes_at_the_indexed_offsets(
    drawn: Path, tmp_path: Path, encoding: EncodingName
) -> None:
    place = tmp_path / "set"
    ingest(
        Folder(root=str(drawn)),
        IngestOptions(out=str(place), size=32, encoding=encoding, val=1, test=1, workers=1, min_shards=2),
    )
    shards = ShardSet(place)
    samples = 0
    for stratum in shards.strata:
        reader = shards.stratum(stratum.split, stratum.class_name, stratum.origin)
        label = str(shards.classes.index(stratum.class_name)).encode()
        number = 0
        for shard, row in enumerate(reader.shards):
            path = place / row.name
            data = path.read_bytes()
            theirs = list(WebDataset(str(path), shardshuffle=False))
            with tarfile.open(path) as tar:
                members = {member.name: (member, tar.extractfile(member)) for member in tar}
                files = {name: file.read() for name, (_, file) in members.items() if file is not None}
            assert len(theirs) == row.samples == len(files) // 3
            for entry, sample in zip(reader.index(shard), theirs, strict=True):
                key = entry["key"].decode()
                start, length = int(entry["offset_bytes"]), int(entry["length_bytes"])
                assert sample["__key__"] == key
                assert data[start : start + length] == sample[encoding] == files[f"{key}.{encoding}"]
                assert reader.image_bytes(number) == sample[encoding]
                assert members[f"{key}.{encoding}"][0].offset_data == start
                assert sample["cls"] == files[f"{key}.cls"] == label
                assert sample["json"] == files[f"{key}.json"]
                assert json.loads(sample["json"])["patient"] == entry["patient"].decode()
                number += 1
        assert number == reader.samples
        samples += number
    assert samples == 11


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [16, 23])
def test_a_tar_is_the_one_that_webdataset_writes(tmp_path: Path, encoding: EncodingName, size: int) -> None:
    rng = np.random.default_rng(0)
    samples = [
        Sample(
            f"k{i:02d}",
            encode(rng.integers(0, 256, (size, size), np.uint8), encoding),
            {"patient": f"p{i}", "b": [i]},
        )
        for i in range(7)
    ]
    row = write_shard(LocalStore(tmp_path), 0, Stratum("val", "Mass", "real"), 12, encoding, samples)
    buffer = io.BytesIO()
    with TarWriter(buffer, user="cxrdist", group="cxrdist", mtime=0, encoder=False) as tar:
        for sample in samples:
            meta = json.dumps(sample.meta, sort_keys=True).encode()
            tar.write({"__key__": sample.key, encoding: sample.image, "cls": b"12", "json": meta})
    assert (tmp_path / row.name).read_bytes() == buffer.getvalue()


@pytest.mark.parametrize("size", [64, 256])
def test_jpg_keeps_phantoms_within_its_psnr(size: int) -> None:
    phantom = Phantom()
    for record in itertools.islice(phantom.records(), 0, None, 97 * 5):
        check_encodings(phantom.pixels(record, size, "pad"))


@pytest.mark.skipif("CXRDIST_REAL_DATA" not in os.environ, reason="needs $CXRDIST_REAL_DATA")
@pytest.mark.parametrize("size", [64, 256])
def test_jpg_keeps_real_films_within_its_psnr(size: int) -> None:
    root = Path(os.environ["CXRDIST_REAL_DATA"]) / "nih256"
    records = list(NIH14(root=str(root)).records())
    for record in records[:: len(records) // 100]:
        check_encodings(load_grey(root / record.file, size))


def check_encodings(pixels: np.ndarray) -> None:
    size = len(pixels)
    for encoding in ("png", "npy"):
        assert np.array_equal(decode(encode(pixels, encoding), encoding, size), pixels)
    assert LEAST_PSNR_DB[size] <= psnr_db(pixels, decode(encode(pixels, "jpg"), "jpg", size)) < 60
