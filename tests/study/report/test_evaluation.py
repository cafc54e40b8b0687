"""The evaluation of GANs in the report, on fabricated files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.errors import UserError
from cxrdist.study.report.reading.evaluation import Figure, read_evaluation
from cxrdist.study.report.write import read_results, write_report

CLASSES = ["Normal", "Nodule|<b>"]
WEIGHTS = "7" * 64


def metric(value: float, floor: float) -> dict[str, Any]:
    return {"value": value, "floor": floor, "n_generated": 500, "n_real": 1200, "n_floor": 90}


def class_figures(kid: float, share: float) -> dict[str, Any]:
    metrics = {
        "fid": metric(1, 0),
        "kid": metric(kid, -0.0003),
        "recall": metric(0.4567, 0.96),
        "coverage": metric(0.5, 1),
    }
    return {
        "spaces": {"classifier": metrics, "random": dict.fromkeys(metrics, metric(9, 9))},
        "copies": {"classifier": {"share": share, "floor": 0.01}, "pixels": {"share": 0.9, "floor": 0.01}},
    }


def make_gan(root: Path, **changes: Any) -> Path:
    """One conditional GAN of two classes, evaluated; ``changes`` in evaluation.json."""
    folder = root / "gan"
    nearest = folder / "all-classes/nearest"
    nearest.mkdir(parents=True)
    for name, grey in (("normal", 60), ("nodule-b", 120)):
        for space in ("classifier", "pixels"):
            Image.fromarray(np.full((8, 8), grey, np.uint8)).save(nearest / f"{name}-{space}.png")
    model = {"classes": CLASSES, "images_seen": 64000, "train_images": 90, "weights_sha256": WEIGHTS}
    summary = {
        "job": "gan",
        "status": "finished",
        "models": {"all classes": model},
        "shards": {"real": "a" * 64},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    evaluation = {
        "job": "evaluate",
        "split": "val",
        "models": {
            "all-classes": {
                "best": {"images": 48000, "weights_sha256": WEIGHTS},
                # In the order of the file, which is sorted, and not of the classes.
                "classes": {"Nodule|<b>": class_figures(0.0123, 0.025), "Normal": class_figures(-0.0001, 0)},
            }
        },
        "overall": {"classifier": class_figures(0.0055, 0)["spaces"]["classifier"]},
        **changes,
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def table(report: Path) -> list[str]:
    """The rows of the evaluation in report.md."""
    text = (report / "report.md").read_text().split("## Evaluation of the GANs")[1]
    return text.split("##")[0].strip().splitlines()[2:]


def test_the_table_shows_each_class_beside_its_floor(tmp_path: Path) -> None:
    page = write_report(read_results([make_gan(tmp_path)]), tmp_path / "out")
    assert table(tmp_path / "out")[:3] == [
        "| Normal | 48,000 | 500 : 1,200 | −0.10 | −0.30 | 0.46 | 0.96 | 0.50 | 1.00 | 0.0 | 1.0 |",
        "| Nodule\\|&lt;b> | 48,000 | 500 : 1,200 | 12.30 | −0.30 | 0.46 | 0.96 | 0.50 | 1.00 | 2.5 | 1.0 |",
        "| all classes | – | 500 : 1,200 | 5.50 | −0.30 | 0.46 | 0.96 | 0.50 | 1.00 | – | – |",
    ]
    html = page.read_text()
    (row,) = re.findall(r'<tr><th scope="row">Nodule\|&lt;b&gt;</th>(.*?)</tr>', html)
    assert re.findall(r">([^<]+)</td>", row) == (
        ["48,000", "500 : 1,200", "12.30", "−0.30", "0.46", "0.96", "0.50", "1.00", "2.5", "1.0"]
    )
    assert "compared with real validation images, features of the classifier space" in html


def test_the_closest_pairs_are_pictures_in_the_page_and_files_beside_it(tmp_path: Path) -> None:
    html = write_report(read_results([make_gan(tmp_path)]), tmp_path / "out").read_text()
    for name, grey in (("normal", 60), ("nodule-b", 120)):
        with Image.open(tmp_path / f"out/figures/nearest-{name}.png") as image:
            assert np.asarray(image).tolist() == [[grey] * 8] * 8
        assert f"figures/nearest-{name}.png" in (tmp_path / "out/report.md").read_text()
    assert html.count("generated images, each beside the nearest training image") == 2
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', html))


def test_a_run_that_was_not_evaluated_has_no_table(tmp_path: Path) -> None:
    folder = make_gan(tmp_path)
    (folder / "evaluation.json").unlink()
    assert "Evaluation of the GANs" not in write_report(read_results([folder]), tmp_path / "out").read_text()
    assert read_evaluation(folder) is None


def test_an_evaluation_of_other_weights_is_not_shown(tmp_path: Path) -> None:
    models = {"all-classes": {"best": {"weights_sha256": "8" * 64}, "classes": {}}}
    folder = make_gan(tmp_path, models=models)
    html = write_report(read_results([folder]), tmp_path / "out").read_text()
    assert (
        "gan: evaluation.json describes other weights than the run exports now, so it is not shown;" in html
    )
    assert "coverage" not in html


@pytest.mark.parametrize("found", [{}, {"spaces": {}, "copies": None}, {"spaces": {"mine": {"kid": {}}}}])
def test_missing_metrics_are_empty_cells(tmp_path: Path, found: dict[str, Any]) -> None:
    models = {"all-classes": {"best": {"weights_sha256": WEIGHTS}, "classes": {"Normal": found}}}
    folder = make_gan(tmp_path, models=models, overall={})
    write_report(read_results([folder]), tmp_path / "out")
    assert table(tmp_path / "out")[0] == "| Normal | – | – : – |" + " – |" * 8
    evaluation = read_evaluation(folder)
    assert evaluation is not None and evaluation.is_current
    assert evaluation.classes[0].kid == Figure(value=None, floor=None)


def test_a_file_that_is_no_json_object_is_named(tmp_path: Path) -> None:
    folder = make_gan(tmp_path)
    (folder / "evaluation.json").write_text("[]")
    with pytest.raises(
        UserError, match=r"gan/evaluation.json: not a JSON object; run the job again, or remove"
    ):
        write_report(read_results([folder]), tmp_path / "out")
