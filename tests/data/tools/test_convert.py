from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.ingest.default_set import open_real
from cxrdist.data.shards.index import ShardRow, write_table
from cxrdist.data.shards.lineage import descends_from, made_from
from cxrdist.data.shards.manifest import ClassGates, Gates, Stratum, read_manifest
from cxrdist.data.shards.open import open_synthetic
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample, TarFile
from cxrdist.data.shards.writing import write_pool
from cxrdist.data.shards.writing.write_job import FOUND_LATER
from cxrdist.data.storage.store import LocalStore, store_of
from cxrdist.data.tools import convert as convert_module
from cxrdist.data.tools.convert import ConvertOptions, convert
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from cxrdist.files import canonical_json
from cxrdist.models import export_generator
from cxrdist.nets.dcgan import DCGANConfig, Generator
from cxrdist.synth.generators.sources import ImageSource, gan_sources
from tests.helpers.inline_pool import InlinePool
from tests.helpers.processes import children, is_running, wait_until
from tests.helpers.shard_sets import contents, members, pixels, write_set, write_shard

SAMPLES_PER_SHARD = 3


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "samples_per_shard", lambda *_: SAMPLES_PER_SHARD)


def to(out: Path | str, source: Path | str, **changes: Any) -> ConvertOptions:
    return ConvertOptions(**{"set": str(source), "out": str(out), "workers": 1, **changes})


# ---- what is kept


@pytest.mark.usefixtures("inline", "small_shards")
@pytest.mark.parametrize("encoding", ["npy", "jpg"])
def test_keys_classes_splits_and_metadata_are_kept(tiny_set: Path, tmp_path: Path, encoding: str) -> None:
    manifest = convert(to(tmp_path / "new", tiny_set, encoding=encoding))
    source = ShardSet(tiny_set).manifest
    assert verify(str(tmp_path / "new")) == []
    assert (manifest.image_size, manifest.encoding) == (32, encoding)
    assert (manifest.classes, manifest.counts) == (source.classes, source.counts)
    for suffix in (".cls", ".json"):
        before, after = members(tiny_set, suffix), members(tmp_path / "new", suffix)
        assert after == before
        assert {s: [*m] for s, m in after.items()} == {s: [*m] for s, m in before.items()}
    # 8, 6, 4 train, 3, 2, 2 val, 3, 2, 2 test images in shards of at most 3
    assert [e.shards for e in manifest.strata] == [3, 2, 2, 1, 1, 1, 1, 1, 1]


@pytest.mark.usefixtures("inline")
def test_png_and_npy_keep_every_pixel_and_back_again_every_byte(tiny_set: Path, tmp_path: Path) -> None:
    convert(to(tmp_path / "npy", tiny_set))
    convert(to(tmp_path / "png", tmp_path / "npy", encoding="png"))
    before = pixels(tiny_set)
    after = pixels(tmp_path / "npy")
    assert before.keys() == after.keys() and len(before) == 32
    assert all(np.array_equal(before[key], after[key]) for key in before)
    for tar in tiny_set.glob("*.tar"):
        assert (tmp_path / "png" / tar.name).read_bytes() == tar.read_bytes()


@pytest.mark.usefixtures("inline")
def test_a_smaller_size_is_what_the_filter_of_an_import_gives(tiny_set: Path, tmp_path: Path) -> None:
    manifest = convert(to(tmp_path / "small", tiny_set, size=16))
    assert (manifest.image_size, manifest.encoding) == (16, "png")
    before = pixels(tiny_set)
    for key, image in pixels(tmp_path / "small").items():
        expected = Image.fromarray(before[key]).resize((16, 16), Image.Resampling.HAMMING)
        assert np.array_equal(image, np.asarray(expected))


@pytest.mark.usefixtures("inline")
def test_jpegs_are_not_encoded_twice(tiny_set: Path, tmp_path: Path) -> None:
    convert(to(tmp_path / "jpg", tiny_set, encoding="jpg"))
    manifest = convert(to(tmp_path / "more", tmp_path / "jpg", min_shards=2))
    assert manifest.encoding == "jpg"
    assert {e.shards for e in manifest.strata} == {2}
    assert members(tmp_path / "more", ".jpg") == members(tmp_path / "jpg", ".jpg")
    again = convert(to(tmp_path / "npy", tmp_path / "more", encoding="npy"))
    assert {e.shards for e in again.strata} == {2}


# ---- where it comes from


@pytest.mark.usefixtures("inline")
def test_provenance_is_kept_and_every_conversion_told(tiny_set: Path, tmp_path: Path) -> None:
    first = convert(to(tmp_path / "npy", tiny_set))
    second = convert(to(tmp_path / "small", tmp_path / "npy", size=16, encoding="png"))
    source = ShardSet(tiny_set).manifest
    steps = [
        {"from": source.digest, "size": 32, "encoding": "npy", "min_shards": 1},
        {"from": first.digest, "size": 16, "encoding": "png", "min_shards": 1},
    ]
    before = source.provenance.json_value()
    assert first.provenance.json_value() == before | {"converted": steps[:1]}
    assert second.provenance.json_value() == before | {"converted": steps}
    assert first.lineage.json_value() == {"kind": "real", "ancestors": [source.digest]}
    assert second.lineage.json_value() == {"kind": "real", "ancestors": [first.digest, source.digest]}


def make_synthetic(folder: Path, real: ShardSet) -> Path:
    """One generated image of each class, as synthesis writes it from this real set."""
    store = LocalStore(folder)
    strata = []
    for label, name in enumerate(real.classes):
        stratum = Stratum("train", name, "synthetic")
        image = encode(np.full((real.image_size, real.image_size), 40 * label, np.uint8), "png")
        row = write_shard(store, 0, stratum, label, "png", [Sample(f"g{label}", image, {"patient": None})])
        strata.append(write_table(store, stratum, [row]))
    write_set(
        store,
        real.classes,
        real.image_size,
        "png",
        strata,
        provenance={"gates": {"name": "default", "classes": {"Normal": {"tried": 2, "admitted": 1}}}},
        lineage={"kind": "synthetic", **made_from(real), "generators": {}},
    )
    return folder


@pytest.mark.usefixtures("inline")
def test_synthetic_images_fit_every_set_of_their_family_and_no_other(tiny_set: Path, tmp_path: Path) -> None:
    convert(to(tmp_path / "npy", tiny_set))
    convert(to(tmp_path / "jpg", tiny_set, encoding="jpg"))
    convert(to(tmp_path / "png", tmp_path / "npy", encoding="png"))
    family = [open_real(str(p)) for p in (tiny_set, tmp_path / "npy", tmp_path / "jpg", tmp_path / "png")]
    assert len({real.digest for real in family}) == 4
    for number, made_of in enumerate(family):
        generated = make_synthetic(tmp_path / f"generated{number}", made_of)
        convert(to(tmp_path / f"converted{number}", generated, encoding="npy"))
        for real in family:
            open_synthetic(str(generated), real)
            open_synthetic(str(tmp_path / f"converted{number}"), real)
    converted = ShardSet(tmp_path / "converted3").manifest
    assert converted.lineage.json_value() == {
        "kind": "synthetic",
        "real_digest": family[3].digest,
        "real_ancestors": [family[1].digest, family[0].digest],
        "split": "train",
        "generators": {},
        "ancestors": [ShardSet(tmp_path / "generated3").digest],
    }
    gates = Gates(name="default", classes={"Normal": ClassGates(tried=2, admitted=1)})
    assert converted.provenance.gates == gates

    stranger = forge_stranger(tiny_set, tmp_path / "stranger")
    convert(to(tmp_path / "stranger-npy", stranger))
    for other in (stranger, tmp_path / "stranger-npy"):
        for number in range(4):
            with pytest.raises(UserError, match="descends from another real set"):
                open_synthetic(str(tmp_path / f"converted{number}"), open_real(str(other)))


def forge_stranger(tiny_set: Path, to: Path) -> Path:
    """A set of the same images that was imported another time."""
    shutil.copytree(tiny_set, to)
    manifest = read_manifest(to)
    (to / "manifest.json").unlink()
    provenance = manifest.provenance.json_value()
    provenance["options"]["seed"] = 1
    write_set(
        LocalStore(to),
        manifest.classes,
        manifest.image_size,
        manifest.encoding,
        manifest.strata,
        provenance=provenance,
    )
    return to


def test_only_the_train_split_may_be_learnt_from(tiny_set: Path) -> None:
    real = ShardSet(tiny_set)
    assert descends_from({"real_digest": real.digest, "split": "train"}, real)
    assert not descends_from({"real_digest": real.digest, "split": "val"}, real)


def save_generator(folder: Path, real: ShardSet) -> str:
    """A generator of Normal as training leaves it; returns the digest of its weights."""
    return export_generator(
        folder,
        Generator(DCGANConfig(size=32, z_dim=4, maps=8)),
        preset="demo",
        classes=["Normal"],
        lineage=made_from(real),
        metrics={},
    )


def generator_of(run: Path, class_name: str, real: Path) -> ImageSource:
    return gan_sources([run], [class_name], ShardSet(real))[class_name][0]


@pytest.mark.usefixtures("inline")
def test_a_generator_serves_the_family_of_its_set_at_its_own_size(tiny_set: Path, tmp_path: Path) -> None:
    convert(to(tmp_path / "npy", tiny_set))
    convert(to(tmp_path / "small", tiny_set, size=16))
    digest = save_generator(tmp_path / "gan/normal", ShardSet(tiny_set))
    for real in (tiny_set, tmp_path / "npy"):
        assert generator_of(tmp_path / "gan", "Normal", real).digest == digest
    with pytest.raises(UserError, match=r"generates images of 32 px, but .*small has 16 px"):
        generator_of(tmp_path / "gan", "Normal", tmp_path / "small")
    stranger = forge_stranger(tiny_set, tmp_path / "stranger")
    with pytest.raises(UserError, match="was trained on another set"):
        generator_of(tmp_path / "gan", "Normal", stranger)


# ---- however it came about


@pytest.mark.usefixtures("small_shards")
def test_the_digest_does_not_depend_on_the_workers(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = convert(to(tmp_path / "two", tiny_set, size=16, encoding="npy", workers=2))
    monkeypatch.setattr(write_pool, "ProcessPoolExecutor", InlinePool)
    one = convert(to(tmp_path / "one", tiny_set, size=16, encoding="npy", workers=1))
    assert one.digest == two.digest
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.usefixtures("inline", "small_shards")
def test_how_the_source_is_cut_into_shards_does_not_matter(tiny_set: Path, tmp_path: Path) -> None:
    """Parts of source shards that begin and end anywhere."""
    convert(to(tmp_path / "five", tiny_set, min_shards=5))
    convert(to(tmp_path / "from-five", tmp_path / "five", encoding="npy", min_shards=1))
    convert(to(tmp_path / "direct", tiny_set, encoding="npy"))
    assert {e.shards for e in ShardSet(tmp_path / "five").manifest.strata} == {5, 4, 3, 2}
    for tar in (tmp_path / "direct").glob("*.tar"):
        assert (tmp_path / "from-five" / tar.name).read_bytes() == tar.read_bytes()


@pytest.mark.usefixtures("inline", "small_shards")
@pytest.mark.parametrize("lost", [0, 1, 5, 100])
def test_an_unfinished_conversion_is_finished_bit_for_bit(
    tiny_set: Path,
    tmp_path: Path,
    lost: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "set"
    convert(to(out, tiny_set))
    whole = contents(out)
    provenance = json.loads(whole["manifest.json"])["provenance"]
    for name in FOUND_LATER:
        provenance.pop(name, None)
    (out / "manifest.json").unlink()
    (out / ".job.json").write_bytes(canonical_json(provenance))
    tars = sorted(out.glob("*.tar"))
    assert len(tars) == 13
    for tar in tars[:lost]:
        tar.unlink()
    (out / ".train-normal-real-000000.tar.4242.tmp").write_bytes(b"half a tar")
    written: list[str] = []
    write = write_pool.write_shard

    def listening(tar: TarFile, samples: Iterable[Sample]) -> ShardRow | None:
        written.append(tar.stratum.stem)
        return write(tar, samples)

    monkeypatch.setattr(write_pool, "write_shard", listening)
    convert(to(out, tiny_set))
    assert len(written) == min(lost, 13)
    assert f"{out}: continuing an unfinished set\n" in capsys.readouterr().err
    assert contents(out) == whole


@pytest.mark.usefixtures("inline", "small_shards")
def test_a_shard_of_other_samples_is_not_taken_over(tiny_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    convert(to(out, tiny_set))
    whole = contents(out)
    (out / "manifest.json").unlink()
    provenance = json.loads(whole["manifest.json"])["provenance"]
    for name in FOUND_LATER:
        provenance.pop(name, None)
    (out / ".job.json").write_bytes(canonical_json(provenance))
    for suffix in (".tar", ".index.npy"):
        shutil.copy(out / f"train-normal-real-000001{suffix}", out / f"train-normal-real-000000{suffix}")
    convert(to(out, tiny_set))
    assert contents(out) == whole


SCRIPT = f"""
import sys
from cxrdist.run.checkpoint import save_weights, weights_sha256
from cxrdist.data.tools import convert as module
module.samples_per_shard = lambda *_: {SAMPLES_PER_SHARD}
module.convert(module.ConvertOptions(set=sys.argv[1], out=sys.argv[2], encoding="npy", workers=1))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("inline", "small_shards")
def test_a_killed_conversion_makes_the_same_set(tiny_set: Path, tmp_path: Path) -> None:
    convert(to(tmp_path / "whole", tiny_set))
    out = tmp_path / "killed"
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(tiny_set), str(out)]) as process:
        wait_until(lambda: any(out.glob("*.tar")), process)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
    while any(map(is_running, workers)):
        time.sleep(0.001)
    if not (out / "manifest.json").exists():
        assert (out / ".job.json").exists() and (out / ".lock").exists()
    convert(to(out, tiny_set))
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.usefixtures("inline")
def test_the_same_command_on_a_finished_set_changes_nothing(
    tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = convert(to(tmp_path / "npy", tiny_set))
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "npy").iterdir()}
    assert convert(to(tmp_path / "npy", tiny_set, workers=3)) == manifest
    assert f"already finished, digest {manifest.digest[:12]}" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "npy").iterdir()} == times


@pytest.mark.usefixtures("inline")
def test_places_may_be_urls(tiny_set: Path, tmp_path: Path) -> None:
    url = f"memory://convert-{uuid.uuid4().hex}/set"
    local = convert(to(tmp_path / "npy", tiny_set))
    assert convert(to(url, tiny_set)) == local
    back = convert(to(tmp_path / "back", url, encoding="png"))
    assert verify(str(tmp_path / "back")) == []
    assert back.counts == local.counts
    assert "manifest.json" in store_of(url).names()


# ---- mistakes


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"size": 64},
            "size: {source} has images of 32 px, which cannot be enlarged",
        ),
        (
            {"encoding": "png"},
            "{source} has images of 32 px in png, so there is nothing to convert: set another",
        ),
        (
            {"size": 32},
            "{source} has images of 32 px in png, so there is nothing to convert: set another --size",
        ),
        ({"out": "{source}"}, "{source} is the set itself: name another --out"),
        ({"set": "{source}/nowhere"}, "{source}/nowhere: no such shard set"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tiny_set: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    words = {k: v.format(source=tiny_set) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(UserError) as caught:
        convert(to(**{"out": tmp_path / "new", "source": tiny_set} | words))
    assert str(caught.value).startswith(told.format(source=tiny_set))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoding": "pgn"}, "encoding: 'pgn' is not a choice; did you mean 'png'?"),
        ({"size": 8}, "size: must be 16 pixels or more, not 8"),
        ({"min_shards": 0}, "min_shards: must be 1 or more, not 0"),
        ({"workers": -1}, "workers: must be 0"),
    ],
)
def test_options_are_checked(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        ConvertOptions(**changes)
    assert str(caught.value).startswith(told)


@pytest.mark.usefixtures("inline")
def test_another_conversion_into_the_same_folder_is_refused(tiny_set: Path, tmp_path: Path) -> None:
    convert(to(tmp_path / "npy", tiny_set))
    before = contents(tmp_path / "npy")
    with pytest.raises(UserError, match=r"already holds another set \(other source or conversion\)"):
        convert(to(tmp_path / "npy", tiny_set, size=16))
    assert contents(tmp_path / "npy") == before


@pytest.mark.usefixtures("inline")
def test_a_damaged_source_is_named_and_nothing_is_left_out(tiny_set: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_set, tmp_path / "source"))
    tar = source / "val-normal-real-000000.tar"
    data = bytearray(tar.read_bytes())
    data[-20_000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(UserError, match=r"val-normal-real-000000\.tar: changed since it was written"):
        convert(to(tmp_path / "npy", source))
    assert not (tmp_path / "npy" / "manifest.json").exists()
    shutil.copy(tiny_set / tar.name, tar)
    convert(to(tmp_path / "npy", source))
    assert verify(str(tmp_path / "npy")) == []


@pytest.mark.usefixtures("inline")
def test_an_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    store, stratum = LocalStore(tmp_path / "source"), Stratum("train", "Normal", "real")
    good = Sample("a", encode(np.zeros((16, 16), np.uint8), "png"), {})
    row = write_shard(store, 0, stratum, 0, "png", [good, Sample("b", b"junk", {})])
    write_set(store, ["Normal"], 16, "png", [write_table(store, stratum, [row])])
    where = f"{tmp_path}/source/train-normal-real-000000.tar: sample b"
    for changes in ({}, {"min_shards": 2}):
        with pytest.raises(UserError) as caught:
            convert(to(tmp_path / "new", tmp_path / "source", **changes))
        assert str(caught.value).startswith(f"{where}: not an image of a known format")
        assert not (tmp_path / "new" / "manifest.json").exists()
        shutil.rmtree(tmp_path / "new")


def test_classes_that_would_share_files_are_refused(tmp_path: Path) -> None:
    """As no importer of ours writes them; another writer's files may have other names."""
    store = LocalStore(tmp_path / "set")
    strata = []
    for label, name in enumerate(("Mass A", "Mass B")):
        stratum = Stratum("train", name, "real")
        image = encode(np.zeros((16, 16), np.uint8), "png")
        row = write_shard(store, 0, stratum, label, "png", [Sample(f"k{label}", image, {})])
        entry = write_table(store, stratum, [row])
        strata.append(entry.model_copy(update={"class_name": ("Mass A", "Mass-A")[label]}))
    write_set(store, ["Mass A", "Mass-A"], 16, "png", strata)
    with pytest.raises(
        UserError, match="classes 'Mass A' and 'Mass-A' would have the same file names; rename one"
    ):
        convert(to(tmp_path / "out", tmp_path / "set"))
    assert not (tmp_path / "out").exists()
