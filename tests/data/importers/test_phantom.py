"""Phantom sets with validation and test images of additional patients."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cxrdist.cli.main import dispatch
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.ingest.plan import ImportPlan, patients_of, plan_import
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.phantom import CLASSES
from cxrdist.process import main as process_main
from tests.helpers.shard_sets import contents, make_unfinished

TRAIN = {
    "Cardiomegaly": 240,
    "Normal": 222,
    "Pleural Effusion": 202,
    "Pulmonary Edema": 70,
    "Pneumothorax": 56,
}
"""Train images of the default set."""


def options(out: Path | str, **changes: Any) -> IngestOptions:
    return IngestOptions(out=str(out), **{"size": 16, "workers": 1, **changes})


def planned(**changes: Any) -> ImportPlan:
    return plan_import(Phantom(**changes), options("unused"))


def records_of(plan: ImportPlan, split: str) -> dict[str, str]:
    """Source id -> class, in the order of the plan."""
    ids = [record.source_id for record in plan.records]
    return {name: label for name, label, of in zip(ids, plan.labels, plan.splits) if of == split}


def test_val_and_test_have_the_requested_images_of_each_class_and_train_stays() -> None:
    default, plan = planned(), planned(val_images=100, test_images=200)
    assert list(records_of(plan, "train").items()) == list(records_of(default, "train").items())
    assert Counter(records_of(plan, "train").values()) == TRAIN
    assert Counter(records_of(plan, "val").values()) == dict.fromkeys(CLASSES, 100)
    assert Counter(records_of(plan, "test").values()) == dict.fromkeys(CLASSES, 200)
    assert plan.records_read == 1128 + 1500
    assert plan.split_way == "drawn"
    left_out = {split: len(records_of(default, split)) for split in ("val", "test")}
    assert sum(left_out.values()) == 1128 - 790
    assert plan.labelling.left_out == {
        f"{split} image replaced by --{split}-images": count for split, count in left_out.items()
    }


def test_additional_patients_have_one_image_and_are_in_no_other_split() -> None:
    plan = planned(images=300, val_images=7, test_images=9)
    splits: dict[str, set[str]] = {}
    for patient, split in zip(patients_of(plan.records), plan.splits):
        splits.setdefault(patient, set()).add(split)
    assert all(len(of) == 1 for of in splits.values())
    images = Counter(patients_of(plan.records))
    assert {images[patient] for patient, of in splits.items() if of != {"train"}} == {1}
    original = {record.patient_id for record in Phantom(images=300).records()}
    assert original.isdisjoint(patient for patient, of in splits.items() if of != {"train"})


def test_one_split_alone_is_replaced() -> None:
    default, plan = planned(images=300), planned(images=300, test_images=4)
    for split in ("train", "val"):
        assert records_of(plan, split) == records_of(default, split)
    assert Counter(records_of(plan, "test").values()) == dict.fromkeys(CLASSES, 4)


def test_additional_images_depend_on_neither_the_size_nor_the_classes_of_the_set() -> None:
    plan = planned(images=300, test_images=4)
    assert records_of(planned(images=400, test_images=4), "test") == records_of(plan, "test")
    more = records_of(planned(images=300, test_images=6), "test")
    assert list(more)[: 4 * len(CLASSES)] == list(records_of(plan, "test"))
    two = records_of(planned(images=300, test_images=4, classes=("Normal", "Pneumothorax")), "test")
    assert two == {name: label for name, label in records_of(plan, "test").items() if label in two.values()}


def train_files(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name.startswith("train-")}


def keys(folder: Path, split: str) -> Counter[str]:
    """The keys of a split's samples, as a plain tar reader finds them."""
    found: Counter[str] = Counter()
    for path in folder.glob(f"{split}-*.tar"):
        with tarfile.open(path) as tar:
            found.update(name.split(".")[0] for name in tar.getnames() if name.endswith(".png"))
    return found


@pytest.mark.slow
def test_files_of_train_are_equal_and_workers_do_not_matter(tmp_path: Path) -> None:
    ingest(Phantom(images=50), options(tmp_path / "default"))
    importer = Phantom(images=50, val_images=2, test_images=3)
    one = ingest(importer, options(tmp_path / "one"))
    two = ingest(importer, options(tmp_path / "two", workers=2))
    assert one.digest == two.digest
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert train_files(tmp_path / "one") == train_files(tmp_path / "default") != {}
    assert keys(tmp_path / "one", "train") == keys(tmp_path / "default", "train")
    assert (keys(tmp_path / "one", "val").total(), keys(tmp_path / "one", "test").total()) == (10, 15)
    assert ShardSet(str(tmp_path / "one")).manifest.provenance.source_options == {
        "images": 50,
        "val_images": 2,
        "test_images": 3,
    }


@pytest.mark.usefixtures("inline")
def test_an_interrupted_import_is_finished_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    importer = Phantom(images=50, val_images=2, test_images=3)
    ingest(importer, options(tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    make_unfinished(tmp_path / "killed")
    (tmp_path / "killed" / "test-normal-real-000000.tar").unlink()
    (tmp_path / "killed" / "val-pneumothorax-real-000000.tar").unlink()
    ingest(importer, options(tmp_path / "killed"))
    assert f"{tmp_path / 'killed'}: continuing an unfinished set\n" in capsys.readouterr().err
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_the_default_set_has_its_digest(tmp_path: Path) -> None:
    manifest = ingest(Phantom(), IngestOptions(out=str(tmp_path / "set")))
    assert manifest.digest == "5b5d68ef151265881a731c29944d01bbea39ef6bcf1f45f99e2d8ef1163f412d"


def test_a_set_without_additional_images_records_no_option_of_them() -> None:
    assert Phantom().source_options() == {"seed": 0, "images": 1128, "classes": CLASSES}
    assert Phantom(val_images=2).source_options()["val_images"] == 2
    assert "test_images" not in Phantom(val_images=2).source_options()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--val-images", "-1"], "--val-images: must be 1 or more, not -1"),
        (["--test-images", "0"], "--test-images: must be 1 or more, not 0"),
        (
            ["--val-images", "3", "--val", "0.2"],
            "--val: --val-images sets the number of val images; remove one of the two options",
        ),
        (
            ["--test-images", "3", "--test", "5"],
            "--test: --test-images sets the number of test images; remove one of the two options",
        ),
        (
            ["--val-images", "3", "--split", "official"],
            "--split: official, but cxrdist phantom 2 comes without a split of its own: remove the option",
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


def test_a_class_in_too_few_patients_is_named() -> None:
    with pytest.raises(UserError, match="Pneumothorax has 1 patient, too few to give each of train, val"):
        planned(images=12, val_images=5, test_images=5)


def test_manifest_counts(tmp_path: Path) -> None:
    ingest(Phantom(images=50, val_images=1, test_images=1), options(tmp_path / "set"))
    counts = json.loads((tmp_path / "set/manifest.json").read_bytes())["counts"]
    one_each = {name: {"real": 1} for name in CLASSES}
    assert (counts["val"], counts["test"]) == (one_each, one_each)
