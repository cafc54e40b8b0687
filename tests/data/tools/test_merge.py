"""Merging sets, and growing one: every patient stays in its split, and nothing is merged that may leak."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.lineage import descends_from, made_from
from cxrdist.data.shards.manifest import Manifest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.tools.merge import MergeOptions, merge
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers.images import draw_folder
from tests.helpers.shard_sets import contents, make_unfinished, members, pixels

pytestmark = pytest.mark.usefixtures("inline")


def options(out: Path, **changes: object) -> IngestOptions:
    return IngestOptions(**{"out": str(out), "size": 16, "workers": 1, "find_duplicates": False, **changes})  # type: ignore[arg-type]


def hospital(root: Path, counts: dict[str, int], patients_from: int = 0) -> CsvTable:
    """Two images a patient, who are numbered from ``patients_from`` on within each class."""
    draw_folder(root, counts, size=16)
    lines = [
        f"{name}/{i:03d}.png,{name},{name}-{patients_from + i // 2}"
        for name, count in counts.items()
        for i in range(count)
    ]
    (root / "labels.csv").write_text("\n".join(["path,label,patient_id", *lines]) + "\n")
    return CsvTable(root=str(root))


def split_of_patient(folder: Path) -> dict[str, str]:
    shards = ShardSet(folder)
    found: dict[str, str] = {}
    for stratum in shards.strata:
        reader = shards.stratum(stratum.split, stratum.class_name, stratum.origin)
        for number in range(reader.samples):
            patient = reader.row(number)["patient"].decode()
            assert found.setdefault(patient, stratum.split) == stratum.split
    return found


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Mercy: Normal, Odd; Grace: Normal, Cardiomegaly; no common patient."""
    mercy = hospital(tmp_path / "mercy", {"Normal": 20, "Odd": 12})
    grace = hospital(tmp_path / "grace", {"Normal": 16, "Cardiomegaly": 14})
    ingest(mercy, options(tmp_path / "m", source_name="Mercy"))
    ingest(grace, options(tmp_path / "g", source_name="Grace"))
    return tmp_path / "m", tmp_path / "g"


def merged(*sets: Path, out: Path, **changes: object) -> Manifest:
    return merge(MergeOptions(**{"sets": tuple(map(str, sets)), "out": str(out), "workers": 1, **changes}))  # type: ignore[arg-type]


def test_classes_are_joined_by_name_and_all_else_is_kept(two: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = merged(*two, out=tmp_path / "both")
    assert manifest.classes == ["Cardiomegaly", "Normal", "Odd"] and manifest.samples == 62
    ours = [ShardSet(folder).manifest.counts for folder in two]
    for split, of_split in manifest.counts.items():
        for name, origins in of_split.items():
            assert origins["real"] == sum(counts[split].get(name, {"real": 0})["real"] for counts in ours)
    assert pixels(tmp_path / "both").keys() == pixels(two[0]).keys() | pixels(two[1]).keys()
    for folder in two:
        for key, image in pixels(folder).items():
            assert (pixels(tmp_path / "both")[key] == image).all()
    json_of = {
        key: told for folder in two for of in members(folder, ".json").values() for key, told in of.items()
    }
    both = {key: told for of in members(tmp_path / "both", ".json").values() for key, told in of.items()}
    assert both == json_of
    assert split_of_patient(tmp_path / "both") == split_of_patient(two[0]) | split_of_patient(two[1])
    assert verify(str(tmp_path / "both")) == []
    kept = manifest.provenance.json_value()
    assert Counter(entry["samples"] for entry in kept["merged"]) == {32: 1, 30: 1}


def test_the_order_of_the_sets_and_a_kill_do_not_show(two: tuple[Path, Path], tmp_path: Path) -> None:
    merged(*two, out=tmp_path / "both")
    merged(*reversed(two), out=tmp_path / "other")
    assert contents(tmp_path / "both") == contents(tmp_path / "other")
    make_unfinished(tmp_path / "other")
    merged(*two, out=tmp_path / "other")
    assert contents(tmp_path / "both") == contents(tmp_path / "other")
    assert merged(*two, out=tmp_path / "other").digest == ShardSet(tmp_path / "both").digest


def test_what_learned_from_one_of_them_fits_the_merged_set(two: tuple[Path, Path], tmp_path: Path) -> None:
    merged(*two, out=tmp_path / "both")
    both = ShardSet(tmp_path / "both")
    for folder in two:
        assert descends_from(made_from(ShardSet(folder)), both)
        assert descends_from(made_from(both), ShardSet(folder))
    assert not descends_from(made_from(ShardSet(two[0])), ShardSet(two[1]))


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    ingest(hospital(tmp_path / "a", {"Normal": 20, "Odd": 12}), options(tmp_path / "first"))
    later = hospital(tmp_path / "b", {"Normal": 20, "Odd": 12})
    for name in ("Normal", "Odd"):
        (tmp_path / "b" / name).rename(tmp_path / "b" / f"new-{name}")
    table = tmp_path / "b" / "labels.csv"
    table.write_text(table.read_text().replace("\nNormal/", "\nnew-Normal/").replace("\nOdd/", "\nnew-Odd/"))
    ingest(later, options(tmp_path / "second", seed=5))
    with pytest.raises(
        UserError, match=r"patients are in two splits, such as [0-9a-f]{24} in .* and .*--keep-split"
    ):
        merged(tmp_path / "first", tmp_path / "second", out=tmp_path / "both")
    assert not (tmp_path / "both").exists()
    ingest(later, options(tmp_path / "kept", seed=5, keep_split=str(tmp_path / "first")))
    manifest = merged(tmp_path / "first", tmp_path / "kept", out=tmp_path / "both")
    assert manifest.samples == 64 and verify(str(tmp_path / "both")) == []


def test_images_that_are_in_both_are_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    ingest(CsvTable(root=str(tmp_path / "mercy")), options(tmp_path / "again", source_name="Mercy", val=0.3))
    with pytest.raises(UserError, match=r"32 images are in .*: merge sets of different images"):
        merged(two[0], tmp_path / "again", out=tmp_path / "both")
    shutil.copytree(two[0], tmp_path / "copy")
    with pytest.raises(UserError, match="named twice, or is a copy"):
        merged(two[0], tmp_path / "copy", out=tmp_path / "both")


def test_other_salts_are_refused_unless_the_sets_are_known_to_be_disjoint(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    salt = tmp_path / "salt"
    salt.write_text("of another hospital altogether\n")
    ingest(CsvTable(root=str(tmp_path / "grace")), options(tmp_path / "salted", salt_file=str(salt)))
    with pytest.raises(UserError, match=r"^assume_disjoint: the sets were hashed with different salts"):
        merged(two[0], tmp_path / "salted", out=tmp_path / "both")
    manifest = merged(two[0], tmp_path / "salted", out=tmp_path / "both", assume_disjoint=True)
    assert manifest.provenance.option("assume_disjoint") is True
    assert manifest.lineage.ancestors is None and manifest.provenance.salt_fingerprint is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"size": 32}, "image size 32, and"), ({"encoding": "npy"}, "has encoding npy, and")],
)
def test_sets_that_are_not_alike_are_refused(
    two: tuple[Path, Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    source = CsvTable(root=str(tmp_path / "grace"))
    ingest(source, options(tmp_path / "unlike", source_name="Other", **changes))
    with pytest.raises(UserError) as caught:
        merged(two[0], tmp_path / "unlike", out=tmp_path / "both")
    there = message.split()[-2].rstrip(",")
    assert there in str(caught.value) and "cxrdist shards convert" in str(caught.value)


# Growing a set.


def test_a_set_that_grows_keeps_the_split_of_every_old_patient(tmp_path: Path) -> None:
    ingest(hospital(tmp_path / "small", {"Normal": 80, "Odd": 40}), options(tmp_path / "before"))
    large = hospital(tmp_path / "large", {"Normal": 100, "Odd": 44})
    ingest(large, options(tmp_path / "drawn"))
    manifest = ingest(large, options(tmp_path / "grown", keep_split=str(tmp_path / "before")))
    before, drawn, grown = (split_of_patient(tmp_path / name) for name in ("before", "drawn", "grown"))
    assert {patient: grown[patient] for patient in before} == before
    assert any(drawn[patient] != split for patient, split in before.items())  # what the option is for
    for name, wanted in (("Normal", 15), ("Odd", 7)):
        for split in ("val", "test"):
            assert abs(manifest.counts[split][name]["real"] - wanted) <= 1
    assert manifest.provenance.option("keep_split") == ShardSet(tmp_path / "before").digest


def test_a_new_class_gets_patients_in_every_split(tmp_path: Path) -> None:
    ingest(hospital(tmp_path / "small", {"Normal": 20, "Odd": 20}), options(tmp_path / "before"))
    large = hospital(tmp_path / "large", {"Normal": 20, "Odd": 20, "New": 8})
    manifest = ingest(large, options(tmp_path / "grown", keep_split=str(tmp_path / "before")))
    assert [manifest.counts[split]["New"]["real"] for split in ("train", "val", "test")] == [4, 2, 2]


def test_another_salt_cannot_keep_a_split(tmp_path: Path) -> None:
    source = hospital(tmp_path / "small", {"Normal": 20, "Odd": 20})
    ingest(source, options(tmp_path / "before"))
    salt = tmp_path / "salt"
    salt.write_text("of another hospital altogether\n")
    with pytest.raises(UserError, match=r"^keep_split: .* was hashed with another salt"):
        ingest(source, options(tmp_path / "after", keep_split=str(tmp_path / "before"), salt_file=str(salt)))
