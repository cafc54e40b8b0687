from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.gan import quality
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.models import export_generator
from cxrdist.nets import conditional, dcgan

pytestmark = pytest.mark.slow


def found(common: float | None, rare: float | None, recall: float | None = 0.5) -> dict[str, Any]:
    def figures(kid: float | None) -> dict[str, Any]:
        of_kid = {"value": kid, "floor": 0.001, "n_real": 4, "n_floor": 9}
        return {"kid": of_kid, "recall": {"value": recall}, "coverage": {"value": 0.25}}

    return {name: {"s": figures(kid)} for name, kid in (("Normal", common), ("Rare", rare), ("Rarest", rare))}


def test_a_row_has_the_mean_over_seeds() -> None:
    rows = quality.rows_of({"paper": [found(0.5, 0.01), found(0.5, 0.03, None)]})
    assert [row["class"] for row in rows] == ["Normal", "Rare", "Rarest"]
    assert rows[1] == {
        **{"preset": "paper", "class": "Rare", "space": "s", "train": 9, "held_out": 4},
        **{"kid_1000": 20.0, "std": 14.14, "floor_1000": 1.0, "kids_1000": [10.0, 30.0]},
        **{"recall": None, "coverage": 0.25},
    }
    (row, *_) = quality.rows_of({"paper": [found(None, 0.01)]})
    assert (row["kid_1000"], row["std"], row["kids_1000"]) == (None, None, [None])


def test_the_ratio_is_of_the_rare_classes_and_only_where_there_is_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "kid, modern over paper, rare classes, s"
    paper, modern = [found(9.0, 0.04), found(9.0, 0.06)], [found(1.0, 0.01), found(1.0, 0.03)]
    assert quality.ratios_of({"paper": paper, "modern": modern}, "Normal") == {name: 0.4}
    for nothing in (None, -0.01, 0.0):
        evaluations = {"paper": [found(9.0, nothing)], "modern": modern}
        assert quality.ratios_of(evaluations, "Normal") == {}
    assert capsys.readouterr().err.count("no ratio") == 3


def test_the_picture_has_a_row_per_class(tmp_path: Path, tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    own = dcgan.Generator(dcgan.DCGANConfig(size=32, z_dim=8, maps=8))
    joint = conditional.ConditionalGenerator(
        conditional.ConditionalConfig(size=32, classes=3, z_dim=8, widths=(8, 8, 4), d_widths=(8, 8, 4))
    )
    reported: dict[str, Any] = {"preset": "x", "lineage": made_from(shards), "metrics": {}}
    for folder, network, classes in (
        ("paper-0/normal", own, ["Normal"]),
        ("modern-0/all-classes", joint, shards.classes),
    ):
        export_generator(tmp_path / folder, network, classes=classes, **reported)
    quality.picture(tmp_path, shards, ["Normal"], tmp_path / "p.png")
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    assert sheet.shape == (34, 3 * 6 * 34 + 2 * 10)
    assert (sheet[1:33, 1:33] == shards.images("train", "Normal", "real", 1)[0]).all()
    assert (sheet[:, 6 * 34 : 6 * 34 + 10] == 255).all()
