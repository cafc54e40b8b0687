from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cxrdist.cards.dataset import write_dataset_card
from cxrdist.cli.main import dispatch
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.manifest import Provenance
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from tests.cards.test_gates import FULL
from tests.helpers.shard_sets import contents
from tests.helpers.synthetic_sets import WEIGHTS, write_synthetic


@pytest.fixture(scope="module")
def real(tiny_set: Path) -> ShardSet:
    return ShardSet(tiny_set)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory, real: ShardSet) -> ShardSet:
    return write_synthetic(tmp_path_factory.mktemp("sets") / "tiny-synthetic", real)


def card(folder: Path, shards: ShardSet, real: ShardSet | None = None) -> str:
    readme, _ = write_dataset_card(folder, shards, real)
    return readme.read_text()


def with_provenance(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Manifests say this, too."""
    stored = Provenance.json_value
    monkeypatch.setattr(Provenance, "json_value", lambda self: {**stored(self), **fields})


def test_a_synthetic_set_says_what_it_is_made_from(
    tmp_path: Path, synthetic: ShardSet, real: ShardSet
) -> None:
    text = card(tmp_path, synthetic, real)
    assert text.startswith(
        f"# Synthetic chest radiographs {synthetic.digest[:12]}\n\n15 images of 3 classes, 32 x 32"
    )
    train = real.manifest.counts["train"]
    counts = ", ".join(f"{name} {train[name]['real']}" for name in real.classes)
    assert (
        f"The train split of the set {real.digest} ({real.manifest.provenance.release}). Images: {counts}."
        in text
    )
    assert "| 0 | Normal | 5 |\n| 1 | Pleural Effusion | 5 |\n| 2 | Pneumothorax | 5 |\n" in text
    assert f"| `{WEIGHTS}` | Normal, Pleural Effusion, Pneumothorax |" in text
    assert "Of 30 generated images the gates 'none' admitted 15 (50.0 %)." in text
    assert "| Normal | 10 | 5 |\n" in text
    assert "- No gate judged the images: they are all that the generators drew." in text
    for sentence in ("Not for diagnosis", "clinical performance", "Not as a substitute of real test data"):
        assert sentence in text
    assert "may be near copies" in text and "The manifest states no rate of near copies." in text
    assert "which is not stated in the manifest" in text
    assert "arXiv:1712.01636" in text and f"> Set `{synthetic.digest}`" in text


def test_without_the_real_set_the_card_does_not_say_what_that_holds(
    tmp_path: Path, synthetic: ShardSet
) -> None:
    text = card(tmp_path, synthetic)
    assert "this set's manifest does not state what it holds" in text
    assert "Images: " not in text and "patient is in" not in text


def test_the_same_set_gives_the_same_bytes(tmp_path: Path, synthetic: ShardSet, real: ShardSet) -> None:
    for folder, place in (("a", synthetic.store), ("b", ShardSet(str(synthetic)).store)):
        write_dataset_card(tmp_path / folder, ShardSet(place), ShardSet(str(real)))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert {*contents(tmp_path / "a")} == {"README.md", "croissant.json"}
    assert str(tmp_path.parent) not in (tmp_path / "a" / "croissant.json").read_text()


def test_the_full_form_of_gates(
    tmp_path: Path, synthetic: ShardSet, real: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_provenance(monkeypatch, gates=FULL)
    text = card(tmp_path, synthetic, real)
    assert "Of 4,100 generated images the gates 'default' admitted 1,050 (25.6 %)." in text
    assert "They were fitted on the train split of the real set." in text
    assert "Their thresholds were chosen on its val split." in text
    assert "| class | generated | admitted | duplicates | coverage | pass copy | pass pixels |" in text
    assert "| Pneumothorax | 4,000 | 1,000 | 3 | 83.0 % | 99.8 % | 97.5 % |" in text
    assert "| Normal | 100 | 50 | – | – | – | – |" in text
    assert "| Pneumothorax | pixels | 1.2 | – | – |" in text
    assert "| Pneumothorax | realism | – | 3 (1 to 5) | 4 (2 to 6) |" in text
    near = (
        "2.0 % of the images that were generated are near copies of training images, and are not in the set; of real "
        "held-out images 1.0 % are."
    )
    assert f"- Pneumothorax: {near}" in text
    assert "- The gates know nothing of anatomy: admitted means that none of them objected." in text
    described = json.loads((tmp_path / "croissant.json").read_text())
    assert f"Pneumothorax: {near}" in described["rai:personalSensitiveInformation"]


def test_several_generators_of_a_class(
    tmp_path: Path, synthetic: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "d" * 64
    generators = {"Normal": [WEIGHTS, other], "Pneumothorax": other}
    provenance = synthetic.manifest.provenance.model_copy(update={"generators": generators})
    manifest = synthetic.manifest.model_copy(update={"provenance": provenance})
    monkeypatch.setattr(synthetic, "manifest", manifest)
    text = card(tmp_path, synthetic)
    assert f"| `{WEIGHTS}` | Normal |\n| `{other}` | Normal, Pneumothorax |\n" in text
    assert "- 2 generators drew the images." in text
    described = json.loads((tmp_path / "croissant.json").read_text())
    used = [one["@id"] for one in described["prov:wasGeneratedBy"]["prov:used"]]
    assert used == [f"urn:sha256:{WEIGHTS}", f"urn:sha256:{other}"]


def test_generators_that_do_not_say_what_they_learned_from(
    tmp_path: Path, synthetic: ShardSet, real: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_provenance(monkeypatch, training_data="unknown")
    text = card(tmp_path, synthetic, real)
    assert "what their generators learned from is unknown." in text
    assert real.digest not in text and real.digest[:12] not in text
    assert "prov:wasDerivedFrom" not in json.loads((tmp_path / "croissant.json").read_text())


def test_a_real_set_says_its_source_and_what_was_left_out(
    tmp_path: Path, real: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {
        "left_out": {"lateral view": 3},
        "left_out_examples": {"lateral view": "abcdef0123456789"},
        "undecodable": 1,
        "repairs": {"end of file missing": {"images": 2, "example": "fedcba9876543210"}},
    }
    with_provenance(monkeypatch, **found)
    text = card(tmp_path, real)
    assert "- Imported with cxrdist import folder." in text
    assert "- 3 images: lateral view.\n- 1 image: the file does not decode.\n" in text
    assert "- Repaired: 2 images (end of file missing)." in text
    assert "| 0 | Normal | 8 | 3 | 3 |" in text
    assert "The images show patients." in text
    described = (tmp_path / "croissant.json").read_text()
    assert not [key for key in ("abcdef0123456789", "fedcba9876543210") if key in text + described]


def test_phantoms_are_computed_and_show_no_patient(tmp_path: Path, inline: None) -> None:
    options = IngestOptions(out=str(tmp_path / "set"), size=32, val=0.2, test=0.2, workers=1)
    ingest(Phantom(images=40), options)
    phantoms = ShardSet(tmp_path / "set")
    assert "The images are computed: no image shows a patient." in card(tmp_path / "real", phantoms)
    made = write_synthetic(tmp_path / "made", phantoms)
    text = card(tmp_path / "card", made, phantoms)
    assert "which holds computed radiographs: no image shows a patient." in text
    assert "the set shows no patient" in text and "near copies" not in text


def test_refused_are_another_family_a_second_set_and_a_place_within_a_set(
    tmp_path: Path, synthetic: ShardSet, real: ShardSet
) -> None:
    other = ShardSet(write_synthetic(tmp_path / "other", real).store)
    with pytest.raises(UserError, match="descends from another real set"):
        write_dataset_card(tmp_path / "card", synthetic, other)
    with pytest.raises(UserError, match="is a set of real images: its card needs no other set"):
        write_dataset_card(tmp_path / "card", real, real)
    for place in (tmp_path / "other", tmp_path / "other" / "card"):
        with pytest.raises(UserError, match="other is a shard set, in which every file is hashed"):
            write_dataset_card(place, synthetic)
    assert not (tmp_path / "card").exists() and not (tmp_path / "other" / "card").exists()


def test_the_command_writes_into_the_run_of_the_synthesis_if_it_is_here(
    tmp_path: Path,
    synthetic: ShardSet,
    real: ShardSet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    dispatch(["synth", "card", str(synthetic), "--shards", str(real)])
    assert capsys.readouterr().out.split() == [
        "runs/card-tiny-synthetic/README.md",
        "runs/card-tiny-synthetic/croissant.json",
    ]
    run = tmp_path / "runs" / "synth-tiny-synthetic"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 0\n")
    dispatch(["synth", "card", f"{synthetic}/", "--shards", str(real)])
    assert contents(run / "card") == contents(tmp_path / "runs" / "card-tiny-synthetic")
