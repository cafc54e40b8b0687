from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cxrdist.cards.generator import write_model_card
from cxrdist.errors import UserError
from cxrdist.files import canonical_json
from cxrdist.models import export_generator, load_generator
from cxrdist.nets.dcgan import DCGANConfig, Generator, init_weights

REAL = "a" * 64
CLASS = "Mass | *x*"


def export(folder: Path, seed: int = 3, **lineage: Any) -> str:
    """The generator of one class; returns the digest of its weights."""
    network = Generator(DCGANConfig(size=32, z_dim=6, maps=8))
    init_weights(network, seed)
    told = {"real_digest": REAL, "split": "train", **lineage}
    return export_generator(folder, network, preset="demo", classes=[CLASS], lineage=told, metrics={})


def evaluation(weights: str) -> dict[str, Any]:
    figures = {name: {"value": 0.25, "floor": 0.125} for name in ("fid", "precision", "recall", "coverage")}
    figures["kid"] = {"value": 0.0025, "floor": -0.0005}
    return {
        "shards": {"real": REAL},
        "split": "val",
        "seed": 7,
        "spaces": {"classifier": {"what": "features of a classifier"}},
        "choice": {"by": "lowest kid_train within copy_limit"},
        "best": {"images": 32, "weights_sha256": weights},
        "classes": {
            CLASS: {
                "spaces": {"classifier": figures},
                "copies": {"pixels": {"n_train": 25}},
                "near_copies": {
                    "value": 0.18,
                    "interval": [0.1, 0.25],
                    "null": {"value": 0.06, "interval": None},
                },
                "agreement": {
                    "value": None,
                    "interval": None,
                    "real": {"value": 0.7, "interval": [0.5, 0.9]},
                },
                "diversity": {"nearest": 0.95},
            }
        },
    }


def test_before_its_evaluation(tmp_path: Path) -> None:
    weights = export(tmp_path)
    text = write_model_card(tmp_path).read_text()
    assert text.startswith(f"# Generator of synthetic chest radiographs {weights[:12]}\n")
    assert f"| weights | SHA-256 `{weights}` |" in text
    assert f"| learned from | set `{REAL}`, train split |" in text
    assert "| classes | Mass \\| \\*x\\* |" in text
    assert "Not yet: `launch/evaluate_gan.py` writes its figures here." in text
    assert "may draw near copies of them" in text
    for sentence in ("Not for diagnosis", "clinical performance", "no substitute of real test data"):
        assert sentence in text
    assert "checkpoint" not in text and "![" not in text and "nearest/" not in text
    assert load_generator(tmp_path).weights_sha256 == weights  # the card is no part of the model


def test_with_its_evaluation(tmp_path: Path) -> None:
    weights = export(tmp_path)
    (tmp_path / "evaluation.json").write_bytes(canonical_json(evaluation(weights)))
    text = write_model_card(tmp_path).read_text()
    assert f"compared with the val split of the set `{REAL}`" in text and "seed 7." in text
    assert (
        "| Mass \\| \\*x\\* | 0.25 (0.125) | 2.5 (-0.5) | 0.25 (0.125) | 0.25 (0.125) | 0.25 (0.125) |"
        in text
    )
    shares = "| 25 | 18.0 [10.0 to 25.0] | 6.0 | – | 70.0 [50.0 to 90.0] | 0.95 |"
    assert f"| Mass \\| \\*x\\* {shares}" in text
    assert "| checkpoint | at 32 images |" in text


def test_an_evaluation_of_other_weights_is_left_out(tmp_path: Path) -> None:
    export(tmp_path)
    before = write_model_card(tmp_path).read_text()
    (tmp_path / "evaluation.json").write_bytes(canonical_json(evaluation("b" * 64)))
    assert write_model_card(tmp_path).read_text() == before


def test_pictures_are_those_of_the_exported_checkpoint(tmp_path: Path) -> None:
    weights = export(tmp_path)
    for name in (
        "samples/mass-x/images-000000016.png",
        "samples/mass-x/images-000000032.png",
        "nearest/m.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "samples/mass-x/images-000000048.png").touch()
    assert "(samples/mass-x/images-000000048.png)" in write_model_card(tmp_path).read_text()
    (tmp_path / "evaluation.json").write_bytes(canonical_json(evaluation(weights)))
    text = write_model_card(tmp_path).read_text()
    assert text.count("![") == 1
    assert "![Generated images of Mass \\| \\*x\\*](samples/mass-x/images-000000032.png)" in text
    assert "are in [nearest/](nearest/). **These pictures hold radiographs of patients" in text


def test_phantoms_and_runs_that_it_started_from(tmp_path: Path) -> None:
    origin = {"weights_sha256": "d" * 64, "is_phantom": True, "lineage": {"real_digest": "e" * 64}}
    export(tmp_path, is_phantom=True, init=[origin], real_ancestors=["f" * 64])
    text = write_model_card(tmp_path).read_text()
    assert "no patient is in its training images" in text and "near copies" not in text
    assert f"| started from | weights `{'d' * 64}`, of computed radiographs |" in text
    assert f"| which descends from | `{'f' * 64}` |" in text


def test_a_folder_without_a_generator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.json: no such file"):
        write_model_card(tmp_path)
    assert not [*tmp_path.iterdir()]
