"""Images without a class, kept with ``--keep-unlabelled``."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.console import size_text
from cxrdist.data.deidentify import load_salt
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.nih14 import NIH14
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest import ingest as ingest_module
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.ingest.plan import plan_import
from cxrdist.data.loading.mix_sets import train_counts
from cxrdist.data.shards.manifest import UNLABELLED_STRATUM
from cxrdist.data.shards.schema import UNLABELLED, UNLABELLED_INDEX
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.tools import info, preview, stats
from cxrdist.data.tools.convert import ConvertOptions, convert
from cxrdist.data.tools.reindex import reindex
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers.images import CLASSES, draw_folder
from tests.helpers.releases.nih14 import nih
from tests.helpers.shard_sets import contents, make_unfinished

TABLE = f"{UNLABELLED_STRATUM.stem}."
IMAGES = ("train", UNLABELLED, "real")


def options(out: Path | str, **changes: Any) -> IngestOptions:
    values = {"out": str(out), "size": 32, "val": 0.2, "test": 0.2, "workers": 1, "keep_unlabelled": True}
    return IngestOptions(**{**values, **changes})


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> NIH14:
    """60 patients with 150 images, of which 43 have no class under the rule one-target."""
    return nih(tmp_path_factory.mktemp("release") / "nih")


@pytest.fixture
def both(release: NIH14, tmp_path: Path, inline: None) -> tuple[Path, Path]:
    """A set with the unlabelled images, and the same without them."""
    kept, plain = tmp_path / "kept", tmp_path / "plain"
    ingest(release, options(kept))
    ingest(release, options(plain, keep_unlabelled=False))
    return kept, plain


def rows_of(shards: ShardSet) -> np.ndarray:
    """The rows of all indexes."""
    readers = [shards.stratum(s.split, s.class_name, s.origin) for s in shards.strata]
    return np.concatenate([r.index(shard) for r in readers for shard in range(len(r.shards))])


# ---- which images


def test_the_unlabelled_images_are_those_of_patients_without_an_image_in_val_or_test(
    release: NIH14, both: tuple[Path, Path]
) -> None:
    kept, plain = map(ShardSet, both)
    salt = load_salt(None)
    split_of = {bytes(row["patient"]).decode(): bytes(row["split"]).decode() for row in rows_of(plain)}
    labelled = {bytes(row["key"]).decode() for row in rows_of(plain)}
    no_class = [r for r in release.records() if salt.key(r.source_id) not in labelled]
    expected = {
        salt.key(r.source_id) for r in no_class if split_of.get(salt.patient(r.patient), "train") == "train"
    }
    reader = kept.stratum(*IMAGES)
    keys = [reader.key(i).decode() for i in range(reader.samples)]
    assert keys == sorted(expected)
    assert (len(labelled), len(no_class), len(expected)) == (107, 43, kept.unlabelled_samples)
    # Some of them are of patients with no labelled image.
    assert {salt.patient(r.patient) for r in no_class} - {*split_of}
    assert kept.manifest.provenance.unlabelled == {"candidates": 43, "held_out": 43 - len(expected)}
    assert 0 < len(expected) < 43


def test_no_patient_is_in_two_splits(both: tuple[Path, Path]) -> None:
    shards = ShardSet(both[0])
    rows = rows_of(shards)
    patients = {s: {*rows["patient"][rows["split"] == s].tolist()} for s in (b"train", b"val", b"test")}
    assert not patients[b"train"] & (patients[b"val"] | patients[b"test"])
    is_unlabelled = rows["class"] == UNLABELLED_INDEX
    assert is_unlabelled.sum() == shards.unlabelled_samples
    assert {*zip(rows["split"][is_unlabelled], rows["origin"][is_unlabelled])} == {(b"train", b"real")}
    assert verify(str(both[0])) == []


def test_the_labelled_images_are_the_same_with_and_without(both: tuple[Path, Path]) -> None:
    kept, plain = (contents(path) for path in both)
    added = {name for name in kept if name.startswith(UNLABELLED_STRATUM.stem)}
    assert {name for name in added if not name.startswith(TABLE)} == {
        "train-unlabelled-real-000000.tar",
        "train-unlabelled-real-000000.index.npy",
    }
    assert {name: data for name, data in kept.items() if name not in {*added, "manifest.json"}} == {
        name: data for name, data in plain.items() if name != "manifest.json"
    }


def test_the_manifest_counts_classes_alone_and_names_the_option_if_it_is_given(
    both: tuple[Path, Path],
) -> None:
    kept, plain = (json.loads((path / "manifest.json").read_bytes()) for path in both)
    for field in ("classes", "counts", "lineage"):
        assert kept[field] == plain[field]
    assert UNLABELLED not in kept["classes"]
    assert [s for s in kept["strata"] if s["class"] != UNLABELLED] == plain["strata"]
    assert kept["provenance"]["options"] == plain["provenance"]["options"] | {"keep_unlabelled": True}
    # Without the option, the manifest has no word of it: digests are those of earlier versions.
    assert not {"unlabelled", "keep_unlabelled"} & {*plain["provenance"], *plain["provenance"]["options"]}
    assert plain["provenance"]["left_out"] == {"no target finding": 21, "several targets": 22}
    assert kept["provenance"]["left_out"] == {}
    # Of keys, classes, splits and metadata, as a version without the option computed it.
    assert plain["provenance"]["records_sha256"] == RECORDS_SHA256


RECORDS_SHA256 = "bf8bdb12bb2f9f87e043c9c5145083bb60bedaaba500eae770919aa129048642"


def test_a_default_mix_has_no_unlabelled_image(both: tuple[Path, Path]) -> None:
    kept, plain = map(ShardSet, both)
    assert train_counts(kept, None) == train_counts(plain, None)
    assert kept.samples("train", UNLABELLED, "real") == 0


def test_cls_is_minus_one_and_the_metadata_is_that_of_any_image(both: tuple[Path, Path]) -> None:
    with tarfile.open(both[0] / "train-unlabelled-real-000000.tar") as tar:
        names = tar.getnames()
        assert [name.partition(".")[2] for name in names[:3]] == ["cls", "json", "png"]
        cls, meta = (tar.extractfile(name) for name in names[:2])
        assert cls is not None and meta is not None
        assert int(cls.read()) == -1
        assert json.loads(meta.read()).keys() == {
            *("age", "class", "findings", "origin", "patient", "phantom", "sex", "source", "view")
        }


@pytest.mark.usefixtures("inline")
def test_what_is_printed(release: NIH14, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = ingest(release, options(tmp_path / "set"))
    entry = manifest.unlabelled
    assert entry is not None
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["unlabelled", str(entry.samples), str(entry.samples), "0", "0"] in lines
    assert ["used", "107", "train", "val", "test"] in lines
    assert ["left", "out", str(43 - entry.samples)] in lines
    held_out = "no class, and the patient is in val or test"
    assert [*held_out.split(), str(43 - entry.samples)] in lines


@pytest.mark.usefixtures("inline")
def test_a_source_in_which_every_image_has_a_class(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = ingest(Folder(root=str(images)), options(tmp_path / "set"))
    assert manifest.unlabelled is None
    assert manifest.provenance.unlabelled == {"candidates": 0, "held_out": 0}
    assert "warning: no unlabelled image is kept: every usable image has a class" in capsys.readouterr().err


# ---- the same set, however it came about


def test_the_bytes_do_not_depend_on_the_workers(
    release: NIH14, both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # workers that are processes
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path.parent / "config"))
    salt = tmp_path / "salt"
    salt.write_text("a salt for tests, 16 bytes or more\n")
    ingest(release, options(tmp_path / "two", workers=2, salt_file=str(salt)))
    assert contents(tmp_path / "two") == contents(both[0])


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("dedup", [False, True])
def test_an_unfinished_set_is_finished_bit_for_bit(
    release: NIH14, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, dedup: bool
) -> None:
    monkeypatch.setattr(ingest_module, "samples_per_shard", lambda *_: 3)
    ingest(release, options(tmp_path / "whole", dedup=dedup))
    whole = contents(tmp_path / "whole")
    assert len([name for name in whole if name.startswith("train-unlabelled-real-0")]) > 4
    out = Path(shutil.copytree(tmp_path / "whole", tmp_path / "killed"))
    make_unfinished(out)
    (out / "train-unlabelled-real-000001.tar").unlink()
    (out / "train-unlabelled-real-000002.index.npy").unlink()
    ingest(release, options(out, dedup=dedup))
    assert contents(out) == whole
    ingest(release, options(out, dedup=dedup))  # already finished
    assert contents(out) == whole


def test_a_set_without_them_is_another_set(release: NIH14, both: tuple[Path, Path]) -> None:
    for path, keeps in zip(both, (False, True)):
        with pytest.raises(UserError, match=r"already holds another set \(keep_unlabelled "):
            ingest(release, options(path, keep_unlabelled=keeps))


# ---- sources with a split of their own, unknown patients, near-duplicates, tars in place


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("has_val", [True, False])
def test_the_sources_own_split_is_kept(tmp_path: Path, *, has_val: bool) -> None:
    """Classes that are not asked for are unlabelled: no image that the source has in val or test, nor of a patient
    that it has there, whatever its class."""
    root = tmp_path / "root"
    root.mkdir()
    rows = ["path,label,patient_id,split"]
    rng = np.random.default_rng(5)

    def add(name: str, label: str, patient: str, split: str) -> None:
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(root / f"{name}.png")
        rows.append(f"{name}.png,{label},{patient},{split}")

    for label in ("Normal", "Mass"):
        for i, split in enumerate(["train"] * 4 + ["val" if has_val else "train", "test"]):
            add(f"{label}{i}", label, f"{label}{i}", split)
    add("a", "Other", "Mass0", "train")  # of a patient in train (if no val is drawn)
    add("b", "Other", "alone", "train")
    add("c", "Other", "alone2", "test")
    add("d", "Other", "Normal5", "train")  # the source has the patient in test
    add("e", "Other", "alone3", "train")
    add("f", "Other", "alone3", "test")  # divided by the source: held out
    add("g", "Other", "nowhere", "")
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "set"
    manifest = ingest(
        CsvTable(root=str(root), table="table.csv"), options(out, classes=("Normal", "Mass"), val=1)
    )
    shards, salt = ShardSet(out), load_salt(None)
    reader = shards.stratum(*IMAGES)
    keys = {reader.key(i).decode() for i in range(reader.samples)}
    names = {salt.key(name): name for line in rows[1:] for name in [line.partition(",")[0]]}
    found = {names[key] for key in keys}
    patients_of_val = {*rows_of(shards)["patient"][rows_of(shards)["split"] == b"val"].tolist()}
    mass0_is_in_val = salt.patient("Mass0").encode() in patients_of_val
    assert found == {"b.png"} | (set() if mass0_is_in_val else {"a.png"})
    assert has_val is False or not mass0_is_in_val
    assert manifest.provenance.unlabelled == {"candidates": 6, "held_out": 6 - len(found)}
    assert manifest.provenance.left_out == {"in none of the source's own splits": 1}
    assert verify(str(out)) == []


@pytest.mark.usefixtures("inline")
def test_a_near_duplicate_of_an_image_in_val_or_test_is_not_kept(tmp_path: Path) -> None:
    """A folder names no patient, so films are compared: each labelled image has a copy among the others."""
    root = draw_folder(tmp_path / "root", CLASSES)
    (root / "Other").mkdir()
    for name in CLASSES:
        for path in sorted((root / name).iterdir()):
            image = Image.open(path).resize((40, 40), Image.Resampling.LANCZOS)
            image.save(root / "Other" / f"{name} {path.name}")
    alone = np.random.default_rng(11).integers(0, 256, (32, 32), np.uint8)
    Image.fromarray(alone).save(root / "Other" / "alone.png")
    wanted = tuple(CLASSES)
    manifest = ingest(Folder(root=str(root)), options(tmp_path / "kept", classes=wanted))
    plain = ingest(Folder(root=str(root)), options(tmp_path / "plain", classes=wanted, keep_unlabelled=False))
    assert [s for s in manifest.strata if s.class_name != UNLABELLED] == plain.strata
    train = sum(origins["real"] for origins in plain.counts["train"].values())
    assert manifest.provenance.unlabelled == {"candidates": 33, "held_out": 32 - train}
    assert manifest.unlabelled is not None and manifest.unlabelled.samples == train + 1
    # Of the images in the set alone, and none of them across splits.
    assert manifest.provenance.near_duplicates == {
        "groups": train,
        "images": 2 * train,
        "groups_across_splits": 0,
    }


@pytest.mark.usefixtures("inline")
def test_tars_in_place(tmp_path: Path) -> None:
    root = tmp_path / "tars"
    root.mkdir()
    rng = np.random.default_rng(2)
    expected = Counter[str]()
    for t in range(2):
        with tarfile.open(root / f"{t}.tar", "w") as tar:
            for i in range(12):
                label = ("Normal", "Mass", "Other")[i % 3]
                expected[label] += 1
                image, meta = tmp_path / "image.png", tmp_path / "meta.json"
                Image.fromarray(rng.integers(0, 256, (20, 20), np.uint8)).save(image)
                meta.write_text(json.dumps({"label": label, "patient_id": f"p{t}{i}"}))
                tar.add(image, f"{t}{i}.png")
                tar.add(meta, f"{t}{i}.json")
    ingest(WebDataset(root=str(root), in_place=True), options("", classes=("Normal", "Mass"), encoding="png"))
    shards = ShardSet(root)
    assert shards.classes == ["Normal", "Mass"] or shards.classes == ["Mass", "Normal"]
    assert shards.unlabelled_samples == expected["Other"] == 8
    assert shards.stratum(*IMAGES).pixels(7).shape == (32, 32)
    assert verify(str(root)) == []
    converted = convert(ConvertOptions(set=str(root), out=str(tmp_path / "npy"), workers=1))
    assert converted.unlabelled is not None and converted.unlabelled.samples == 8
    assert verify(str(tmp_path / "npy")) == []


def test_a_class_of_the_reserved_name_is_refused(tmp_path: Path) -> None:
    for name in ("unlabelled", "Unlabelled!"):
        root = draw_folder(tmp_path / name, {"Normal": 6, name: 6})
        with pytest.raises(
            UserError, match=f"^class '{name}': the name is reserved for images without a class"
        ):
            plan_import(Folder(root=str(root)), options(tmp_path / "set"))
        plan = plan_import(Folder(root=str(root)), options(tmp_path / "set", classes=("Normal",)))
        assert plan.unlabelled == 6  # as the images of any class that is not asked for


# ---- commands


@pytest.mark.usefixtures("inline")
def test_converting(both: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = convert(ConvertOptions(set=str(both[0]), out=str(tmp_path / "npy"), size=16, workers=1))
    source, made = ShardSet(both[0]), ShardSet(tmp_path / "npy")
    readers = [shards.stratum(*IMAGES) for shards in (source, made)]
    assert readers[1].samples == readers[0].samples == made.unlabelled_samples
    assert [r.key(0) for r in readers[1:]] == [readers[0].key(0)]
    assert manifest.counts == source.manifest.counts
    assert manifest.provenance.unlabelled == source.manifest.provenance.unlabelled
    assert verify(str(tmp_path / "npy")) == []


def test_an_index_is_rebuilt(both: tuple[Path, Path]) -> None:
    before = contents(both[0])
    index = both[0] / "train-unlabelled-real-000000.index.npy"
    index.unlink()
    assert [problem.kind for problem in verify(str(both[0]))] == ["missing"]
    assert reindex(str(both[0])).rebuilt == [index.name]
    assert contents(both[0]) == before


def test_info_and_stats(both: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    kept, plain = map(str, both)
    count = ShardSet(kept).unlabelled_samples
    tables = []
    for place in (plain, kept):
        info.print_info(place)
        lines = capsys.readouterr().out.splitlines()
        tables.append(lines[next(i for i, line in enumerate(lines) if line.startswith("class ")) :])
    assert tables[0] == tables[1]
    tar = both[0] / "train-unlabelled-real-000000.tar"
    size = size_text(tar.stat().st_size)
    assert f"no class  {count} unlabelled images for GANs, train only, {size}" in lines
    assert f"left out  {43 - count} (no class, and the patient is in val or test)" in lines
    found = [stats.as_json(stats.stats(place)) for place in (plain, kept)]
    assert found[1].pop("unlabelled")["images"] == count
    assert {**found[1], "digest": ""} == {**found[0], "digest": ""}


def test_a_preview_shows_them_last(both: tuple[Path, Path]) -> None:
    kept = ShardSet(both[0])
    rows = preview.rows_of([kept], "train", 4)
    assert [(row.class_name, row.samples) for row in rows[-1:]] == [(UNLABELLED, kept.unlabelled_samples)]
    assert UNLABELLED not in [row.class_name for row in preview.rows_of([kept], "val", 4)]
