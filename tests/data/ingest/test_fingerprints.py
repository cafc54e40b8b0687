"""Near-duplicate films of an import: told, counted in the manifest, and kept on one side where asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.imaging.near_duplicates import perceptual_hash
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.csv_table import CsvTable
from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.fingerprints import FingerprintTable, count_groups, one_patient_each
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.manifest import Manifest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.phantom import render


def film(patient: int, label: str = "Normal") -> np.ndarray:
    return render(seed=9, patient=patient, study=0, label=label, size=64).pixels


def record(name: str, patient: str = "") -> Record:
    return Record(source_id=name, patient_id=patient, file=name)


def test_patients_who_share_a_film_are_one_to_the_split() -> None:
    records = [record("a", "p"), record("b", "q"), record("c"), record("d"), record("e", "q"), record("f")]
    known, names = one_patient_each(records, groups=[0, 0, 2, 2, 4, 0])
    # a, b and f are one film; c and d another; e is q's as b is.
    assert names == ["p", "p", "c", "c", "p", "p"]
    assert [r.patient_id for r in known] == ["p", "q", "c", "c", "q", "p"]
    turned, names = one_patient_each(records[::-1], groups=[0, 1, 2, 2, 0, 0])
    assert names == ["p", "p", "c", "c", "p", "p"]
    assert [r.patient_id for r in turned] == ["p", "q", "c", "c", "q", "p"]


def test_groups_and_those_across_splits_are_counted() -> None:
    found = count_groups([0, 0, 2, 3, 3, 3], ["train", "val", "test", "train", "train", "train"])
    assert (found.groups, found.images, found.groups_across_splits) == (2, 5, 1)


def test_an_image_without_a_hash_is_its_own() -> None:
    table = FingerprintTable(4)
    one = perceptual_hash(film(0))
    table.put(0, one + bytes(len(one)))
    table.put(2, bytes(len(one)) + one)
    assert table.groups("comparing") == [0, 1, 2, 0]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 12 drawn films; six of each stand twice, once as a JPEG, in a CSV that gives each a patient."""
    root = tmp_path_factory.mktemp("twins")
    lines = ["path,label,patient_id"]
    rng = np.random.default_rng(3)
    for label in ("Normal", "Mass"):
        for i in range(12):
            small = Image.fromarray(rng.integers(0, 256, (7, 7), np.uint8))
            image = small.resize((64, 64), Image.Resampling.BICUBIC)
            image.save(root / f"{label}{i}.png")
            lines.append(f"{label}{i}.png,{label},{label}{i}")
            if i < 6:
                image.save(root / f"{label}{i}-again.jpg", quality=90)
                lines.append(f"{label}{i}-again.jpg,{label},{label}{i}-again")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def imported(twins: Path, out: Path, **options: object) -> Manifest:
    made = {"size": 32, "val": 0.25, "test": 0.25, "workers": 1, **options}
    return ingest(CsvTable(root=str(twins)), IngestOptions(out=str(out), **made))  # type: ignore[arg-type]


def test_near_duplicates_are_told_and_dedup_puts_them_on_one_side(
    twins: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    inline: None,
) -> None:
    near = imported(twins, tmp_path / "as-it-is").provenance.near_duplicates
    assert near is not None
    logged = capsys.readouterr().err
    assert near["groups"] == 12 and near["images"] == 24 and near["groups_across_splits"] > 0
    assert f"warning: {near['groups_across_splits']} of them lie in more than one split" in logged
    assert "-again.jpg (" in logged

    manifest = imported(twins, tmp_path / "dedup", dedup=True)
    assert manifest.provenance.near_duplicates == {
        "groups": 12,
        "images": 24,
        "groups_across_splits": 0,
    }
    assert "more than one split" not in capsys.readouterr().err
    assert manifest.provenance.option("dedup") is True
    # Told patients keep their own hash: the split alone keeps them together.
    shards = ShardSet(tmp_path / "dedup")
    patients = {
        bytes(p) for s in shards.strata for p in shards.stratum(*vars(s).values()).index(0)["patient"]
    }
    assert len(patients) == 36


def test_images_of_unknown_patients_that_show_one_film_are_one_patient(
    tmp_path: Path,
    inline: None,
) -> None:
    rng = np.random.default_rng(4)
    for label in ("Normal", "Mass"):
        (tmp_path / "root" / label).mkdir(parents=True)
        for i in range(6):
            small = Image.fromarray(rng.integers(0, 256, (7, 7), np.uint8))
            image = small.resize((64, 64), Image.Resampling.BICUBIC)
            image.save(tmp_path / "root" / label / f"{i}.png")
            image.resize((48, 48)).save(tmp_path / "root" / label / f"{i}-small.png")
    options = IngestOptions(out=str(tmp_path / "set"), size=32, val=0.34, test=0.34, workers=1)
    manifest = ingest(Folder(root=str(tmp_path / "root")), options)
    assert manifest.provenance.option("dedup") is True  # nobody said so: no patient is known
    shards = ShardSet(tmp_path / "set")
    split_of: dict[bytes, set[str]] = {}
    images = 0
    for stratum in shards.strata:
        for patient in shards.stratum(*vars(stratum).values()).index(0)["patient"]:
            split_of.setdefault(bytes(patient), set()).add(stratum.split)
            images += 1
    assert images == 24 and len(split_of) == 12
    assert all(len(splits) == 1 for splits in split_of.values())


def test_with_films_as_patients_too_few_may_be_left(tmp_path: Path, inline: None) -> None:
    for label in ("Normal", "Mass"):
        (tmp_path / "root" / label).mkdir(parents=True)
        for i in range(4):
            pixels = film(i if label == "Normal" else 50, label="Normal")
            Image.fromarray(pixels).save(tmp_path / "root" / label / f"{i}.png")
    out = tmp_path / "set"
    with pytest.raises(
        UserError, match="with near-duplicate films as one patient: Mass has 1 patient, too few"
    ):
        ingest(Folder(root=str(tmp_path / "root")), IngestOptions(out=str(out), size=32, workers=1))
    assert not out.exists()


def test_the_manifest_is_the_same_after_a_shard_was_taken_over(
    twins: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inline: None,
) -> None:
    """Hashes of a shard that a killed job wrote come from what it holds: the same as of one written now."""
    for encoding in ("png", "jpg"):
        whole = imported(twins, tmp_path / f"whole-{encoding}", encoding=encoding)
        out = tmp_path / f"killed-{encoding}"
        imported(twins, out, encoding=encoding)
        manifest = json.loads((out / "manifest.json").read_bytes())
        job = {k: v for k, v in manifest["provenance"].items() if k not in ("undecodable", "near_duplicates")}
        (out / ".job.json").write_text(json.dumps(job))
        (out / "manifest.json").unlink()
        (out / "train-mass-real-000000.tar").unlink()
        assert imported(twins, out, encoding=encoding).digest == whole.digest


def test_dedup_and_a_whole_official_split_contradict_each_other(tmp_path: Path) -> None:
    lines = [f"{i}.png,Normal,{split}" for i, split in enumerate(["train", "val", "test"])]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    with pytest.raises(UserError, match=r"^dedup: the source's own split is used as it is"):
        ingest(CsvTable(root=str(tmp_path)), IngestOptions(out=str(tmp_path.parent / "set"), dedup=True))
    with pytest.raises(UserError, match="dedup: needs the near-duplicates"):
        IngestOptions(out="x", dedup=True, find_duplicates=False)


def test_without_room_for_the_table_nothing_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(
        UserError, match=r"No space left on device, for 1\.0 MiB .* set TMPDIR to another folder"
    ):
        FingerprintTable(1000)
