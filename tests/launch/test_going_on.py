"""Runs that go on after their end, elsewhere, or with other options."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.launching import launch, replaced, run, summary

pytestmark = pytest.mark.slow

GAN = ["--config", "configs/gan/demo-dcgan.yaml", "--maps", "8", "--batch", "16", "--budget", "160 images"]
GAN += ["--precision", "fp32", "--look-every-images", "80", "--classes", "Pneumothorax,Normal"]
CLS = ["--config", "configs/cls/px32.yaml", "--batch", "16", "--budget", "64 images", "--evaluations", "2"]
CLS += ["--precision", "fp32", "--widths", "4,8", "--hidden", "16", "--mix", "DS1"]


def test_an_extended_gan_is_the_gan_of_the_larger_budget(tmp_path: Path, tiny_set: Path) -> None:
    words = [*GAN, "--shards", str(tiny_set)]
    longer = replaced(words, "--budget", "320 images")
    run("train_gan.py", *longer, "--run", "whole", cwd=tmp_path)
    run("train_gan.py", *words, "--run", "cut", cwd=tmp_path)
    (tmp_path / "cut/evaluation.json").write_text("{}")

    refused = launch("train_gan.py", *longer, "--run", "cut", cwd=tmp_path)
    assert refused.returncode == 2
    assert "budget '160 images', now '320 images'" in refused.stderr
    assert "--extend trains a finished run on" in refused.stderr

    shorter = replaced(words, "--budget", "80 images")
    refused = launch("train_gan.py", *shorter, "--extend", "--run", "cut", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--budget 80 images: less than the 160 images that cut has" in refused.stderr
    assert "budget: 160 images" in (tmp_path / "cut/config.yaml").read_text()

    run("train_gan.py", *longer, "--extend", "--run", "cut", cwd=tmp_path)
    for name in ("pneumothorax", "normal"):
        a, b = summary(tmp_path / "whole" / name), summary(tmp_path / "cut" / name)
        for key in ("weights_sha256", "order_sha256", "images_seen", "metrics"):
            assert a[key] == b[key], key
    assert not (tmp_path / "cut/evaluation.json").exists()  # of the generators before
    # From now on the run has the larger budget.
    assert "already finished" in run("train_gan.py", *longer, "--run", "cut", cwd=tmp_path)


def test_what_has_a_schedule_of_the_budget_is_not_extended(tmp_path: Path, tiny_set: Path) -> None:
    words = [*GAN, "--shards", str(tiny_set), "--rate-decay", "0.5", "--extend", "--run", "gan"]
    done = launch("train_gan.py", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "--extend: --rate-decay 0.5 has lowered the learning rate at the end of the budget" in done.stderr
    assert not (tmp_path / "gan").exists()

    words = [*CLS, "--shards", str(tiny_set), "--run", "cls"]
    run("train_cls.py", *words, cwd=tmp_path)
    done = launch("train_cls.py", *replaced(words, "--budget", "128 images"), cwd=tmp_path)
    assert done.returncode == 2
    assert "a classifier cannot be trained on, since its learning rate follows the budget" in done.stderr


def test_what_a_run_was_computed_with_is_kept_stretch_by_stretch(tmp_path: Path, tiny_set: Path) -> None:
    words = [*CLS, "--shards", str(tiny_set), "--threads", "1", "--run", "run"]
    run("train_cls.py", *words, cwd=tmp_path, processes=2)
    folder = tmp_path / "run"
    (before,) = summary(folder)["stretches"]
    of_before = ("from_images", "world_size", "engine", "device", "precision", "threads")
    assert [before[name] for name in of_before] == [0, 2, "DDP", "cpu", "fp32", 1]

    # As after a kill between the two looks; then it goes on on one process.
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "checkpoints/images-000000000064")
    done = launch("train_cls.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "warning: resumed at 32 images with other resources (world size 2, now 1; engine DDP, now one process)"
        in (done.stderr)
    )
    first, second = summary(folder)["stretches"]
    assert first == before
    assert second == {**before, "from_images": 32, "world_size": 1, "engine": "one process"}


def test_the_precision_that_auto_chose_is_the_runs(tmp_path: Path, tiny_set: Path) -> None:
    words = [*CLS, "--shards", str(tiny_set), "--run", "run"]
    run("train_cls.py", *replaced(words, "--precision", "auto"), cwd=tmp_path)
    chosen = summary(tmp_path / "run")["precision"]
    assert f"precision: {chosen}\n" in (tmp_path / "run/config.yaml").read_text()
    assert "already finished" in run("train_cls.py", *replaced(words, "--precision", chosen), cwd=tmp_path)
    other = "fp32" if chosen == "bf16" else "bf16"
    done = launch("train_cls.py", *replaced(words, "--precision", other), cwd=tmp_path)
    assert done.returncode == 2
    assert f"precision '{chosen}', now '{other}'" in done.stderr
