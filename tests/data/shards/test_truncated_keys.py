"""Synthetic sets of an earlier version, whose indexes had no room for the keys of classes with long names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from cxrdist.config.yaml_files import find_named, load_yaml
from cxrdist.data.imaging.codecs import encode
from cxrdist.data.ingest.default_set import open_real
from cxrdist.data.mix.rules import rule_from
from cxrdist.data.shards.index import INDEX_DTYPE, ShardRow, index_name, write_table
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.open import open_synthetic
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.synthetic_keys import are_truncated, is_long_key, replaced
from cxrdist.data.shards.tar import tar_name
from cxrdist.data.shards.tar_writer import TarWriter
from cxrdist.data.storage.store import LocalStore
from cxrdist.data.tools import convert as convert_module
from cxrdist.data.tools.convert import ConvertOptions, convert
from cxrdist.data.tools.mix_order import OrderOptions, order_lines
from cxrdist.data.tools.reindex import reindex
from cxrdist.data.tools.stats import stats
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from cxrdist.files import sha256_bytes, slug
from tests.helpers.shard_sets import contents, members, pixels, write_set

IMAGES = 12
"""Of each class, in two shards."""
GENERATOR = "0123456789abcdef" * 4


def earlier_key(class_name: str, shard: int, candidate: int) -> str:
    return f"{GENERATOR[:12]}-{slug(class_name)}-{shard:06d}-{candidate:08d}"


def earlier_shard(folder: Path, stratum: Stratum, label: int, number: int, size: int) -> ShardRow:
    """As it was written before fields were checked: numpy truncated what did not fit."""
    rows = []
    with (folder / tar_name(stratum, number)).open("wb") as file:
        tar = TarWriter(file)
        for candidate in range(0, IMAGES, 2):
            key = earlier_key(stratum.class_name, number, candidate)
            grey = np.random.default_rng([label, number, candidate]).integers(0, 256, (size, size), np.uint8)
            image = encode(grey, "png")
            meta = f'{{"candidate": {candidate}, "origin": "synthetic", "patient": null}}'
            parts = {f"{key}.cls": b"%d" % label, f"{key}.json": meta.encode(), f"{key}.png": image}
            offset = tar.add(parts)[f"{key}.png"]
            digest = xxhash.xxh3_64_intdigest(image)
            rows.append((key, "train", label, "synthetic", offset, len(image), digest, ""))
        tar.finish()
    np.save(folder / index_name(tar_name(stratum, number)), np.array(rows, INDEX_DTYPE))
    name = tar_name(stratum, number)
    index_sha256 = sha256_bytes((folder / index_name(name)).read_bytes())
    return ShardRow(name, tar.bytes, tar.sha256, index_sha256, len(rows))


def earlier_set(folder: Path, real: ShardSet, names: list[str] | None = None) -> Path:
    folder.mkdir()
    store = LocalStore(folder)
    strata = []
    for label, name in enumerate(names or real.classes):
        stratum = Stratum("train", name, "synthetic")
        rows = [earlier_shard(folder, stratum, label, number, real.image_size) for number in range(2)]
        strata.append(write_table(store, stratum, rows))
    write_set(
        store,
        names or real.classes,
        real.image_size,
        "png",
        strata,
        provenance={
            "importer": "synthesis",
            "options": {"encoding": "png"},
            "gates": {"name": "none", "classes": {}},
        },
        lineage={"kind": "synthetic", **made_from(real), "generators": {}},
    )
    return folder


@pytest.fixture
def earlier(tiny_set: Path, tmp_path: Path) -> Path:
    """Its classes are Normal, Pneumothorax (12 characters) and Pleural Effusion (16)."""
    return earlier_set(tmp_path / "an earlier set", ShardSet(tiny_set))


def order(real: Path, synthetic: Path) -> list[str]:
    options = OrderOptions(mix="DS3", shards=str(real), synthetic=str(synthetic), batch=8)
    return [*order_lines(options, rule_from(load_yaml(find_named("mix", "DS3"))))]


def test_keys_of_a_class_with_a_long_name_were_truncated(earlier: Path) -> None:
    index = np.load(earlier / "train-pleural-effusion-synthetic-000000.index.npy")
    assert set(index["key"]) == {b"0123456789ab-pleural-effusion-000000-000"} and len(index) == 6
    index = np.load(earlier / "train-normal-synthetic-000000.index.npy")
    assert len(set(index["key"])) == 6


@pytest.mark.parametrize("damage", ["none", "an index", "all indexes"])
@pytest.mark.parametrize(
    "command",
    [
        lambda earlier, real: verify(str(earlier)),
        lambda earlier, real: verify(str(earlier), quick=True),
        lambda earlier, real: reindex(str(earlier)),
        lambda earlier, real: stats(str(earlier)),
        lambda earlier, real: order(real, earlier),
        lambda earlier, real: open_synthetic(str(earlier), open_real(str(real))),
    ],
    ids=["verify", "verify --quick", "index", "stats", "mix order", "training"],
)
def test_one_line_names_the_command_that_replaces_them(
    command: Callable[[Path, Path], Any], damage: str, earlier: Path, tiny_set: Path
) -> None:
    if damage == "an index":
        (earlier / "train-pneumothorax-synthetic-000000.index.npy").write_bytes(b"no index")
    if damage == "all indexes":
        for path in earlier.glob("*.index.npy"):
            path.unlink()
    before = contents(earlier)
    with pytest.raises(UserError) as caught:
        command(earlier, tiny_set)
    assert str(caught.value) == (
        f"{earlier}: its images are intact, but an earlier version truncated their keys to 40 characters, so several "
        f"images share one; make a set with whole keys with `cxrdist shards convert '{earlier}' --out "
        f"'{earlier}-whole-keys'`"
    )
    assert contents(earlier) == before


def test_an_index_is_refused_wherever_it_is_read(earlier: Path) -> None:
    shards = ShardSet(earlier)
    assert shards.stratum("train", "Normal", "synthetic").pixels(0).shape == (32, 32)
    for name in ("Pneumothorax", "Pleural Effusion"):
        with pytest.raises(UserError, match="an earlier version truncated their keys to 40 characters"):
            shards.stratum("train", name, "synthetic").pixels(0)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(
    ("changes", "encoding"),
    [({}, "png"), ({"encoding": "npy"}, "npy"), ({"min_shards": 3}, "png"), ({"size": 32}, "png")],
)
def test_a_conversion_replaces_long_keys_alone(
    changes: dict[str, Any], encoding: str, earlier: Path, tiny_set: Path, tmp_path: Path
) -> None:
    out = tmp_path / "whole keys"
    convert(ConvertOptions(set=str(earlier), out=str(out), workers=1, **changes))
    assert verify(str(out)) == []
    new_keys = {
        earlier_key(name, shard, candidate): (
            f"{prefix or f'0123456789ab-{slug(name)}'}-{shard:06d}-{candidate:08d}"
        )
        # The first 16 digits of sha256sum over '[', ' "0123456789ab-pneumothorax"', ']', a line each.
        for name, prefix in (
            ("Normal", ""),
            ("Pneumothorax", sha256_bytes(b'[\n "0123456789ab-pneumothorax"\n]\n')[:16]),
            ("Pleural Effusion", sha256_bytes(b'[\n "0123456789ab-pleural-effusion"\n]\n')[:16]),
        )
        for shard in range(2)
        for candidate in range(0, IMAGES, 2)
    }
    assert len({*new_keys.values()}) == 36
    for suffix in (".json", ".cls"):
        expected = {
            stratum: {new_keys[name.removesuffix(suffix)] + suffix: data for name, data in of_stratum.items()}
            for stratum, of_stratum in members(earlier, suffix).items()
        }
        assert members(out, suffix) == expected
    there = pixels(out)
    for label, name in enumerate(ShardSet(tiny_set).classes):
        for shard in range(2):
            for candidate in range(0, IMAGES, 2):
                grey = np.random.default_rng([label, shard, candidate]).integers(0, 256, (32, 32), np.uint8)
                assert np.array_equal(there[new_keys[earlier_key(name, shard, candidate)]], grey)
    before, after = ShardSet(earlier).manifest, ShardSet(out).manifest
    assert after.counts == before.counts and after.encoding == encoding
    assert after.lineage.json_value() == {**before.lineage.json_value(), "ancestors": [before.digest]}
    assert after.provenance.converted is not None and after.provenance.converted[0].source == before.digest

    lines = order(tiny_set, out)
    printed = {key for line in lines for key in line.split()[6:]}
    real_keys = {key for split in members(tiny_set, ".cls").values() for key in split}
    assert printed <= {*new_keys.values(), *(name.removesuffix(".cls") for name in real_keys)}


@pytest.mark.usefixtures("inline")
def test_an_interrupted_conversion_takes_over_its_shards(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    convert(ConvertOptions(set=str(earlier), out=str(out), workers=1, min_shards=3))
    whole = contents(out)
    shutil.rmtree(out)
    monkeypatch.setattr(convert_module, "write_table", stop)
    options = ConvertOptions(set=str(earlier), out=str(out), workers=1, min_shards=3)
    with pytest.raises(KeyboardInterrupt):
        convert(options)
    monkeypatch.undo()
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert len(times) == 9
    convert(options)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")} == times
    assert contents(out) == whole


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def test_an_earlier_set_of_short_class_names_is_read_as_it_is(tiny_set: Path, tmp_path: Path) -> None:
    """29 characters and 11 make 40: the longest key that an index has room for."""
    names = ["Normal", "Atelectasis", "Mass"]
    place = earlier_set(tmp_path / "short", ShardSet(tiny_set), names)
    reader = ShardSet(place).stratum("train", "Atelectasis", "synthetic")
    assert reader.key(0) == b"0123456789ab-atelectasis-000000-00000000" and len(reader.key(0)) == 40
    assert verify(str(place)) == []
    for path in place.glob("*.index.npy"):
        path.unlink()
    assert len(reindex(str(place)).rebuilt) == 6


def test_a_damaged_table_is_listed_with_all_that_is_wrong(earlier: Path) -> None:
    """Which keys a set has nobody knows without its tables."""
    tables = sorted(earlier.glob("train-p*.json"))
    for path in tables:
        path.write_bytes(b"{}")
    found = sorted((problem.kind, problem.file) for problem in verify(str(earlier)))
    assert found == [("changed", path.name) for path in tables]


@pytest.mark.parametrize(
    ("key", "is_truncated_in_index", "is_long"),
    [
        ("0123456789ab-atelectasis-000000-00000000", False, False),
        ("0123456789ab-cardiomegaly-000000-0000000", True, False),
        ("0123456789ab-cardiomegaly-000000-00000000", True, True),
        ("0123456789ab-pleural-effusion-000000-00000000", True, True),
        ("0123456789ab-" + "l" * 60 + "-000000-00000000", True, True),
        ("0123456789abcdef0123456789abcdef01234567", False, False),  # a SHA-1, as another tool may write
        ("0123456789abcdef-000000-00000000", False, False),
        ("g0", False, False),
        ("x" * 41, False, False),
    ],
)
def test_which_keys_are_those_of_an_earlier_version(
    key: str, is_truncated_in_index: bool, is_long: bool
) -> None:
    assert are_truncated(np.array([b"a", key.encode()], "S40")) is is_truncated_in_index
    assert is_long_key(key) is is_long
    assert len(replaced(key)) == 32 if is_long else replaced(key) == key
