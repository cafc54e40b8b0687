"""Imports with ``--folds`` and ``--fold``: the sets of a cross-validation."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.cli.main import dispatch
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.nih14 import NIH14
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.ingest.plan import plan_import
from cxrdist.data.shards.lineage import descends_from, made_from
from cxrdist.data.shards.manifest import Provenance
from cxrdist.data.shards.open import open_synthetic
from cxrdist.data.shards.schema import SPLITS, UNLABELLED_INDEX
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage.store import LocalStore
from cxrdist.data.tools.convert import ConvertOptions, convert
from cxrdist.data.tools.info import made_lines, print_info
from cxrdist.data.tools.verify import verify
from cxrdist.errors import OptionError, UserError
from cxrdist.process import main as process_main
from tests.helpers.images import CLASSES, draw_folder
from tests.helpers.releases.nih14 import nih
from tests.helpers.shard_sets import write_set

FOLDS = 4


def options(out: Path | str, fold: int | None = 0, **changes: Any) -> IngestOptions:
    return IngestOptions(
        **{"out": str(out), "size": 32, "workers": 1, "folds": FOLDS, "fold": fold, **changes}
    )


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> NIH14:
    """60 patients with 150 images, of which 43 have no class under the rule one-target."""
    return nih(tmp_path_factory.mktemp("release") / "nih")


@pytest.fixture
def sets(release: NIH14, tmp_path: Path, inline: None) -> list[ShardSet]:
    """The sets of all folds, with the unlabelled images."""
    for fold in range(FOLDS):
        ingest(release, options(tmp_path / str(fold), fold, keep_unlabelled=True))
    return [ShardSet(tmp_path / str(fold)) for fold in range(FOLDS)]


def rows(shards: ShardSet, split: str, *, labelled: bool = True) -> np.ndarray:
    """The rows of a split in all indexes, of images with a class or without."""
    readers = [shards.stratum(s.split, s.class_name, s.origin) for s in shards.strata if s.split == split]
    found = np.concatenate([r.index(shard) for r in readers for shard in range(len(r.shards))])
    return found[(found["class"] != UNLABELLED_INDEX) == labelled]


def keys(shards: ShardSet, split: str) -> set[bytes]:
    return {*rows(shards, split)["key"].tolist()}


# ---- the sets


def test_the_tests_of_all_folds_are_disjoint_and_are_all_labelled_images(sets: list[ShardSet]) -> None:
    tests = Counter(key for shards in sets for key in keys(shards, "test"))
    everything = {key for split in SPLITS for key in keys(sets[0], split)}
    assert len(everything) == 107
    assert tests == dict.fromkeys(everything, 1)
    for fold, shards in enumerate(sets):
        assert keys(shards, "val") == keys(sets[(fold + 1) % FOLDS], "test")
        assert keys(shards, "train") == everything - keys(shards, "val") - keys(shards, "test")
        assert verify(str(shards)) == []


def test_no_patient_of_a_fold_is_in_two_splits_and_unlabelled_images_are_of_train_patients(
    release: NIH14, sets: list[ShardSet]
) -> None:
    for shards in sets:
        patients = {split: {*rows(shards, split)["patient"].tolist()} for split in SPLITS}
        held_out = patients["val"] | patients["test"]
        assert not patients["train"] & held_out
        assert not patients["val"] & patients["test"]
        unlabelled = rows(shards, "train", labelled=False)
        assert 0 < len(unlabelled) < 43
        assert not {*unlabelled["patient"].tolist()} & held_out
        assert shards.manifest.provenance.unlabelled == {"candidates": 43, "held_out": 43 - len(unlabelled)}


def test_every_class_is_even_over_the_folds(sets: list[ShardSet]) -> None:
    for name in sets[0].classes:
        of_folds = [shards.samples("test", name, "real") for shards in sets]
        assert sum(of_folds) in (21, 22)
        assert 4 <= min(of_folds) <= max(of_folds) <= 6, (name, of_folds)


def test_each_fold_has_its_own_digest_and_its_manifest_says_which_it_is(sets: list[ShardSet]) -> None:
    assert len({shards.digest for shards in sets}) == FOLDS
    for fold, shards in enumerate(sets):
        recorded = shards.manifest.provenance.options or {}
        assert (recorded["folds"], recorded["fold"], recorded["split"]) == (FOLDS, fold, "drawn")
        assert not {"val", "test"} & {*recorded}


def test_a_set_without_folds_records_no_word_of_them(tiny_set: Path) -> None:
    recorded = json.loads((tiny_set / "manifest.json").read_bytes())["provenance"]["options"]
    assert {*recorded} == {
        "classes",
        "dedup",
        "encoding",
        "find_duplicates",
        "fit",
        "label_rule",
        "min_shards",
        "seed",
        "size",
        "split",
        "test",
        "val",
    }


def test_info_and_the_import_say_the_fold(
    sets: list[ShardSet], release: NIH14, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_info(str(sets[3]))
    assert "\nfold      fold 3 of 4 is test, fold 0 val, all others train\n" in capsys.readouterr().out
    ingest(release, options(tmp_path / "again", 3))
    assert "\nrules: label rule one-target, split drawn, folds 4, fold 3, " in capsys.readouterr().out


@pytest.mark.parametrize(("folds", "fold"), [(0, 0), (3, 3), (3, -1), ("3", 0), (3, None)])
def test_info_of_folds_that_no_import_makes_says_nothing_of_them(folds: Any, fold: Any) -> None:
    lines = made_lines(Provenance(options={"folds": folds, "fold": fold}))
    assert "fold" not in {name for name, _ in lines}


@pytest.mark.usefixtures("inline")
def test_another_fold_at_the_same_place_is_refused(images: Path, tmp_path: Path) -> None:
    first = ingest(Folder(root=str(images)), options(tmp_path / "set", 0))
    assert ingest(Folder(root=str(images)), options(tmp_path / "set", 0)) == first
    with pytest.raises(UserError, match=r"already holds another set \(fold 0, now 1\): name another --out"):
        ingest(Folder(root=str(images)), options(tmp_path / "set", 1))


@pytest.mark.usefixtures("inline")
def test_the_order_of_the_source_does_not_matter(tmp_path: Path) -> None:
    draw_folder(tmp_path / "root", CLASSES)
    files = sorted(path.relative_to(tmp_path / "root") for path in (tmp_path / "root").rglob("*.png"))
    lines = [f"{file},{file.parent.name},p{i // 2}" for i, file in enumerate(files)]
    digests = set()
    for number, table in enumerate((lines, lines[::-1])):
        path = tmp_path / f"table{number}.csv"
        path.write_text("\n".join(["path,label,patient_id", *table]) + "\n")
        source = CsvTable(root=str(tmp_path / "root"), table=str(path))
        digests.add(ingest(source, options(tmp_path / str(number), 1)).digest)
    assert len(digests) == 1


# ---- every importer


@pytest.mark.usefixtures("inline")
def test_phantoms_are_dealt_by_patient(tmp_path: Path) -> None:
    plans = [plan_import(Phantom(images=300), options("unused", fold)) for fold in range(FOLDS)]
    tests = [
        {record.source_id for record, split in zip(plan.records, plan.splits) if split == "test"}
        for plan in plans
    ]
    assert sum(map(len, tests)) == len(set().union(*tests)) == 300
    for plan in plans:
        splits_of: dict[str, set[str]] = {}
        for record, split in zip(plan.records, plan.splits):
            splits_of.setdefault(record.patient, set()).add(split)
        assert len(splits_of) < 300
        assert all(len(splits) == 1 for splits in splits_of.values())
    manifest = ingest(Phantom(images=60), options(tmp_path / "set", 2, size=16))
    assert (manifest.provenance.option("folds"), manifest.provenance.option("fold")) == (FOLDS, 2)


@pytest.mark.usefixtures("inline")
def test_tars_indexed_in_place_are_dealt_too(tars: Path) -> None:
    manifest = ingest(WebDataset(root=str(tars), in_place=True), options("", 1, folds=3, dedup=False))
    assert manifest.provenance.option("fold") == 1
    assert verify(str(tars)) == []


def test_a_split_that_users_wrote_themselves_gives_way_to_folds(images: Path, tmp_path: Path) -> None:
    files = sorted(path.relative_to(images) for path in images.rglob("*.png"))
    lines = [f"{file},{file.parent.name},{'train' if i % 2 else 'test'}" for i, file in enumerate(files)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    source = CsvTable(root=str(images), table=str(tmp_path / "table.csv"))
    plan = plan_import(source, options("unused", 0))
    assert plan.split_way == "drawn"
    assert {*zip(plan.labels, plan.splits)} == {(label, split) for label in plan.classes for split in SPLITS}


@pytest.mark.usefixtures("inline")
def test_near_duplicates_are_dealt_together(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "root", dict.fromkeys(CLASSES, 12))
    for path in sorted(root.rglob("*.png")):
        number = int("".join(c for c in path.stem if c.isdigit()) or 0)
        if number % 3 == 0:
            Image.open(path).save(path.with_name(f"copy-{path.name}"))
    for fold in range(3):
        manifest = ingest(Folder(root=str(root)), options(tmp_path / str(fold), fold, folds=3, dedup=True))
        found = manifest.provenance.near_duplicates or {}
        assert (found["groups"] > 0, found["groups_across_splits"]) == (True, 0)


# ---- lineage


def make_synthetic(folder: Path, real: ShardSet) -> str:
    """A synthetic set, without images, of generators that learned from the train split of ``real``."""
    write_set(
        LocalStore(folder),
        real.classes,
        real.image_size,
        "png",
        [],
        provenance={},
        lineage={"kind": "synthetic", **made_from(real), "generators": {}},
    )
    return str(folder)


@pytest.mark.usefixtures("inline")
def test_what_learned_from_one_fold_is_refused_for_another(sets: list[ShardSet], tmp_path: Path) -> None:
    generated = make_synthetic(tmp_path / "generated", sets[0])
    open_synthetic(generated, sets[0])
    convert(ConvertOptions(set=str(sets[0]), out=str(tmp_path / "npy"), encoding="npy", workers=1))
    open_synthetic(generated, ShardSet(tmp_path / "npy"))
    for fold in (1, 2, 3):
        assert not descends_from(made_from(sets[0]), sets[fold])
        with pytest.raises(UserError, match=r"descends from another real set .* validation or test patients"):
            open_synthetic(generated, sets[fold])


# ---- options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folds", "5"], "--folds: needs the fold that is test: add --fold, 0 to 4"),
        (["--fold", "0"], "--fold: needs the number of folds: add --folds"),
        (["--folds", "2", "--fold", "0"], "--folds: must be 3 or more (test, val and train), not 2"),
        (["--folds", "5", "--fold", "5"], "--fold: must be from 0 to 4 with --folds 5, not 5"),
        (["--folds", "5", "--fold", "-1"], "--fold: must be from 0 to 4 with --folds 5, not -1"),
        (
            ["--folds", "5", "--fold", "0", "--split", "official"],
            "--split: official, but --folds draws the splits; remove one of the two options",
        ),
        (
            ["--folds", "5", "--fold", "0", "--val", "0.2"],
            "--val: --folds makes val one of the folds; remove one of the two options",
        ),
        (
            ["--folds", "5", "--fold", "0", "--test", "10"],
            "--test: --folds makes test one of the folds; remove one of the two options",
        ),
        (
            ["--folds", "5", "--fold", "0", "--val-images", "10"],
            "--val-images: --folds makes val one of the folds; remove one of the two options",
        ),
        (
            ["--folds", "5", "--fold", "0", "--test-images", "10"],
            "--test-images: --folds makes test one of the folds; remove one of the two options",
        ),
    ],
)
def test_options_that_make_no_sense_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    out = tmp_path / "set"
    with pytest.raises(SystemExit) as caught:
        process_main(lambda: dispatch(["import", "phantom", "--out", str(out), *words]))
    assert (caught.value.code, capsys.readouterr().err) == (2, f"error: {message}\n")
    assert not out.exists()


def test_a_drawn_split_may_be_named(release: NIH14) -> None:
    assert plan_import(release, options("unused", 0, split="drawn")).split_way == "drawn"
    with pytest.raises(OptionError, match=r"^split: official, but --folds"):
        options("unused", 0, split="official")


def test_a_class_in_fewer_patients_than_folds_is_named(images: Path) -> None:
    fewest = min(CLASSES, key=lambda name: CLASSES[name])
    count = CLASSES[fewest]
    with pytest.raises(UserError) as caught:
        plan_import(Folder(root=str(images)), options("unused", 0, folds=count + 1))
    assert str(caught.value) == (
        f"{fewest} has {count} patients, too few to give each of {count + 1} folds one: at most --folds {count} "
        "works; or leave the class out with --classes, or merge sources"
    )
