"""mlcroissant reads what the cards say, and the images through it.

It unpacks tars into its cache by their relative URLs alone, so each test has a cache of its own.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlcroissant
import numpy as np
import pytest
from etils import epath
from mlcroissant._src.operation_graph.operations import extract
from PIL import Image
from webdataset import TarWriter

from cxrdist.cards import croissant as room
from cxrdist.cards.dataset import write_dataset_card
from cxrdist.data.ingest.in_place import index_in_place
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.files import sha256_file
from tests.helpers.in_place import importer, options
from tests.helpers.synthetic_sets import pixels, write_synthetic


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "EXTRACT_PATH", epath.Path(tmp_path / "cache"))


@pytest.fixture(scope="module")
def real(tiny_set: Path) -> ShardSet:
    return ShardSet(tiny_set)


@pytest.fixture
def synthetic(tmp_path: Path, real: ShardSet) -> ShardSet:
    return write_synthetic(tmp_path / "set", real)


def described(tmp_path: Path, shards: ShardSet, real: ShardSet | None = None) -> Path:
    return write_dataset_card(tmp_path / "card", shards, real)[1]


def loaded(path: Path, shards: ShardSet) -> mlcroissant.Dataset:
    """Read with the files of the set, which lie elsewhere."""
    files = [one["@id"] for one in json.loads(path.read_text())["distribution"] if "sha256" in one]
    return mlcroissant.Dataset(path, mapping={name: f"{shards}/{name}" for name in files})


def records(dataset: mlcroissant.Dataset, stem: str) -> Iterator[dict[str, Any]]:
    """With fields by their names alone."""
    for record in dataset.records(stem):
        yield {field.removeprefix(f"{stem}/"): value for field, value in record.items()}


def test_mlcroissant_finds_no_error(tmp_path: Path, synthetic: ShardSet, real: ShardSet) -> None:
    for shards, other in ((synthetic, real), (real, None)):
        metadata = loaded(described(tmp_path, shards, other), shards).metadata
        assert metadata.ctx.issues.errors == set()
        # A manifest holds no date.
        assert [w for w in metadata.ctx.issues.warnings if "datePublished" not in w] == []
        assert metadata.conforms_to == room.CONFORMS_TO


def test_the_responsible_ai_fields_are_read(tmp_path: Path, synthetic: ShardSet, real: ShardSet) -> None:
    metadata = loaded(described(tmp_path, synthetic, real), synthetic).metadata
    assert metadata.data_collection.startswith("An image is a function of its generator")
    assert metadata.data_collection_type == ["Software Collection"]
    assert real.digest in metadata.data_collection_raw_data
    assert metadata.data_limitations[0] == "Not for diagnosis, nor for any other decision about a patient."
    assert any("near copies" in sentence for sentence in metadata.personal_sensitive_information)
    assert metadata.data_use_cases[0].startswith("Training of classifiers")
    assert metadata.data_biases[-1].startswith("The class of the fewest training images is Pneumothorax")
    assert metadata.data_release_maintenance_plan.startswith("The set does not change")
    assert metadata.data_annotation_protocol == [
        "The class of an image is the one that its generator was asked for; it is no radiologist's reading."
    ]


def test_records_are_the_samples(tmp_path: Path, synthetic: ShardSet, real: ShardSet) -> None:
    dataset = loaded(described(tmp_path, synthetic, real), synthetic)
    stems = [record_set.uuid for record_set in dataset.metadata.record_sets]
    assert stems == [stratum.stem for stratum in synthetic.strata]
    for index, stem in ((0, "train-normal-synthetic"), (2, "train-pneumothorax-synthetic")):
        found = sorted(records(dataset, stem), key=lambda record: record["key"])
        numbers = range(5 * index, 5 * index + 5)
        assert [record["key"] for record in found] == [b"k%04d" % number for number in numbers]
        for record, number in zip(found, numbers, strict=True):
            assert np.array_equal(np.asarray(record["image"]), pixels(number, 32))
            assert record["class_index"] == index
            assert record["class"].decode() == synthetic.classes[index]
            assert (record["split"], record["origin"]) == (b"train", b"synthetic")


def test_beside_the_tars_no_mapping_is_needed(tmp_path: Path, synthetic: ShardSet) -> None:
    path = described(tmp_path, synthetic)
    published = tmp_path / "published"
    shutil.copytree(str(synthetic), published)
    shutil.copy(path, published)
    dataset = mlcroissant.Dataset(published / "croissant.json")
    assert len([*records(dataset, "train-normal-synthetic")]) == 5


def test_files_have_the_digests_of_their_bytes(tmp_path: Path, synthetic: ShardSet) -> None:
    found = json.loads(described(tmp_path, synthetic).read_text())["distribution"]
    files = {one["contentUrl"]: one for one in found if one["@type"] == "cr:FileObject"}
    folder = Path(str(synthetic))
    assert {*files} == {path.name for path in folder.iterdir() if path.suffix in (".tar", ".json")}
    for name, one in files.items():
        assert one["sha256"] == sha256_file(folder / name)
        assert one.get("contentSize") in (None, f"{(folder / name).stat().st_size} B")


def test_a_changed_tar_is_refused(tmp_path: Path, synthetic: ShardSet) -> None:
    dataset = loaded(described(tmp_path, synthetic), synthetic)
    tar = Path(str(synthetic)) / "train-normal-synthetic-000001.tar"
    data = bytearray(tar.read_bytes())
    data[2000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(mlcroissant.GenerationError) as error:
        [*records(dataset, "train-normal-synthetic")]
    assert "is not identical" in str(error.value.__cause__)


def test_lineage_is_provenance(tmp_path: Path, synthetic: ShardSet, real: ShardSet) -> None:
    found = json.loads(described(tmp_path, synthetic).read_text())
    assert found["prov:wasDerivedFrom"] == [{"@id": f"urn:sha256:{real.digest}"}]
    assert found["prov:wasGeneratedBy"]["prov:used"] == [{"@id": f"urn:sha256:{'c' * 64}"}]
    assert found["identifier"] == f"sha256:{synthetic.digest}"


def test_many_tars_are_named_by_a_pattern(
    tmp_path: Path, synthetic: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_TARS", 5)  # the set has six
    path = described(tmp_path, synthetic)
    found = {one["@id"]: one for one in json.loads(path.read_text())["distribution"]}
    assert not [name for name in found if name.endswith(".tar")]
    assert found["train-normal-synthetic/tars"]["includes"] == [
        "train-normal-synthetic-[0-9][0-9][0-9][0-9][0-9][0-9].tar"
    ]
    assert found["train-normal-synthetic/images"]["containedIn"] == [{"@id": "train-normal-synthetic/tars"}]
    dataset = loaded(path, synthetic)
    assert dataset.metadata.ctx.issues.errors == set()
    # Valid, but mlcroissant 1.1 unpacks no tar that a pattern names. It looks for them beside the card alone.
    assert [*records(dataset, "train-normal-synthetic")] == []
    published = tmp_path / "published"
    shutil.copytree(str(synthetic), published)
    shutil.copy(path, published)
    with pytest.raises(mlcroissant.GenerationError):
        [*records(mlcroissant.Dataset(published / "croissant.json"), "train-normal-synthetic")]


def test_patterns_have_every_number_of_digits(synthetic: ShardSet) -> None:
    (entry, *_) = synthetic.manifest.strata
    six, seven, eight = (f"train-normal-synthetic-{'[0-9]' * digits}.tar" for digits in (6, 7, 8))
    for shards, expected in ((10**6, [six]), (10**6 + 1, [six, seven]), (10**7 + 1, [six, seven, eight])):
        assert room._globs(entry.model_copy(update={"shards": shards})) == expected


def test_jpeg_images_are_read(tmp_path: Path, real: ShardSet) -> None:
    shards = write_synthetic(tmp_path / "jpg", real, "jpg")
    found = [*records(loaded(described(tmp_path, shards), shards), "train-normal-synthetic")]
    assert sorted(record["key"] for record in found) == [b"k%04d" % number for number in range(5)]
    assert {record["image"].size for record in found} == {(32, 32)}


def test_npy_images_are_described(tmp_path: Path, real: ShardSet) -> None:
    shards = write_synthetic(tmp_path / "npy", real, "npy")
    dataset = loaded(described(tmp_path, shards), shards)
    assert dataset.metadata.ctx.issues.errors == set()
    # Valid, but mlcroissant 1.1 decodes no npy.
    with pytest.raises(mlcroissant.GenerationError):
        next(records(dataset, "train-normal-synthetic"))


@pytest.mark.usefixtures("inline")
def test_names_of_external_tars_are_not_told(tmp_path: Path) -> None:
    tars = tmp_path / "tars"
    tars.mkdir()
    image = io.BytesIO()
    Image.fromarray(pixels(0, 30)).save(image, "PNG")
    with TarWriter(str(tars / "doe-jane.tar"), encoder=False) as writer:
        for number in range(12):
            told = json.dumps({"patient_id": f"MRN{number}"}).encode()
            label = str(number % 2).encode()
            writer.write({"__key__": f"doe{number}", "png": image.getvalue(), "cls": label, "json": told})
    index_in_place(importer(tars, in_place=True), options())
    shards = ShardSet(tars)
    paths = write_dataset_card(tmp_path / "card", shards)
    assert not [path for path in paths if "jane" in path.read_text() or "MRN" in path.read_text()]
    metadata = loaded(paths[1], shards).metadata
    assert metadata.ctx.issues.errors == set()
    assert [one.uuid for one in metadata.distribution] == ["manifest.json"] + [
        entry.table for entry in shards.manifest.strata
    ]
    assert "this card therefore names no tar" in paths[0].read_text()
