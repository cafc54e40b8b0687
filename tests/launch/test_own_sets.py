"""What any command writes, every other command reads: the longest class names, every encoding, every writer."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

from cxrdist.data.imaging.codecs import EncodingName
from cxrdist.data.importers.common.base import Importer
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.webdataset import LONGEST_CLASS_NAME, WebDataset
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.manifest import read_manifest
from cxrdist.data.shards.schema import MANIFEST, MAX_SLUG_CHARACTERS
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.synthetic_keys import index_of, key_of, key_prefix
from cxrdist.data.shards.tar import TarFile
from cxrdist.data.shards.writing import write_pool
from cxrdist.data.tools.convert import ConvertOptions, convert
from cxrdist.data.tools.reindex import reindex
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, slug
from cxrdist.models import export_generator
from cxrdist.nets import dcgan
from cxrdist.synth import candidates
from cxrdist.synth import synthesize as synthesis
from cxrdist.synth.config import SynthConfig
from tests.helpers.commands import mix
from tests.helpers.shard_sets import contents

Capture = pytest.CaptureFixture[str]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("inline")]

ENCODINGS: tuple[EncodingName, ...] = ("png", "npy", "jpg")
SIZE = 32
COUNTS = (12, 7, 9)
"""Images of the three classes; the first is the largest."""


def classes(longest: int) -> tuple[str, ...]:
    """As long as the product accepts, ASCII or not; the second differs from the first in its last character alone."""
    return ("L" * longest, "L" * (longest - 1) + "m", "肺炎 Überblähung " + "x" * (longest - 15))


def drawn(number: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path) -> Importer:
    names = classes(MAX_SLUG_CHARACTERS)
    assert [len(slug(name)) for name in names[:2]] == [MAX_SLUG_CHARACTERS] * 2 and len(
        names[2].encode()
    ) < 255
    for c, (name, count) in enumerate(zip(names, COUNTS)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(drawn(100 * c + i))
    return Folder(root=str(root))


def table(root: Path) -> Importer:
    """Class names far longer than any file name: all but 200 of their characters are not ASCII."""
    root.mkdir()
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient_id", "view", "sex", "age"])
        for c, (name, count) in enumerate(zip(classes(MAX_SLUG_CHARACTERS), COUNTS)):
            for i in range(count):
                (root / f"{c}-{i}.png").write_bytes(drawn(100 * c + i))
                long_name = name + "é" * 1000
                writer.writerow([f"{c}-{i}.png", long_name, "患者" * 500 + f"{c} {i}", "PA", "F", 30 + i])
    return CsvTable(root=str(root))


def tars(root: Path, *, in_place: bool = False) -> Importer:
    root.mkdir()
    with TarWriter(str(root / "a.tar"), encoder=False) as tar:
        for c, (name, count) in enumerate(zip(classes(LONGEST_CLASS_NAME), COUNTS)):
            for i in range(count):
                told = {"label": name, "patient_id": f"{'p' * 300}{c} {i}", "view": "PA"}
                key = f"{'k' * 80}-{c}-{i}"
                tar.write({"__key__": key, "png": drawn(100 * c + i), "json": json.dumps(told).encode()})
    return WebDataset(root=str(root), in_place=in_place)


@dataclass(frozen=True)
class Held:
    """What the tars of a set hold, as Python's tarfile reads them."""

    keys: list[str]
    images: Counter[tuple[str, str, str]]
    """By split, class and origin."""


def held(place: Path) -> Held:
    """Also asserts that each sample has its three members, and its class."""
    names = ShardSet(place).classes
    stems = {f"{s.stem}-": s for s in ShardSet(place).strata}
    keys, images = [], Counter[tuple[str, str, str]]()
    for path in sorted(place.glob("*.tar")):
        stratum = next(stratum for stem, stratum in stems.items() if path.name.startswith(stem))
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        of_tar = [name.removesuffix(".cls") for name in members if name.endswith(".cls")]
        assert len(members) == 3 * len(of_tar)
        assert {members[f"{key}.cls"] for key in of_tar} == {str(names.index(stratum.class_name)).encode()}
        keys += of_tar
        images[stratum.split, stratum.class_name, stratum.origin] += len(of_tar)
    return Held(keys, images)


def check(place: Path, images: int, capsys: Capture, real: Path | None = None) -> Held:
    """Runs verify, index and ``mix order`` on a set of so many images; ``real``: what a synthetic set is of."""
    here = held(place)
    assert len(here.keys) == len({*here.keys}) == images
    assert here.images == {
        (entry.split, entry.class_name, entry.origin): entry.samples
        for entry in ShardSet(place).manifest.strata
    }
    assert verify(str(place)) == verify(str(place), quick=True) == []
    assert canonical_json(read_manifest(place).json_value()) == (place / MANIFEST).read_bytes()

    before = contents(place)
    indexes = sorted(path.name for path in place.glob("*.index.npy"))
    for name in indexes:
        (place / name).unlink()
    rebuilt = reindex(str(place))
    assert (rebuilt.intact, sorted(rebuilt.rebuilt), rebuilt.problems) == (0, indexes, [])
    assert contents(place) == before  # the digest, too

    known = {*here.keys} if real is None else {*here.keys, *held(real).keys}
    check_order(place, known, capsys, real)
    return here


def check_order(place: Path, known: set[str], capsys: Capture, real: Path | None = None) -> None:
    """Every key that ``mix order`` prints is a known one, and an epoch has all images of the train split."""
    capsys.readouterr()
    words = ["DS1", "--shards", str(place)] if real is None else ["DS3", "--shards", str(real)]
    words += [] if real is None else ["--synthetic", str(place)]
    lines = mix(capsys, "order", *words, "--batch", "1")
    printed = [key for line in lines for key in line.split()[6:]]
    assert {*printed} <= known
    sets = [ShardSet(place)] if real is None else [ShardSet(place), ShardSet(real)]
    assert (
        len(printed)
        == len({*printed})
        == sum(entry.samples for s in sets for entry in s.manifest.strata if entry.split == "train")
    )


# ---- importers, in every encoding


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("source", [folder, table, tars])
def test_what_an_import_writes(source: Any, encoding: EncodingName, tmp_path: Path, capsys: Capture) -> None:
    options = IngestOptions(out=str(tmp_path / "set"), size=SIZE, encoding=encoding, val=1, test=1)
    ingest(source(tmp_path / "source"), options)
    imported = check(tmp_path / "set", sum(COUNTS), capsys)
    assert {*imported.images.values()} == {1, 10, 5, 7}
    assert all(len(key) == 24 for key in imported.keys)

    other = ENCODINGS[ENCODINGS.index(encoding) - 1]
    to = ConvertOptions(set=str(tmp_path / "set"), out=str(tmp_path / "other"), encoding=other, min_shards=2)
    convert(to)
    converted = check(tmp_path / "other", sum(COUNTS), capsys)
    assert converted == imported


def test_what_is_indexed_in_place(tmp_path: Path, capsys: Capture) -> None:
    """The tar keeps its own keys; those of the set are in the index, beside the place of each image."""
    importer = tars(tmp_path / "tars", in_place=True)
    ingest(importer, IngestOptions(out="", size=SIZE, val=1, test=1))
    place = tmp_path / "tars"
    assert verify(str(place)) == verify(str(place), quick=True) == []
    assert canonical_json(read_manifest(place).json_value()) == (place / MANIFEST).read_bytes()
    index = np.load(place / "a.index.npy")
    data = (place / "a.tar").read_bytes()
    images = {data[row["offset_bytes"] :][: row["length_bytes"]] for row in index}
    assert images == {drawn(100 * c + i) for c, count in enumerate(COUNTS) for i in range(count)}
    keys = {key.decode() for key in index["key"].tolist()}
    assert len(keys) == len(index) == sum(COUNTS)
    check_order(place, keys, capsys)

    convert(ConvertOptions(set=str(place), out=str(tmp_path / "own")))
    assert {*check(tmp_path / "own", sum(COUNTS), capsys).keys} == keys


@pytest.mark.parametrize("source", [folder, table])
def test_a_class_name_too_long_for_a_file_is_refused_before_anything_is_written(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrdist.data.shards.manifest.MAX_SLUG_CHARACTERS", MAX_SLUG_CHARACTERS - 1)
    with pytest.raises(
        UserError,
        match=r"^class 'L{40}'\.\.\.: its name in file names would have 200 characters, of which 199 fit",
    ):
        ingest(
            source(tmp_path / "source"), IngestOptions(out=str(tmp_path / "set"), size=SIZE, val=1, test=1)
        )
    assert not (tmp_path / "set").exists()


# ---- synthesis


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A real set of three classes with long names, which a generator each has learnt from."""
    ingest(folder(tmp_path / "images"), IngestOptions(out=str(tmp_path / "real"), size=SIZE, val=1, test=1))
    shards = ShardSet(tmp_path / "real")
    for seed, name in enumerate(shards.classes):
        generator = dcgan.Generator(dcgan.DCGANConfig(size=SIZE, z_dim=4, maps=8))
        dcgan.init_weights(generator, seed)
        export_generator(
            tmp_path / "gan" / slug(name),
            generator,
            preset="demo",
            classes=[name],
            lineage=made_from(shards),
            metrics={},
        )
    return tmp_path / "real"


def synthesize(real: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    """In several shards of each class; an untrained generator passes no gate."""
    for module in ("plan", "candidates", "rounds", "generators.sources"):
        monkeypatch.setattr(f"cxrdist.synth.{module}.BLOCK", 4)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    place = real.with_name(changes.get("encoding", "png"))
    run, gan = str(place) + "-run", str(real.with_name("gan"))
    config = SynthConfig(gan=gan, shards=str(real), out=str(place), run=run, gates="none", **changes)
    synthesis.synthesize(config)
    return place


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_synthesis_writes(
    encoding: EncodingName, real: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """DS3 gives each class twice as many images as the largest class has: 20."""
    place = synthesize(real, monkeypatch, encoding=encoding, seed=5)
    wanted = {name: 20 - real_images(real, name) for name in ShardSet(real).classes}
    made = check(place, sum(wanted.values()), capsys, real)
    assert made.images == {("train", name, "synthetic"): images for name, images in wanted.items()}
    assert {len(key) for key in made.keys} == {27}
    assert len(list(place.glob("*.tar"))) == sum(-(-images // 4) for images in wanted.values())

    other = real.with_name("other")
    convert(ConvertOptions(set=str(place), out=str(other), size=16, encoding=encoding))
    assert held(other) == Held(made.keys, made.images)
    assert verify(str(other)) == []
    assert canonical_json(read_manifest(other).json_value()) == (other / MANIFEST).read_bytes()


def real_images(real: Path, name: str) -> int:
    return ShardSet(real).samples("train", name, "real")


def test_seed_generator_and_class_make_the_key() -> None:
    prefixes = [
        key_prefix(weights, seed, name)
        for weights in ("a" * 64, "b" * 64)
        for seed in (0, 1, 10)
        for name in ("Normal", "0 Normal", "L" * 200, "肺炎", "肺")
    ]
    assert len({*prefixes}) == 30
    assert key_of(prefixes[0], 123) == f"{prefixes[0]}-0000000123"
    assert index_of(key_of(prefixes[0], 123)) == 123


def test_an_interrupted_synthesis_writes_the_missing_shards_alone(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = synthesize(real, monkeypatch)
    whole = contents(place)
    manifest = json.loads((place / "manifest.json").read_text())
    job = {k: v for k, v in manifest["provenance"].items() if k != "gates"}
    (place / ".job.json").write_text(json.dumps(job))
    missing = sorted(place.glob("*-000001.tar"))
    assert len(missing) == 3
    for path in [*missing, *place.glob("*synthetic.*.json"), place / "manifest.json"]:
        path.unlink()
    written = []

    def noting(tar: TarFile, samples: Any) -> Any:
        written.append(tar.name)
        return write_shard(tar, samples)

    write_shard = write_pool.write_shard
    monkeypatch.setattr(write_pool, "write_shard", noting)
    assert synthesize(real, monkeypatch) == place
    assert sorted(written) == [path.name for path in missing]
    assert contents(place) == whole


def test_a_synthesis_that_an_earlier_version_began_ends_with_the_keys_of_this_one(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(candidates, "key_of", lambda prefix, index: key_of(f"{prefix[:12]}-mass", index))
        place = synthesize(real, earlier)
    manifest = json.loads((place / "manifest.json").read_text())
    job = {k: v for k, v in manifest["provenance"].items() if k != "gates"}
    (place / ".job.json").write_text(json.dumps(job))
    (place / "manifest.json").unlink()
    assert synthesize(real, monkeypatch) == place
    assert verify(str(place)) == []
    shutil.rmtree(place.with_name("png-run"))
    before = contents(place)
    shutil.rmtree(place)
    assert contents(synthesize(real, monkeypatch)) == before
