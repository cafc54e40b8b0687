"""What the folders and tars of a source mean: understood, or asked about; never guessed."""

from __future__ import annotations

import io
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

from cxrdist.data.deidentify import Salt
from cxrdist.data.importers.folder import Folder
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from tests.helpers.images import draw_folder

pytestmark = pytest.mark.usefixtures("inline")


def options(out: Path, **changes: object) -> IngestOptions:
    return IngestOptions(**{"out": str(out), "size": 16, "workers": 1, "find_duplicates": False, **changes})  # type: ignore[arg-type]


def message(importer: Folder | WebDataset) -> str:
    with pytest.raises(UserError) as caught:
        list(importer.records())
    return str(caught.value)


# Folders.


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """The layout of the most downloaded chest set of Kaggle."""
    root = tmp_path / "chest_xray"
    for split, count in (("train", 6), ("val", 2), ("test", 4)):
        draw_folder(root / split, {"NORMAL": count, "PNEUMONIA": count + 1}, size=16)
    (root / "__MACOSX").mkdir()
    (root / ".DS_Store").write_bytes(b"of a file manager")
    return root


def test_folders_named_after_splits_are_the_splits(kaggle: Path, tmp_path: Path) -> None:
    manifest = ingest(Folder(root=str(kaggle)), options(tmp_path / "set"))
    assert manifest.classes == ["NORMAL", "PNEUMONIA"]
    assert manifest.counts == {
        "train": {"NORMAL": {"real": 6}, "PNEUMONIA": {"real": 7}},
        "val": {"NORMAL": {"real": 2}, "PNEUMONIA": {"real": 3}},
        "test": {"NORMAL": {"real": 4}, "PNEUMONIA": {"real": 5}},
    }
    drawn = ingest(Folder(root=str(kaggle)), options(tmp_path / "drawn", split="drawn"))
    assert drawn.samples == 27 and drawn.classes == ["NORMAL", "PNEUMONIA"]
    records = list(Folder(root=str(kaggle), class_folders="top").records())
    assert Counter(r.label for r in records) == {"train": 13, "val": 5, "test": 9}


def test_a_split_folder_beside_others_is_asked_about(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "root", {"train": 3, "Normal": 3}, size=16)
    assert message(Folder(root=str(root))).startswith(
        f"{root}: train beside Normal: splits or classes? add --class-"
    )
    assert {r.label for r in Folder(root=str(root), class_folders="top").records()} == {"train", "Normal"}


def test_two_hospitals_below_one_root_are_asked_about(tmp_path: Path) -> None:
    for hospital in ("Mercy", "Grace"):
        draw_folder(tmp_path / "root" / hospital, {"Normal": 3, "Odd": 2}, size=16)
    root = str(tmp_path / "root")
    assert message(Folder(root=root)) == (
        f"{root}: Grace and Mercy hold the folders Normal and Odd: which are the classes? add --class-folders top if "
        "they are the classes, or --class-folders below if the folders in them are"
    )
    below = list(Folder(root=root, class_folders="below").records())
    assert (
        Counter(r.label for r in below) == {"Normal": 6, "Odd": 4} and len({r.source_id for r in below}) == 10
    )
    assert {r.label for r in Folder(root=root, class_folders="top").records()} == {"Mercy", "Grace"}


def test_a_folder_around_the_class_folders_is_asked_about(kaggle: Path) -> None:
    assert "chest_xray holds the folders test and train and val" in message(Folder(root=str(kaggle.parent)))


# Tars.


def test_sets_of_ours_below_a_folder_are_not_external_tars(tiny_set: Path, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    for name in ("a", "b"):
        target = tmp_path / "both" / name
        target.mkdir()
        for file in tiny_set.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
    assert message(WebDataset(root=str(tmp_path / "both"))).startswith(
        f"{tmp_path}/both/a: a set that cxrdist wrote; convert it with `cxrdist shards convert"
    )


def test_images_with_a_longer_ending_are_counted_and_can_be_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(buffer, "PNG")
    with TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        for number in range(4):
            told = json.dumps({"patient_id": str(number)}).encode()
            writer.write({"__key__": f"s{number}", "input.png": buffer.getvalue(), "cls": b"0", "json": told})
    records = list(WebDataset(root=str(tmp_path)).records())
    assert Counter(r.left_out for r in records) == {
        "no usable image (an image with a longer ending, such as .input.png, which --image-ending names)": 4
    }
    assert records[0].name == "a.tar/s0.input.png"
    named = list(WebDataset(root=str(tmp_path), image_ending="input.png").records())
    assert [(r.label, r.left_out) for r in named] == [("class-0", None)] * 4


# Names.


def test_two_hospitals_with_the_same_names_differ_by_the_name_of_the_source(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "root", {"Normal": 12, "Odd": 12}, size=16)
    for name in ("Mercy", "Grace", ""):
        ingest(Folder(root=str(root)), options(tmp_path / f"set-{name}", source_name=name))
    keys = {}
    for name in ("Mercy", "Grace", ""):
        shards = ShardSet(tmp_path / f"set-{name}")
        readers = [shards.stratum(*vars(stratum).values()) for stratum in shards.strata]
        keys[name] = {reader.key(i) for reader in readers for i in range(reader.samples)}
    assert len(keys["Mercy"] | keys["Grace"] | keys[""]) == 72


def test_the_name_of_the_source_is_part_of_what_is_hashed() -> None:
    salt = Salt(b"0123456789abcdef")
    named = Salt(b"0123456789abcdef", "Mercy")
    assert salt.key("a") != named.key("a") and salt.patient("1") != named.patient("1")
    assert salt.fingerprint == named.fingerprint


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_letters_of_options_are_those_of_labels(tmp_path: Path, form: Literal["NFC", "NFD"]) -> None:
    root = draw_folder(tmp_path / "root", {unicodedata.normalize("NFD", "Fibröse"): 12, "Odd": 12}, size=16)
    written = unicodedata.normalize(form, "Fibröse")
    mapped = options(tmp_path / "set", class_map=(f"{written}={written} 2",))
    assert unicodedata.normalize("NFC", "Fibröse 2") in ingest(Folder(root=str(root)), mapped).classes
    chosen = options(tmp_path / "chosen", classes=(written,))
    assert ingest(Folder(root=str(root)), chosen).classes == [unicodedata.normalize("NFC", "Fibröse")]


def test_classes_get_the_names_of_the_class_map(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "root", {"PTX": 12, "normal": 12, "Odd": 12}, size=16)
    mapped = options(tmp_path / "set", class_map=("PTX=Pneumothorax", "normal = Normal"))
    manifest = ingest(Folder(root=str(root)), mapped)
    assert manifest.classes == ["Normal", "Pneumothorax", "Odd"]
    assert manifest.provenance.option("class_map") == ["PTX=Pneumothorax", "normal = Normal"]
    one = ingest(Folder(root=str(root)), options(tmp_path / "one", class_map=("PTX=Odd",)))
    assert one.classes == ["Odd", "normal"] and one.samples == 36
    for wrong, why in [
        ("PTX", "class_map: 'PTX' is not OLD=NEW, with each OLD once"),
        ("Normall=Normal", "class_map: 'Normall': no class of the source; did you mean 'normal'?"),
    ]:
        with pytest.raises(UserError) as caught:
            ingest(Folder(root=str(root)), options(tmp_path / "no", class_map=(wrong,)))
        assert str(caught.value) == why


def test_bare_copies_of_our_tars_keep_the_names_of_their_classes(tmp_path: Path) -> None:
    for hospital, counts in (("a", {"Normal": 12, "Odd": 12}), ("b", {"Cardiomegaly": 12, "Normal": 12})):
        source = Folder(root=str(draw_folder(tmp_path / hospital, counts, size=16)))
        ingest(source, options(tmp_path / f"set-{hospital}", source_name=hospital))
        (tmp_path / "bare" / hospital).mkdir(parents=True)
        for tar in (tmp_path / f"set-{hospital}").glob("*.tar"):
            (tmp_path / "bare" / hospital / tar.name).write_bytes(tar.read_bytes())
    records = list(WebDataset(root=str(tmp_path / "bare")).records())
    assert Counter(r.label for r in records) == {"Normal": 24, "Odd": 12, "Cardiomegaly": 12}


def test_a_link_to_nowhere_beside_the_class_folders_is_left_out(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "root", {"Normal": 3, "Odd": 3}, size=16)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    records = list(Folder(root=str(root)).records())
    assert [(r.source_id, r.left_out) for r in records if r.left_out] == [("gone", "in no class folder")]
    assert Counter(r.label for r in records) == {"Normal": 3, "Odd": 3, None: 1}
