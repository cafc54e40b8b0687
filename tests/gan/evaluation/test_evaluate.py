"""Evaluating a GAN run: as users start it, on one process and on two; what it refuses; its parts on tiny data."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cxrdist.cls.config import ClsConfig
from cxrdist.cls.train import train as train_cls
from cxrdist.console import Progress
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.features.classifier import (
    child_environment,
    ensure_classifier,
    load_classifier,
    training_command,
)
from cxrdist.features.embed import BATCH, Embedder
from cxrdist.features.memorization import TrainImages, find_nearest
from cxrdist.features.spaces import named_space, pixel_space
from cxrdist.files import slug
from cxrdist.gan.config import GANConfig
from cxrdist.gan.evaluation.config import EvaluateConfig
from cxrdist.gan.evaluation.evaluate import evaluate
from cxrdist.gan.evaluation.metrics import Sets, compare, table, together
from cxrdist.gan.evaluation.run import candidates_of, find_models
from cxrdist.gan.train import train
from cxrdist.models import export_generator, load_generator
from cxrdist.nets.conditional import ConditionalConfig, ConditionalGenerator
from cxrdist.nets.conditional import init_weights as init_conditional
from cxrdist.nets.dcgan import DCGANConfig, Generator, init_weights
from cxrdist.nets.features import RandomFeatures
from cxrdist.run.checkpoint import weights_sha256
from cxrdist.run.folder import joint_digest, write_summary
from cxrdist.run.tracking.config import TrackingConfig
from cxrdist.seeds import uniform
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.launching import launch

pytestmark = pytest.mark.slow

CLASSES = ("Normal", "Pleural Effusion")


def generator(seed: int) -> Generator:
    network = Generator(DCGANConfig(size=32, z_dim=8, maps=8))
    init_weights(network, seed)
    return network


def gan_run(folder: Path, shards: ShardSet, *, checkpoints: tuple[int, ...] = (16, 32)) -> Path:
    """A finished run as train_gan.py leaves it, of networks that learnt nothing: a model of each class."""
    for number, name in enumerate(CLASSES):
        model = folder / name.lower().replace(" ", "-")
        for images in checkpoints:
            save_checkpoint(
                model / "checkpoints", images, {"generator": generator(images + number)}, {}, {}, keep=3
            )
        export_generator(
            model,
            generator((checkpoints or (0,))[-1] + number),
            preset="demo",
            classes=[name],
            lineage=made_from(shards),
            metrics={"loss_d": 0.5},
        )
    finish(folder, CLASSES)
    return folder


def finish(folder: Path, models: Sequence[str]) -> None:
    """The summaries of a run and of its models, as far as an evaluation reads them."""
    for name in models:
        write_summary(folder / slug(name), {"job": "gan-model", "status": "finished"})
    write_summary(folder, {"job": "gan", "status": "finished", "models": {name: {} for name in models}})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_set: Path) -> Path:
    """A folder with a classifier, and a GAN run that was evaluated on one process."""
    folder = tmp_path_factory.mktemp("work")
    options: dict[str, Any] = {"budget": "320 images", "evaluations": 1, "precision": "fp32"}
    options |= {"widths": (4, 8), "hidden": 16}
    disabled = TrackingConfig(mode="disabled")
    train_cls(
        ClsConfig(shards=str(tiny_set), run=str(folder / "cls"), batch=16, tracking=disabled, **options)
    )
    gan_run(folder / "fresh", ShardSet(tiny_set))
    shutil.copytree(folder / "fresh", folder / "gan")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        evaluate(here(folder, tiny_set, "gan"))
    (folder / "said").write_text(said.getvalue())
    return folder


def here(work: Path, tiny_set: Path, run: str, **options: Any) -> EvaluateConfig:
    return EvaluateConfig(
        run=str(work / run),
        shards=str(tiny_set),
        classifier=str(work / "cls"),
        images=70,
        k=1,
        tracking=TrackingConfig(mode="disabled"),
        **options,
    )


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_two_processes_find_what_one_finds(work: Path, tiny_set: Path) -> None:
    shutil.copytree(work / "fresh", work / "gan2")
    words = ["--run", "gan2", "--shards", str(tiny_set), "--classifier", "cls", "--images", "70", "--k", "1"]
    done = launch("evaluate_gan.py", *words, cwd=work, processes=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 processes on CPU") == 1
    assert read(work / "gan2/evaluation.json") == read(work / "gan/evaluation.json")
    for path in sorted((work / "gan").glob("*/nearest/*.png")):
        assert path.read_bytes() == (work / "gan2" / path.relative_to(work / "gan")).read_bytes()
    for name in ("normal", "pleural-effusion"):
        files = (
            "evaluation.json",
            "README.md",
            "model.json",
            "generator.safetensors",
            "checkpoints/best.json",
        )
        for file in files:
            assert (work / "gan" / name / file).read_bytes() == (work / "gan2" / name / file).read_bytes()


def test_the_card_of_a_generator_has_the_figures_of_its_evaluation(work: Path, tiny_set: Path) -> None:
    model, found = read(work / "gan/normal/model.json"), read(work / "gan/normal/evaluation.json")
    text = (work / "gan/normal/README.md").read_text()
    assert f"SHA-256 `{model['weights_sha256']}`" in text
    assert f"val split of the set `{ShardSet(tiny_set).digest}`" in text
    assert f"| checkpoint | at {found['best']['images']} images |" in text
    kid = found["classes"]["Normal"]["spaces"]["classifier"]["kid"]
    assert (
        f"| {1000 * kid['value']:,.0f} ({1000 * kid['floor']:.3g}) |" in text
    )  # noise is far from radiographs
    copies = found["classes"]["Normal"]["near_copies"]
    assert f"| Normal | 8 | {100 * copies['value']:.1f} [" in text
    assert "do not hand them on" in text and (work / "gan/normal/nearest").is_dir()


def test_each_figure_stands_beside_its_floor_and_the_numbers_of_images(work: Path) -> None:
    """Of the tiny set: 8 and 6 training images, 3 and 2 in val."""
    found = read(work / "gan/evaluation.json")
    assert set(found["models"]) == {"normal", "pleural-effusion"}
    assert {name: space["dims"] for name, space in found["spaces"].items()} == {
        "classifier": 8,
        "random": 240,
        "pixels": 1024,
    }
    normal = found["models"]["normal"]["classes"]["Normal"]
    assert set(normal["spaces"]) == {"classifier", "random"}
    for figures in normal["spaces"].values():
        numbers = {name: (f["n_generated"], f["n_real"], f["n_floor"]) for name, f in figures.items()}
        biased = (8, 3, 8)
        assert numbers == {
            "fid": biased,
            "kid": (70, 3, 8),
            "precision": biased,
            "recall": biased,
            "density": biased,
            "coverage": biased,
        }
        # Untrained generators against their floor.
        assert figures["fid"]["value"] > 2 * figures["fid"]["floor"]
        assert figures["kid"]["value"] > 2 * figures["kid"]["floor"]
    overall = found["overall"]["classifier"]["fid"]
    assert (overall["n_generated"], overall["n_real"], overall["n_floor"]) == (13, 5, 13)


def test_each_class_has_agreement_near_copies_diversity_and_intervals(work: Path) -> None:
    found = read(work / "gan/evaluation.json")
    assert set(found["spaces"]) == {"classifier", "random", "pixels"}
    classes = {name: one for model in found["models"].values() for name, one in model["classes"].items()}
    mean = found["mean_over_classes"]
    assert set(mean) == {"agreement", "near_copies", "diversity"}
    assert set(found["overall"]) == {"classifier", "random"}
    for name in ("agreement", "near_copies"):
        values = [one[name]["value"] for one in classes.values()]
        assert mean[name]["value"] == pytest.approx(sum(values) / 2, abs=1e-5)
        for one in classes.values():
            low, high = one[name]["interval"]
            assert 0 <= low <= one[name]["value"] <= high <= 1
    assert classes["Normal"]["near_copies"]["value"] == 0
    assert 0 < classes["Normal"]["diversity"]["nearest"] < 0.3
    kid = classes["Normal"]["spaces"]["classifier"]["kid"]
    assert kid["interval"][0] <= kid["value"] <= kid["interval"][1]
    assert "interval" in found["overall"]["random"]["coverage"]


def test_a_near_copy_rate_above_the_limit_is_reported(
    work: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two checkpoints whose rates are 0.5 and 0.25, both above the limit."""
    shutil.copytree(work / "fresh", work / "copying")
    rates = iter([0.5, 0.25, 0.0, 0.0] * 2)  # two checkpoints, then the chosen one's and the held-out images'
    monkeypatch.setattr(
        TrainImages, "near_copies", lambda self, pixels: torch.arange(len(pixels)) < next(rates) * len(pixels)
    )
    evaluate(here(work, tiny_set, "copying"))
    model = read(work / "copying/evaluation.json")["models"]["normal"]
    assert [look["copy_rate"] for look in model["checkpoints"]] == [0.5, pytest.approx(0.25, abs=0.02)]
    assert model["choice"] == {
        "by": "lowest copy_rate",
        "copy_limit": 0.1,
        "is_within_copy_limit": False,
    }
    assert model["best"]["images"] == 32
    assert (
        f"warning: {work}/copying/normal: the near-copy rate of every checkpoint exceeds 0.1 (--copy-limit); chose "
        "the one with the lowest rate, 0.26" in capsys.readouterr().err
    )


def test_the_best_checkpoint_has_the_lowest_kid_against_train_and_is_exported(work: Path) -> None:
    for number, name in enumerate(("normal", "pleural-effusion")):
        found = read(work / "gan" / name / "evaluation.json")
        looks = {look["images"]: look["kid_train"] for look in found["checkpoints"]}
        assert set(looks) == {16, 32}
        best = min(looks, key=lambda images: looks[images])
        digest = weights_sha256(generator(best + number))
        assert found["best"] == {"images": best, "weights_sha256": digest}
        assert read(work / "gan" / name / "checkpoints/best.json")["images"] == best
        model = load_generator(work / "gan" / name)
        assert model.weights_sha256 == digest
        assert model.metrics["loss_d"] == 0.5
        evaluation = model.metrics["evaluation"]
        assert (evaluation["split"], evaluation["images"]) == ("val", best)
        kid = found["classes"][model.classes[0]]["spaces"]["random"]["kid"]["value"]
        assert evaluation["classes"][model.classes[0]]["random"]["kid"] == kid
        told = f"{work}/gan/{name}: exported its best checkpoint, at {best} images, as its generator"
        assert (told in (work / "said").read_text()) == (best != 32)


@pytest.fixture
def trained(work: Path, tmp_path: Path, tiny_set: Path) -> GANConfig:
    """A run of the trainer, whose best kept checkpoint is not its last one."""
    small: dict[str, Any] = {"maps": 8, "z_dim": 8, "batch": 8, "budget": "24 images", "look_every_images": 8}
    disabled = TrackingConfig(mode="disabled")
    config = GANConfig(
        **small,
        shards=str(tiny_set),
        run=str(tmp_path / "gan"),
        classes=CLASSES,
        precision="fp32",
        tracking=disabled,
    )
    train(config)
    for checkpoint in tmp_path.glob("gan/*/checkpoints/images-*24"):
        shutil.rmtree(checkpoint)
    return config


def test_a_trained_run_that_was_evaluated_is_finished_and_tells_of_its_generators(
    work: Path, tiny_set: Path, trained: GANConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(trained.run)
    before = read(run / "summary.json")
    config = dataclasses.replace(here(work, tiny_set, "gan"), run=trained.run)
    evaluate(config)
    after = read(run / "summary.json")
    for name in CLASSES:
        model = load_generator(run / slug(name))
        assert model.metrics["evaluation"]["images"] in (8, 16)
        digests = [
            after["models"][name]["weights_sha256"],
            read(run / slug(name) / "summary.json")["weights_sha256"],
        ]
        assert digests == [model.weights_sha256] * 2
        assert before["models"][name]["weights_sha256"] != model.weights_sha256
    assert after["weights_sha256"] == joint_digest(after["models"], "weights_sha256")
    assert (
        before["weights_sha256"]
        == joint_digest(before["models"], "weights_sha256")
        != after["weights_sha256"]
    )
    capsys.readouterr()
    train(trained)
    assert "already finished; nothing to do" in capsys.readouterr().out
    assert read(run / "summary.json") == after
    evaluate(config)
    assert read(run / "summary.json") == after


def test_killed_between_the_two_files_of_an_export_the_run_can_be_finished(
    work: Path, tiny_set: Path, trained: GANConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(here(work, tiny_set, "gan"), run=trained.run)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cxrdist.models.description.write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(config)
    normal = Path(trained.run) / "normal"
    with pytest.raises(UserError, match=r"changed since it was exported"):
        load_generator(normal)
    with pytest.raises(UserError, match=r"not a finished run of train_gan.py; start or resume it"):
        evaluate(config)
    train(trained)
    assert load_generator(normal).weights_sha256 == read(normal / "summary.json")["weights_sha256"]
    evaluate(config)
    assert load_generator(normal).metrics["evaluation"]["images"] in (8, 16, 24)


def test_without_checkpoints_the_exported_generator_is_evaluated(work: Path, tiny_set: Path) -> None:
    shutil.copytree(work / "fresh", work / "last")
    evaluate(here(work, tiny_set, "last", checkpoints=False, split="test"))
    found = read(work / "last/evaluation.json")
    assert found["split"] == "test"
    model = found["models"]["normal"]
    assert model["best"] == {"images": None, "weights_sha256": weights_sha256(generator(32))}
    assert not (work / "last/normal/checkpoints/best.json").exists()


def test_one_model_of_all_classes_has_one_best_checkpoint(work: Path, tiny_set: Path) -> None:
    shards, model = ShardSet(tiny_set), work / "joint/all-classes"
    for images in (16, 32, 48):
        network = ConditionalGenerator(
            ConditionalConfig(size=32, classes=3, z_dim=8, widths=(8, 8, 4), d_widths=(8, 8, 4))
        )
        init_conditional(network, images)
        save_checkpoint(model / "checkpoints", images, {"ema": network}, {}, {}, keep=3)
    told: dict[str, Any] = {"preset": "modern", "metrics": {}}
    export_generator(model, network, classes=shards.classes, lineage=made_from(shards), **told)
    finish(work / "joint", ["all classes"])
    evaluate(here(work, tiny_set, "joint"))
    found = read(model / "evaluation.json")
    assert list(found["classes"]) == ["Normal", "Pleural Effusion", "Pneumothorax"]
    for look in found["checkpoints"]:
        assert look["kid_train"] == pytest.approx(sum(look["per_class"].values()) / 3, rel=1e-5)
    best = min(found["checkpoints"], key=lambda look: look["kid_train"])
    assert load_generator(model).metrics["evaluation"]["images"] == best["images"]
    assert read(model / "checkpoints/best.json")["images"] == best["images"]
    overall = read(work / "joint/evaluation.json")["overall"]["random"]["kid"]
    assert (overall["n_generated"], overall["n_real"], overall["n_floor"]) == (14, 7, 14)


def test_the_table_has_a_line_per_class_and_space(work: Path) -> None:
    said = (work / "said").read_text().splitlines()
    heads = [line.split("  ")[0] for line in said if "classifier  " in line or "random  " in line]
    assert heads == ["Normal", "Normal", "Pleural Effusion", "Pleural Effusion", "overall", "overall"]
    start = next(
        number for number, line in enumerate(said) if line.startswith("class  ") and "agreement" in line
    )
    assert [line.split("  ")[0] for line in said[start + 1 : start + 4]] == [
        "Normal",
        "Pleural Effusion",
        "mean",
    ]
    assert all("%" in line for line in said[start + 1 : start + 4])


def test_pictures_show_the_closest_pairs_side_by_side(work: Path, tiny_set: Path) -> None:
    found = read(work / "gan/evaluation.json")["models"]["normal"]["classes"]["Normal"]["copies"]
    model, real = load_generator(work / "gan/normal"), ShardSet(tiny_set).stratum("train", "Normal", "real")
    for space in ("classifier", "random", "pixels"):
        sheet = np.asarray(Image.open(work / f"gan/normal/nearest/normal-{space}.png"))
        assert sheet.shape == (4 * 34 - 2, 4 * 34 - 2)
        closest = found[space]["closest"]
        assert [pair["distance"] for pair in closest] == sorted(pair["distance"] for pair in closest)
        assert (sheet[:32, 34:66] == real.pixels(closest[0]["train"])).all()
        assert (sheet[34:66, :32] == drawn_again(model, closest[2]["generated"])).all()


def drawn_again(model: Any, place: int) -> np.ndarray:
    return model.images("Normal", uniform(0, "evaluate Normal", range(70), 8))[place]


class Planted:
    """A generator that has learnt one training image by heart and else makes noise."""

    def __init__(self, learnt: np.ndarray) -> None:
        self.learnt, self.made = learnt, 0

    def z(self, seed: int, purpose: str, positions: range) -> np.ndarray:
        return np.zeros((len(positions), 4), np.float32)

    def images(self, class_name: str, z: np.ndarray) -> np.ndarray:
        images = np.random.default_rng(self.made).integers(0, 256, (len(z), *self.learnt.shape), np.uint8)
        if self.made == BATCH:
            images[5] = self.learnt
        self.made += len(z)
        return images


def test_a_planted_copy_is_found(tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    reader = shards.stratum("train", "Normal", "real")
    with Progress("test", 0) as progress:
        embedder = Embedder([pixel_space()], 32, Dist("fp32"), progress)
        train = embedder.real(reader, np.arange(8))["pixels"]
        held_out = embedder.real(shards.stratum("val", "Normal", "real"), np.arange(3))["pixels"]
        generated = embedder.generated(Planted(reader.pixels(6)), "Normal", 100, 0)["pixels"]
    assert train.shape == (8, 1024) and generated.shape == (100, 1024)
    found = find_nearest(generated, train, torch.arange(8), held_out)
    assert found.pairs[0] == (BATCH + 5, 6, 0.0)
    assert found.share == 1 / 100
    assert found.floor == pytest.approx(1 / 3)
    distances = torch.cdist(train, train).fill_diagonal_(torch.inf)
    to_others = sorted(distances.min(1).values.tolist())
    assert found.typical == pytest.approx(to_others[3], rel=1e-5)
    told = found.results(generated=100, train=8, real=3)
    assert told["closest"][0] == {
        "generated": BATCH + 5,
        "train": 6,
        "distance": 0.0,
        "relative_distance": 0.0,
    }


def drawn(n: int, dims: int, seed: int) -> Tensor:
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed))


def test_real_images_against_real_ones_are_at_their_floor() -> None:
    train, real = drawn(50, 4, 0), drawn(40, 4, 1)
    for figure in compare(Sets(train.clone(), train, real), 5).values():
        assert figure["value"] == figure["floor"] is not None


def test_classes_too_small_for_a_figure_have_none_and_say_why() -> None:
    found = compare(Sets(drawn(10, 4, 0), drawn(10, 4, 1), drawn(3, 4, 2)), 5)
    assert found["precision"] == {
        "value": None,
        "floor": None,
        "n_generated": 10,
        "n_real": 3,
        "n_floor": 10,
        "note": "needs 6 images or more of each kind",
    }
    assert found["fid"]["value"] is not None
    one = compare(Sets(drawn(10, 4, 0), drawn(10, 4, 1), drawn(1, 4, 2)), 5)
    assert [one[name]["value"] for name in ("fid", "kid")] == [None, None]
    assert list(table({"Rare": {"classifier": one}}))[1].split() == [
        *("Rare", "classifier", "10:1", "-", "(-)", "10:1", "-", "(-)"),
        *(("-", "(-)") * 4),
    ]


def test_overall_has_the_shares_of_the_real_images() -> None:
    """Shares of 6 to 2; Rare has 3 training images, so that Common gives 9 of each."""
    common = Sets(torch.zeros(20, 1), torch.zeros(30, 1), torch.zeros(6, 1))
    rare = Sets(torch.ones(20, 1), torch.ones(3, 1), torch.ones(2, 1))
    found = together({"Common": common, "Rare": rare})
    assert found.generated.flatten().tolist() == found.train.flatten().tolist() == [0.0] * 9 + [1.0] * 3
    assert found.real.flatten().tolist() == [0.0] * 6 + [1.0] * 2


def test_overall_takes_all_images_of_the_class_that_has_fewest() -> None:
    """In floats, 15 / 22 * 22 is below 15."""
    one = Sets(torch.zeros(15, 1), torch.zeros(15, 1), torch.zeros(22, 1))
    assert len(together({"One": one}).generated) == 15


def test_random_features_are_the_same_everywhere() -> None:
    """The weights are a function of a fixed seed: a changed figure is a changed space."""
    for size, dims in ((32, 240), (64, 320), (256, 480)):
        network = RandomFeatures(size)
        torch.manual_seed(size)
        assert weights_sha256(network) == weights_sha256(RandomFeatures(size))
        assert network(torch.zeros(2, 1, size, size)).shape == (2, dims) and network.dims == dims
    network, bar = RandomFeatures(32), torch.zeros(1, 1, 32, 32)
    bar[..., 4:8] = 1
    assert not torch.allclose(network(bar), network(bar.roll(16, dims=-1)), atol=0.01)


def test_the_weights_that_draw_are_those_of_the_ema(tmp_path: Path) -> None:
    models = {"generator": generator(0), "ema": generator(1)}
    save_checkpoint(tmp_path / "checkpoints", 64, models, {}, {}, keep=3)
    save_checkpoint(tmp_path / "checkpoints", 128, {"generator": generator(2)}, {}, {}, keep=3)
    first, second = tmp_path / "checkpoints/images-000000000064", tmp_path / "checkpoints/images-000000000128"
    assert candidates_of(tmp_path, True) == [first / "ema.safetensors", second / "generator.safetensors"]
    (second / "generator.safetensors").write_bytes(b"torn")
    assert candidates_of(tmp_path, True) == [first / "ema.safetensors"]
    assert candidates_of(tmp_path, False) == [None]


# ---- refusals


def test_a_run_that_is_absent_or_unfinished_is_refused(tmp_path: Path, tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    with pytest.raises(UserError, match=r"not a finished run of train_gan.py; start or resume it"):
        find_models(tmp_path / "none", shards, "val")
    run = gan_run(tmp_path / "gan", shards, checkpoints=())
    (run / "summary.json").write_text("[]")
    with pytest.raises(UserError, match=r"not a finished run of train_gan.py"):
        find_models(run, shards, "val")
    write_summary(run, {"job": "gan", "status": "stopped"})
    with pytest.raises(UserError, match=r"not a finished run of train_gan.py"):
        find_models(run, shards, "val")


def test_a_run_of_another_set_is_refused(tmp_path: Path, tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    run = gan_run(tmp_path / "gan", shards, checkpoints=())
    assert list(find_models(run, shards, "val")) == ["normal", "pleural-effusion"]
    shards.manifest = shards.manifest.model_copy(update={"digest": "0" * 64})
    with pytest.raises(UserError, match=r"trained on another set \(.{12}\) than .* \(000000000000\)"):
        find_models(run, shards, "val")


def test_a_class_without_images_in_the_split_is_refused(tmp_path: Path, tiny_set: Path) -> None:
    shards = ShardSet(tiny_set)
    run = gan_run(tmp_path / "gan", shards, checkpoints=())
    shards.manifest.counts["val"]["Normal"]["real"] = 0
    with pytest.raises(UserError, match=r"no image of Normal in val .* use --split test"):
        find_models(run, shards, "val")


def test_refusals_are_one_line_and_exit_2(tmp_path: Path, tiny_set: Path) -> None:
    done = launch("evaluate_gan.py", "--run", "none", "--shards", str(tiny_set), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: none: not a finished run of train_gan.py")


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("synthetic_digest", "1" * 64, "trained on synthetic images"),
        ("real_digest", "1" * 64, "trained on another set"),
    ],
)
def test_a_classifier_that_may_know_too_much_is_refused(
    work: Path, tmp_path: Path, tiny_set: Path, key: str, value: str, why: str
) -> None:
    run = tmp_path / "cls"
    shutil.copytree(work / "cls", run, ignore=shutil.ignore_patterns("checkpoints"))
    shards = ShardSet(tiny_set)
    assert load_classifier(run, shards).config.options["widths"] == [4, 8]
    model = read(run / "model.json")
    model["lineage"][key] = value
    (run / "model.json").write_text(json.dumps(model))
    with pytest.raises(UserError, match=why):
        load_classifier(run, shards)


def test_a_classifier_run_that_is_not_finished_is_refused(tmp_path: Path, tiny_set: Path) -> None:
    with pytest.raises(UserError, match=r"not a finished run of train_cls.py"):
        load_classifier(tmp_path, ShardSet(tiny_set))


def test_the_default_classifier_is_trained_once(work: Path, tiny_set: Path) -> None:
    """Under a launcher: what it tells its processes must not reach the classifier's."""
    gan_run(work / "alone", ShardSet(tiny_set), checkpoints=())
    words = ["--run", "alone", "--shards", str(tiny_set), "--images", "10"]
    first = launch("evaluate_gan.py", *words, cwd=work, processes=2)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "alone/classifier does not exist: training a classifier" in first.stderr
    summary = read(work / "alone/classifier/summary.json")
    assert (summary["mix"], summary["world_size"], summary["images_seen"]) == ("DS1", 1, 1984)
    assert summary["shards"] == {"real": ShardSet(tiny_set).digest, "synthetic": None}
    before = (work / "alone/classifier/model.safetensors").stat()
    ensure_classifier(work / "alone/classifier", ShardSet(tiny_set), str(tiny_set))
    assert (work / "alone/classifier/model.safetensors").stat() == before


def test_a_child_is_no_rank_of_our_job_but_stays_on_cpu() -> None:
    launched = {
        **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a"},
        **{"MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x", "ACCELERATE_MIXED_PRECISION": "no"},
        **{"OMP_NUM_THREADS": "1", "GROUP_RANK": "0", "ROLE_WORLD_SIZE": "2"},
    }
    ours = {"PATH": "/bin", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    assert child_environment({**launched, **ours}) == ours


def test_the_classifiers_budget_fits_the_set(tiny_set: Path) -> None:
    words = training_command(Path("x"), ShardSet(tiny_set), "here")
    assert words[words.index("--budget") + 1] == "2000 images"
    assert words[words.index("--evaluations") + 1] == "1"


def test_a_users_own_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_features.py").write_text(
        "import torch\n"
        "def means(): return lambda images: images.float().mean((2, 3))\n"
        "def flat(): return lambda images: images.float().mean()\n"
        "def nothing(): return None\n"
        "def lazy():\n"
        "    from own_parts import means\n"
        "    return means\n"
        "def of_two(): return lambda images: images.float().mean((1, 2, 3))[:2, None]\n"
        "def wrong(): return torch.nn.Conv2d(3, 4, 1)\n"
        "def absent(): return open('no-such-weights')\n"
    )
    (tmp_path / "own_parts.py").write_text("def means(images): return images.float().mean((2, 3))\n")
    (tmp_path / "own_broken.py").write_text("x = (\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    device = torch.device("cpu")
    space = named_space("own_features:means", 32, device)
    assert (space.name, space.dims) == ("own_features:means", 1)
    images = torch.full((3, 1, 32, 32), 7, dtype=torch.uint8)
    assert space.embed(images).tolist() == [[7.0]] * 3
    assert named_space("own_features:lazy", 32, device).embed(images).tolist() == [[7.0]] * 3
    with pytest.raises(UserError, match=r"for images \[3, 1, 32, 32\] it returned torch.float32 \[2, 1\]"):
        named_space("own_features:of_two", 32, device).embed(images)
    for name, why in (
        ("own_features:flat", r"it returned torch.float32 \[\], expected float features"),
        ("own_features:nothing", r"nothing\(\) returned None"),
        ("own_features:mean", r"has no function mean; did you mean 'means'\?"),
        ("own_features:wrong", r"RuntimeError: .* \(.*, line \d+\)$"),
        ("own_features:absent", r"FileNotFoundError: .*no-such-weights.* \(.*own_features.py, line 10\)$"),
        ("own_broken:means", r"SyntaxError: "),
        (".own_features:means", r"TypeError: "),
        ("no_such_module:means", r"No module named 'no_such_module'; searched in"),
    ):
        with pytest.raises(UserError, match=why):
            named_space(name, 32, device)


def test_the_name_of_a_feature_space_is_checked_at_once() -> None:
    with pytest.raises(UserError, match=r"features: must be random, or your own as package.module"):
        EvaluateConfig(features="inception")
    assert EvaluateConfig(features="a.b:c").features == "a.b:c"
    with pytest.raises(UserError, match=r"copy_limit: must be from 0 to 1, not 1.5"):
        EvaluateConfig(copy_limit=1.5)
