"""GAN training as users start it: spread over classes or over data, killed at any moment, under DeepSpeed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cxrdist.models import load_generator
from tests.helpers.launching import launch, launch_command, launch_environment, replaced, run, summary
from tests.helpers.processes import alive, descendants, wait_until
from tests.helpers.shard_sets import spoil

pytestmark = pytest.mark.slow

SMALL = ["--maps", "8", "--batch", "8", "--budget", "400 images", "--look-every-images", "80"]
SMALL += ["--tracking.mode", "disabled"]
# Everything that has a state: both optimizers, the moving average, BatchNorm's statistics, lazy R1, augmentation.
MODERN = ["--config", "configs/gan/modern.yaml", *SMALL, "--precision", "fp32", "--r1-every", "3"]
MODERN += ["--widths", "8,8,4", "--d-widths", "8,8,4"]
DEMO = ["--config", "configs/gan/demo-dcgan.yaml", *SMALL, "--ema-half-life-images", "100"]
DEMO += ["--diffaugment.translation", "0.1", "--images-per-class", "7"]


@contextmanager
def one_core() -> Iterator[None]:
    """What is started in here runs on one core, and so with one thread, as each of two processes on two cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def curve(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("data_wait", "img_s")} for line in lines]


def same_outcome(a: Path, b: Path) -> None:
    ours, theirs = summary(a), summary(b)
    for key in ("weights_sha256", "order_sha256", "metrics", "images_seen", "warnings"):
        assert ours[key] == theirs[key], key
    assert curve(a) == curve(b)
    last = sorted((a / "checkpoints").glob("images-*"))[-1].name
    for name in ("generator", "discriminator"):
        here, there = (load_file(f / "checkpoints" / last / f"{name}.safetensors") for f in (a, b))
        assert all(np.array_equal(here[k], there[k]) for k in here), name


@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) != 2, reason="two processes have one thread each on two cores"
)
def test_classes_trained_at_the_same_time_are_those_trained_alone(tmp_path: Path, tiny_set: Path) -> None:
    words = [*DEMO, "--placement", "class", "--shards", str(tiny_set)]
    said = run("train_gan.py", *words, "--run", "apart", cwd=tmp_path, processes=2)
    assert "3 generators in" in said
    found = summary(tmp_path / "apart")
    assert list(found["models"]) == ["Normal", "Pleural Effusion", "Pneumothorax"]
    # Each was trained by one process, that saw the whole batch.
    assert {m["world_size"] for m in found["models"].values()} == {1}
    for name in ("Normal", "Pneumothorax"):
        with one_core():
            run("train_gan.py", *words, "--classes", name, "--run", "alone", cwd=tmp_path)
        same_outcome(tmp_path / "apart" / name.lower(), tmp_path / "alone" / name.lower())


def test_a_class_that_fails_does_not_stop_the_others(tmp_path: Path, tiny_set: Path) -> None:
    copy = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    spoil(copy, "Normal", 1)
    words = [*DEMO, "--placement", "class", "--shards", str(copy), "--run", "r"]
    done = launch("train_gan.py", *words, cwd=tmp_path, processes=2)
    assert done.returncode != 0
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert line.startswith("error: Normal: ") and "its bytes do not match their hash" in line
    finished = sorted(p.parent.name for p in (tmp_path / "r").glob("*/summary.json"))
    assert finished == ["pleural-effusion", "pneumothorax"]
    assert not (tmp_path / "r/summary.json").exists()


def test_a_class_whose_folder_cannot_be_made_does_not_stop_the_others(tmp_path: Path, tiny_set: Path) -> None:
    words = replaced(DEMO, "--budget", "80 images", "--shards", str(tiny_set))
    run("train_gan.py", *words, "--classes", "Normal", "--run", "r", cwd=tmp_path)
    (tmp_path / "r/pleural-effusion").touch()
    done = launch("train_gan.py", *words, "--placement", "class", "--run", "r", cwd=tmp_path, processes=2)
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert line.startswith("error: Pleural Effusion: ") and "File exists" in line
    assert summary(tmp_path / "r/pneumothorax")["status"] == "finished"
    # What was finished without the run's summary hearing of it comes in with the next command.
    assert list(summary(tmp_path / "r")["models"]) == ["Normal"]
    said = run("train_gan.py", *words, "--classes", "[Normal,Pneumothorax]", "--run", "r", cwd=tmp_path)
    assert "nothing to do" in said and "generators in" not in said
    assert list(summary(tmp_path / "r")["models"]) == ["Normal", "Pneumothorax"]


def test_an_error_of_a_model_names_it_and_a_corrupt_image_is_substituted(
    tmp_path: Path, tiny_set: Path
) -> None:
    copy = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    spoil(copy, "Normal", 1)
    words = [*DEMO, "--shards", str(copy), "--classes", "Normal", "--run", "r"]
    done = launch("train_gan.py", *words, cwd=tmp_path)
    assert done.returncode == 2 and "error: Normal: " in done.stderr
    # Also among the real images that those of G are compared with at each look.
    run(
        "train_gan.py",
        *words,
        "--loader.on-corrupt",
        "substitute",
        "--loader.most-substitutes",
        "99",
        cwd=tmp_path,
    )
    assert summary(tmp_path / "r/normal")["substituted"] > 0


def test_a_gan_under_zero_2_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path, tiny_set: Path) -> None:
    words = replaced(MODERN, "--budget", "160 images", "--shards", str(tiny_set))
    kinds = {"processes": 2, "config": "zero2_cpu.yaml"}
    assert launch("train_gan.py", *words, "--run", "whole", cwd=tmp_path, **kinds).returncode == 0  # type: ignore[arg-type]
    cut = tmp_path / "cut/all-classes"
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for path in (cut / "checkpoints/images-000000000160", cut / "samples"):
        shutil.rmtree(path)
    for path in (tmp_path / "cut/summary.json", cut / "summary.json", cut / "model.json"):
        path.unlink()
    done = launch("train_gan.py", *words, "--run", "cut", cwd=tmp_path, **kinds)  # type: ignore[arg-type]
    assert "resuming at 80 images" in done.stderr and "ZeRO-2" in done.stdout
    same_outcome(tmp_path / "whole/all-classes", cut)


def start_and_kill(words: list[str], checkpoints: Path, cwd: Path, after_s: float) -> None:
    """Start a job on two processes, and kill its launcher ``after_s`` after its first new checkpoint."""
    command = launch_command("train_gan.py", *words, processes=2)
    launcher = subprocess.Popen(
        command, cwd=cwd, env=launch_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    before = set(checkpoints.glob("images-*"))
    wait_until(lambda: launcher.poll() is not None or set(checkpoints.glob("images-*")) - before)
    time.sleep(after_s)
    ranks = descendants(launcher.pid) if launcher.poll() is None else []
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not alive(ranks), timeout_s=20)


def test_a_gan_killed_at_any_moment_ends_in_the_same_weights(tmp_path: Path, tiny_set: Path) -> None:
    model = "all-classes"
    words = replaced(MODERN, "--budget", "1600 images", "--shards", str(tiny_set))
    run("train_gan.py", *words, "--run", "whole", cwd=tmp_path, processes=2)
    checkpoints = tmp_path / "cut" / model / "checkpoints"
    start_and_kill([*words, "--run", "cut"], checkpoints, tmp_path, random.uniform(0, 0.3))
    assert not (tmp_path / "cut/summary.json").exists()
    assert "resuming at" in launch("train_gan.py", *words, "--run", "cut", cwd=tmp_path, processes=2).stderr
    same_outcome(tmp_path / "whole" / model, tmp_path / "cut" / model)
    kept = sorted(p.name for p in (tmp_path / "cut" / model / "checkpoints").glob("images-*"))
    assert kept == [f"images-{n:012d}" for n in (1440, 1520, 1600)]


def test_a_conditional_run_has_one_model_that_draws_every_class(tmp_path: Path, tiny_set: Path) -> None:
    run("train_gan.py", *MODERN, "--shards", str(tiny_set), "--run", "r", cwd=tmp_path)
    names = ["Normal", "Pleural Effusion", "Pneumothorax"]
    found = summary(tmp_path / "r")
    assert {name: m["classes"] for name, m in found["models"].items()} == {"all classes": names}
    for slug in ("normal", "pleural-effusion", "pneumothorax"):
        grids = sorted((tmp_path / "r/all-classes/samples" / slug).iterdir())
        assert [p.name for p in grids] == [f"images-{n:09d}.png" for n in (80, 160, 240, 320, 400)]
    generator = load_generator(tmp_path / "r/all-classes")
    assert generator.classes == tuple(names) and generator.preset == "modern"
    drawn = {name: generator.sample(name, 2, seed=1) for name in names}
    assert not np.array_equal(drawn["Normal"], drawn["Pneumothorax"])
    line = json.loads((tmp_path / "r/all-classes/metrics.jsonl").read_text().splitlines()[-1])
    assert {
        "loss_d",
        "loss_g",
        "d_real",
        "d_fake",
        "d_accuracy",
        "grad_d",
        "grad_g",
        "data_wait",
    } <= line.keys()


REFUSALS = [
    (
        ["--config", "configs/gan/modern.yaml", "--classes", "Normal,Pneumothorax"],
        "a conditional GAN trains on all classes",
    ),
    (["--config", "configs/gan/modern.yaml", "--mix", "DS3"], "a GAN trains on real images only"),
    (["--batch", "6", "--accumulate", "4"], "6"),
]


@pytest.mark.parametrize(("words", "told"), REFUSALS)
def test_what_cannot_be_trained_is_refused_with_one_line(
    tmp_path: Path, tiny_set: Path, words: list[str], told: str
) -> None:
    done = launch("train_gan.py", "--shards", str(tiny_set), "--run", "r", *words, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert told in line and "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()
