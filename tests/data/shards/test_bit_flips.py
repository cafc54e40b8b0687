"""One flipped bit anywhere in a set, or a file that ends early: nothing passes in silence.

``verify`` names the file, and the sample where an image is hit. The reader raises when it touches what was hit, and
where the bit lies in what it never reads (headers, classes, metadata, padding) it gives exactly what was written.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.imaging.radiograph import decode
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.shards.index import index_name, write_table
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.removed import without
from cxrdist.data.shards.schema import MANIFEST, Problem
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers import shard_sets
from tests.helpers.removing import REASON
from tests.helpers.shard_sets import write_shard

pytestmark = pytest.mark.slow

SIZE = 16
CLASSES = ("Normal", "Pneumothorax")
FLIPS = {"image": 220, "rest of a tar": 180, "index": 120, "table": 100, "removed": 60, "manifest": 100}
KINDS = [kind for kind, share in FLIPS.items() for _ in range(share)]


@dataclass(frozen=True)
class Image:
    """An image of the set as it was written."""

    class_name: str
    number: int
    key: str
    tar: str
    span: range
    """Its bytes in the tar."""
    pixels: np.ndarray


@dataclass(frozen=True)
class Written:
    """A set of two classes, each two shards of two images, and what was written into it. The shards of the second
    class hold a third image, which was removed."""

    place: Path
    encoding: str
    images: list[Image]
    removed: dict[str, tuple[str, range]]
    """Tar -> key and bytes of its removed image."""
    files: dict[str, bytes]
    tables: dict[str, str]
    """Tar -> the table that names it."""

    @contextlib.contextmanager
    def with_bytes(self, name: str, data: bytes) -> Iterator[None]:
        """The set with other bytes in one file, for the time of the block."""
        (self.place / name).write_bytes(data)
        try:
            yield
        finally:
            (self.place / name).write_bytes(self.files[name])

    def flipped(self, name: str, at: int, bit: int) -> bytes:
        damaged = bytearray(self.files[name])
        damaged[at] ^= 1 << bit
        return bytes(damaged)

    def files_of(self, kind: str) -> list[str]:
        if kind == "index":
            return [index_name(tar) for tar in self.tables]
        of_kind = {"table": sorted(set(self.tables.values())), "manifest": [MANIFEST]}
        of_kind["removed"] = [name for name in self.files if ".removed." in name]
        return of_kind.get(kind, [*self.tables])


def write_set(place: Path, encoding: str) -> Written:
    rng = np.random.default_rng(3)
    store, strata = LocalStore(place), []
    images: list[Image] = []
    removed: dict[str, tuple[str, range]] = {}
    tables: dict[str, str] = {}
    for label, class_name in enumerate(CLASSES):
        stratum, rows = Stratum("train", class_name, "real"), []
        for number in range(2):
            drawn = [rng.integers(0, 256, (SIZE, SIZE), np.uint8) for _ in range(2 + label)]
            samples = [
                Sample(f"key{label}{number}{i}", encode(pixels, encoding), {"patient": f"p{i}", "view": "PA"})
                for i, pixels in enumerate(drawn)
            ]
            rows.append(write_shard(store, number, stratum, label, encoding, samples))
        reasons = dict.fromkeys(("key102", "key112"), REASON) if label else {}
        strata.append(without(store, write_table(store, stratum, rows), reasons))
        tables |= {row.name: strata[-1].table for row in rows}
    shard_sets.write_set(store, [*CLASSES], SIZE, encoding, strata, provenance={"importer": "test"})
    shards = ShardSet(place)
    for class_name in CLASSES:
        reader = shards.stratum("train", class_name, "real")
        for number in range(reader.samples):
            shard, row = reader.locate(number)
            at, length = (int(reader.index(shard)[row][name]) for name in ("offset_bytes", "length_bytes"))
            pixels = decode(reader.image_bytes(number), encoding, SIZE)
            tar = reader.shards[shard].name
            images.append(
                Image(class_name, number, reader.key(number).decode(), tar, range(at, at + length), pixels)
            )
        for shard in range(2):
            for at, length, key in reader.whole_index(shard)[["offset_bytes", "length_bytes", "key"]][
                2:
            ].tolist():
                removed[reader.shards.names[shard]] = key.decode(), range(at, at + length)
    shards.close()
    assert [key for key, _ in removed.values()] == ["key102", "key112"] and len(images) == 8
    return Written(
        place, encoding, images, removed, {p.name: p.read_bytes() for p in place.iterdir()}, tables
    )


@pytest.fixture(scope="module", params=["png", "npy", "jpg"])
def written(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Written:
    """Each test leaves it as it was."""
    return write_set(tmp_path_factory.mktemp("flips") / request.param, request.param)


def read_all(written: Written) -> dict[str, str]:
    """Key -> what reading it raised, "" where it gave exactly what was written."""
    told = {}
    shards = ShardSet(written.place)
    for image in written.images:
        reader = shards.stratum("train", image.class_name, "real")
        try:
            assert np.array_equal(reader.pixels(image.number), image.pixels), image
            assert reader.key(image.number) == image.key.encode(), image
            told[image.key] = ""
        except UserError as error:
            told[image.key] = str(error)
    shards.close()
    return told


def whole(written: Written, image: Image) -> str:
    """What reading all of an image's shard raised, metadata and all."""
    reader = ShardSet(written.place).stratum("train", image.class_name, "real")
    try:
        assert [sample.meta["view"] for sample in reader.whole(image.number // 2)] == ["PA", "PA"]
    except UserError as error:
        return str(error)
    return ""


def check_damage(written: Written, name: str, at: int | None) -> str:
    """``verify`` and the reader on a set with one damaged file, at one byte, or somewhere; what kind it was."""
    found = verify(str(written.place))
    other_index = Problem("changed", index_name(name), f"not the index of {name}")
    assert found and all(problem.file == name or problem == other_index for problem in found), found
    path = str(written.place / name)
    if name == MANIFEST:
        with pytest.raises(UserError, match=f"{path}: "):
            ShardSet(written.place)
        return "manifest"
    told = read_all(written)
    if name in written.tables.values():
        of_table = {image.key for image in written.images if written.tables[image.tar] == name}
        assert {key for key, line in told.items() if line} == of_table
        assert all(line.startswith(f"{path}: changed since") for line in told.values() if line)
        return "table"
    if name.endswith(index_name("")):
        of_index = {image.key for image in written.images if index_name(image.tar) == name}
        assert {key for key, line in told.items() if line} == of_index
        assert all(line.startswith(f"{path}: changed since") for line in told.values() if line)
        return "index"
    if ".removed." in name:
        assert {key for key, line in told.items() if line} == {
            i.key for i in written.images if i.class_name == CLASSES[1]
        }
        assert all(line.startswith(f"{path}: changed since") for line in told.values() if line)
        return "removed"
    of_tar = [image for image in written.images if image.tar == name]
    assert path in whole(written, of_tar[0])
    hit = [image for image in of_tar if at is not None and at in image.span]
    if at is not None:
        assert {key for key, line in told.items() if line} == {image.key for image in hit}
    key, span = written.removed.get(name, ("", range(0)))
    if at is not None and at in span:
        assert ("image", name, f"sample {key} at byte {span.start}: its image does not match its hash") in [
            (problem.kind, problem.file, problem.detail) for problem in found
        ]
    for image in hit:
        place = f"sample {image.key} at byte {image.span.start}: "
        assert told[image.key].startswith(f"{path}: {place}its bytes do not match their hash")
        assert any(
            (problem.kind, problem.file) == ("image", name) and problem.detail.startswith(place)
            for problem in found
        ), found
    return "image" if hit else "rest of a tar"


def bits(written: Written, seed: int) -> Iterator[tuple[str, str, int, int]]:
    """Kind, file, byte and bit of each flip; every kind gets its share."""
    rng = random.Random(seed)
    for kind in KINDS:
        if kind == "image":
            image = rng.choice(written.images)
            name, at = image.tar, rng.choice(image.span)
        else:
            name = rng.choice(written.files_of(kind))
            spans = [image.span for image in written.images if image.tar == name]
            free = [b for b in range(len(written.files[name])) if not any(b in span for span in spans)]
            # Half of a small tar is the zeros after its end mark.
            first = free[: len(free) // 2] if rng.random() < 0.7 else free
            at = rng.choice(first)
        yield kind, name, at, rng.randrange(8)


def test_no_flipped_bit_passes_in_silence(written: Written) -> None:
    seed = ("png", "npy", "jpg").index(written.encoding)
    seen: Counter[str] = Counter()
    for flip, (kind, name, at, bit) in enumerate(bits(written, seed)):
        if flip % 3 != seed:
            continue  # the three encodings share the flips
        with written.with_bytes(name, written.flipped(name, at, bit)):
            assert check_damage(written, name, at) == kind, f"{name}: byte {at}, bit {bit}"
        seen[kind] += 1
    assert sum(seen.values()) * 3 >= 700 and all(seen[kind] >= FLIPS[kind] // 3 for kind in FLIPS)
    assert verify(str(written.place)) == [] and not any(read_all(written).values())


def lengths(written: Written, name: str) -> list[int]:
    """Where a tar may end: in and between its parts, and right before and in its end mark."""
    (image, *_) = (image for image in written.images if image.tar == name)
    size = len(written.files[name])
    rng = random.Random(size)
    last = max(image.span.stop for image in written.images if image.tar == name)
    end_mark = -(-last // 512) * 512
    return [
        *(0, 1, 100, 511, 512, 513, 1024, 1536, 1537),
        *(image.span.start - 1, image.span.start, image.span.start + 1, image.span.stop - 1, image.span.stop),
        *(
            end_mark - 1,
            end_mark,
            end_mark + 1,
            end_mark + 511,
            end_mark + 512,
            end_mark + 1024,
            size - 512,
            size - 1,
        ),
        *(rng.randrange(size) for _ in range(8)),
    ]


def test_a_tar_that_ends_early_or_late_is_found(written: Written) -> None:
    (name, *_) = written.tables
    for length in lengths(written, name):
        with written.with_bytes(name, written.files[name][:length]):
            check_damage(written, name, None)
            told = read_all(written)
        cut = {image.key for image in written.images if image.tar == name and image.span.stop > length}
        assert {key for key, line in told.items() if line} == cut, length
    for more in (b"\0", b"x", bytes(512), bytes(10_240), written.files[name]):
        with written.with_bytes(name, written.files[name] + more):
            check_damage(written, name, None)
            assert not any(read_all(written).values())


def test_any_other_file_that_ends_early_or_late_is_found(written: Written) -> None:
    rng = random.Random(1)
    for kind in ("index", "table", "removed", "manifest"):
        name = written.files_of(kind)[0]
        data = written.files[name]
        ends = [0, 1, 10, 100, len(data) - 1, *(rng.randrange(len(data)) for _ in range(4))]
        for damaged in [*(data[:end] for end in ends), data + b"\0", data + b"\n", data + b" ", data + data]:
            with written.with_bytes(name, damaged):
                assert check_damage(written, name, None) == kind


def test_a_batch_is_what_was_written_or_an_error(written: Written) -> None:
    """What trains: pixels, keys and labels of a whole epoch, with a bit flipped where no image lies."""
    for kind, name, at, bit in list(bits(written, 9))[::4]:
        if kind in ("image", "rest of a tar"):
            with written.with_bytes(name, written.flipped(name, at, bit)):
                check_batch(written, name, kind)


def check_batch(written: Written, name: str, kind: str) -> None:
    pixels_of = {
        image.key.encode(): (CLASSES.index(image.class_name), image.pixels) for image in written.images
    }
    stream = Stream(
        ShardSet(written.place), None, {name: {"real": 4} for name in CLASSES}, StreamOptions(batch=8, seed=0)
    )
    if kind == "image":
        with pytest.raises(UserError, match=f"{name}: sample "):
            stream.read(0)
        return
    batch = stream.read(0)
    assert sorted(batch.keys.tolist()) == sorted(pixels_of)
    for key, label, pixels in zip(batch.keys.tolist(), batch.labels.tolist(), batch.pixels.numpy()):
        assert label == pixels_of[key][0] and np.array_equal(pixels[0], pixels_of[key][1])
