"""`cxrdist predict` and `cxrdist export`: the run's own probabilities, from files, folders and sets."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cxrdist.cli.main import dispatch
from cxrdist.cls.config import ClsConfig
from cxrdist.cls.prediction.explain import grad_cam
from cxrdist.cls.prediction.predict import Image as Film
from cxrdist.cls.prediction.predict import Source, predict
from cxrdist.cls.train import train
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.metrics.predictions import read_predictions
from cxrdist.models import TrainedClassifier, load_classifier
from cxrdist.run.tracking.config import TrackingConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "cls"
    options: dict[str, Any] = {"batch": 16, "budget": "160 images", "evaluations": 2, "widths": (4, 8)}
    train(
        ClsConfig(
            shards=str(tiny_set),
            run=str(folder),
            hidden=16,
            tracking=TrackingConfig(mode="disabled"),
            **options,
        )
    )
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_set_is_classified_as_the_run_did(run: Path, tiny_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    dispatch(
        [
            "predict",
            "--run",
            str(run),
            str(tiny_set),
            "--splits",
            "test",
            "--out",
            str(out),
            "--device",
            "cpu",
        ]
    )
    kept = read_predictions(run / "predictions-test.csv")
    found = {row["image"]: row for row in rows_of(out)}
    assert sorted(found) == sorted(kept.keys)
    for n, key in enumerate(kept.keys):
        row = found[str(key)]
        assert row["label"] == kept.classes[kept.labels[n]] and not row["error"]
        numbers = [float(row[f"p:{name}"]) for name in kept.classes]
        assert numbers == pytest.approx(kept.probabilities[n], abs=1e-6)
        assert row["predicted"] == kept.classes[int(np.argmax(numbers))]


def test_files_and_folders_are_classified_and_a_broken_one_is_named(
    run: Path, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = tmp_path / "films"
    (films / "deep").mkdir(parents=True)
    shards = ShardSet(tiny_set)
    reader = shards.stratum("test", shards.classes[0], "real")
    pixels = reader.pixels(0)
    Image.fromarray(pixels).save(films / "b.png")
    Image.fromarray(pixels).save(films / "deep" / "a.png")
    (films / "c.png").write_bytes(b"not a picture")
    (films / "notes.txt").write_text("ignored")
    out = tmp_path / "p.csv"
    words = ["predict", "--run", str(run), str(films), "--out", str(out), "--explain", str(tmp_path / "cams")]
    dispatch([*words, "--device", "cpu"])
    rows = rows_of(out)
    assert [Path(row["image"]).name for row in rows] == ["b.png", "c.png", "a.png"]
    expected = load_classifier(run).probabilities(pixels[None])[0]
    for row in (rows[0], rows[2]):
        assert [float(row[f"p:{name}"]) for name in shards.classes] == pytest.approx(expected, abs=1e-6)
    assert rows[1]["error"] and not rows[1]["predicted"]
    said = capsys.readouterr().out
    assert "2 images classified" in said and f"1 could not be read, such as {films / 'c.png'}: " in said
    listed = rows_of(tmp_path / "cams" / "pictures.csv")
    assert [Path(row["image"]).name for row in listed] == ["b.png", "a.png"]
    with Image.open(tmp_path / "cams" / listed[0]["picture"]) as picture:
        assert picture.size == (512, 256)


def test_grad_cam_is_that_of_the_formula(run: Path) -> None:
    """relu(sum over maps of mean gradient x map), of the last convolution (Selvaraju et al. 2017, Eq. 1 and 2)."""
    from torch.nn.functional import interpolate

    classifier = load_classifier(run)
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32), np.uint8)
    network: Any = classifier.network
    images = (torch.from_numpy(pixels)[None, None].float() / 127.5 - 1).requires_grad_()
    maps = network.stages[1][0](network.stages[0](images))
    logits = network.mlp(network.stages[1][2](network.stages[1][1](maps.clone())).flatten(1))
    (gradient,) = torch.autograd.grad(logits[0, 1], maps)
    heat = (gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu()
    expected = interpolate(heat, (32, 32), mode="bilinear")[0, 0].detach().numpy()
    found = grad_cam(classifier, pixels, 1)
    assert found == pytest.approx(expected / expected.max() if expected.max() > 0 else expected, abs=1e-5)


def test_images_of_one_name_keep_their_own_rows(run: Path, tmp_path: Path) -> None:
    """As the same key in a set and in its conversion."""
    classifier, films = load_classifier(run), np.random.default_rng(2).integers(0, 256, (2, 32, 32), np.uint8)

    class Two(Source):
        def __len__(self) -> int:
            return 2

        def images(self, classifier: TrainedClassifier) -> Iterator[Film]:
            yield from (Film(name="same", pixels=film) for film in films)

    found = predict([classifier], [Two([], None, ())], device=torch.device("cpu"))
    expected = classifier.probabilities(films)
    assert [row.tolist() for row in found.probabilities if row is not None] == expected.tolist()
    assert expected[0].tolist() != expected[1].tolist()


def test_several_runs_are_an_ensemble(run: Path, tiny_set: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    words = ["predict", str(tiny_set), "--splits", "val", "--device", "cpu"]
    dispatch([*words, "--run", str(run), "--out", str(one)])
    dispatch([*words, "--run", f"{run},{run}", "--out", str(two)])
    assert one.read_text() == two.read_text()


def test_an_exported_classifier_predicts_the_same(run: Path, tmp_path: Path) -> None:
    dispatch(["export", str(run), "--out", str(tmp_path / "out")])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    ours, theirs = (load_classifier(folder) for folder in (run, tmp_path / "out"))
    assert np.array_equal(ours.probabilities(pixels), theirs.probabilities(pixels))
    assert ours.weights_sha256 == theirs.weights_sha256


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["."], r"\.: no PNG, JPEG, DICOM or npy image in this folder"),
    ],
)
def test_a_place_without_images_is_named(
    run: Path, words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=why):
        dispatch(["predict", "--run", str(run), *words])
    assert not (tmp_path / "predictions.csv").exists()
