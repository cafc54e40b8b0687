"""Jobs that a signal stops, as users, Slurm and launchers send them: what is left, what is said, how it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.helpers.launching import launch, launch_command, launch_environment, replaced, run, summary
from tests.helpers.processes import alive, descendants, wait_until, workers_of
from tests.helpers.wandb_records import recorded

pytestmark = pytest.mark.slow

STOPS_WITHIN_S = 20
OFTEN = ["--checkpoint-minutes", "0.0005"]
OFFLINE = ["--tracking.mode", "offline"]
# Batch norm in G and D: each rank has statistics of its own between two looks.
GAN = ["--config", "configs/gan/demo-dcgan.yaml", "--maps", "8", "--batch", "16", "--budget", "2400 images"]
GAN += ["--precision", "fp32", "--look-every-images", "800", "--classes", "Pneumothorax"]
CLS = ["--config", "configs/cls/px32.yaml", "--batch", "16", "--budget", "4800 images", "--evaluations", "3"]
CLS += ["--precision", "fp32", "--widths", "4,8", "--hidden", "16", "--mix", "DS1"]
JOBS = {"train_gan.py": GAN, "train_cls.py": CLS}


def command(script: str, shards: Path, *words: str) -> list[str]:
    return [*JOBS[script], "--shards", str(shards), *words]


def stopped(words: list[str], cwd: Path, processes: int, signum: int, *, to: str) -> tuple[int, str]:
    """Start a job, send it a signal once it has written an interim checkpoint, and wait for all its processes.
    Returns the exit code of what was started, and what was said."""
    script, *options = words
    started_by = launch_command(script, *options, processes=processes)
    if to == "accelerate":
        plain = ["--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
        started_by[1:1] = ["-m", "accelerate.commands.launch", *plain, "--dynamo_backend", "no"]
    said = cwd / "said"
    with said.open("w") as file:
        started = subprocess.Popen(
            started_by,
            cwd=cwd,
            env={**launch_environment(), "WANDB_MODE": ""},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        wait_until(lambda: interim_of(cwd / "cut"), started)
        all_of_it = [started.pid, *descendants(started.pid)]
        os.kill(rank_of(all_of_it, 1) if to == "rank" else started.pid, signum)
        wait_until(lambda: not alive(all_of_it), timeout_s=STOPS_WITHIN_S)
        return started.wait(), said.read_text()


def interim_of(run: Path) -> list[Path]:
    """Of a classifier, or of the model of a GAN's run."""
    return [*run.glob("checkpoints/interim-*"), *run.glob("pneumothorax/checkpoints/interim-*")]


def rank_of(processes: list[int], rank: int) -> int:
    for process in processes:
        environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in environment:
            return process
    raise AssertionError(f"no process of rank {rank}")


def curve(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "data_wait"} for line in lines]


CASES = [
    ("train_gan.py", 1, signal.SIGINT, "job", 130),
    ("train_gan.py", 2, signal.SIGTERM, "launcher", 1),
    ("train_gan.py", 2, signal.SIGUSR1, "rank", 1),
    ("train_cls.py", 1, signal.SIGTERM, "job", 143),
    # accelerate dies of it at once, and passes nothing on.
    ("train_cls.py", 1, signal.SIGTERM, "accelerate", -signal.SIGTERM),
    ("train_cls.py", 2, signal.SIGKILL, "launcher", -signal.SIGKILL),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_set: Path) -> dict[tuple[str, int], Path]:
    """Runs that nothing interrupts, on one process and on two."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    for script, processes in {(script, processes) for script, processes, *_ in CASES}:
        name = f"{script}-{processes}"
        words = command(script, tiny_set, "--run", name, "--checkpoint-minutes", "60")
        run(script, *words, cwd=folder, processes=processes)
        found[script, processes] = folder / name
    return found


@pytest.mark.parametrize(("script", "processes", "signum", "to", "code"), CASES)
def test_a_job_stops_between_two_steps_and_goes_on_to_the_same_bits(
    script: str,
    processes: int,
    signum: int,
    to: str,
    code: int,
    whole: dict[tuple[str, int], Path],
    tiny_set: Path,
    tmp_path: Path,
) -> None:
    words = command(script, tiny_set, "--run", "cut", *OFTEN, *OFFLINE)
    exit_code, said = stopped([script, *words], tmp_path, processes, signum, to=to)
    assert exit_code == code, said
    assert said.count("the same command resumes") in (1, 3)  # 3: torchrun repeats it for each rank
    assert not (tmp_path / "cut/summary.json").exists()
    assert len(interim_of(tmp_path / "cut")) == 1
    if to == "rank":
        last = said[said.index("Root Cause") :]
        assert "exitcode  : 143" in last and "the same command resumes" in last

    done = launch(script, *replaced(words, "--tracking.mode", "offline"), cwd=tmp_path, processes=processes)
    assert done.returncode == 0, done.stderr
    assert "resuming at" in done.stderr
    of_model = "pneumothorax" if script == "train_gan.py" else "."
    a, b = whole[script, processes] / of_model, tmp_path / "cut" / of_model
    ours, theirs = summary(a), summary(b)
    for key in ("weights_sha256", "order_sha256", "metrics", "images_seen"):
        assert ours[key] == theirs[key], key
    assert curve(a) == curve(b)
    last_look = max(path.name for path in (a / "checkpoints").iterdir())
    for path in (a / "checkpoints" / last_look).glob("*.safetensors"):
        ours_w, theirs_w = load_file(path), load_file(b / "checkpoints" / last_look / path.name)
        assert all(np.array_equal(ours_w[name], theirs_w[name]) for name in ours_w), path.name
    # Interim checkpoints are gone once a look has written its own.
    assert {path.name for path in (b / "checkpoints").iterdir()} == {
        path.name for path in (a / "checkpoints").iterdir()
    }

    # Both processes wrote to one W&B run, which has every row once.
    found = recorded(tmp_path / "cut")
    assert len({one.run_id for one in found.runs}) == 1
    assert found.steps() == sorted({*found.steps()})
    assert [row["images"] for row in found.rows if "images" in row and len(row) > 2][: len(curve(b))] == [
        row["images"] for row in curve(b)
    ]


def test_a_signal_to_all_processes_of_a_job_leaves_its_loader_alive_until_the_step_has_ended(
    tiny_set: Path, tmp_path: Path
) -> None:
    """As `scancel` sends it: the processes that decode images receive it too."""
    words = command("train_gan.py", tiny_set, "--run", "cut", *OFTEN, "--loader.workers", "1")
    with (tmp_path / "said").open("w") as file:
        job = subprocess.Popen(
            launch_command("train_gan.py", *words),
            cwd=tmp_path,
            env=launch_environment(),
            stderr=file,
            start_new_session=True,
        )
        wait_until(lambda: interim_of(tmp_path / "cut"), job)
        decoding = workers_of(job.pid)
        assert len(decoding) == 1
        os.killpg(job.pid, signal.SIGTERM)
        assert job.wait(STOPS_WITHIN_S) == 143
    wait_until(lambda: not alive(decoding), timeout_s=STOPS_WITHIN_S)
    said = (tmp_path / "said").read_text()
    assert said.count("the same command resumes") == 1 and "error" not in said


IN_LAST_LOOK = """
import os, signal, sys
sys.argv = sys.argv[1:]
from cxrdist import process
from cxrdist.gan.training.trainer import ModelTrainer
from launch import train_gan

export = ModelTrainer.export

def interrupted(self, *of_the_end):
    os.kill(os.getpid(), signal.SIGTERM)
    export(self, *of_the_end)

ModelTrainer.export = interrupted
process.main(train_gan.main)
"""


def test_a_signal_after_the_last_step_of_a_model_stops_before_the_next_one(
    tiny_set: Path, tmp_path: Path
) -> None:
    words = replaced(GAN, "--classes", "Normal,Pneumothorax", "--budget", "64 images")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            IN_LAST_LOOK,
            "train_gan.py",
            *words,
            "--shards",
            str(tiny_set),
            "--run",
            "cut",
        ],
        cwd=tmp_path,
        env=launch_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 143, done.stderr
    assert "GAN 1/2 Normal is finished; the same command resumes" in done.stderr
    assert (tmp_path / "cut/normal/summary.json").exists() and not (tmp_path / "cut/pneumothorax").exists()


def test_a_reader_of_the_output_that_ends_with_ctrl_c_takes_no_checkpoint_with_it(
    tiny_set: Path, tmp_path: Path
) -> None:
    """As `... 2>&1 | tee log` does."""
    words = command("train_cls.py", tiny_set, "--run", "cut", *OFTEN)
    job = subprocess.Popen(
        launch_command("train_cls.py", *words),
        cwd=tmp_path,
        env=launch_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait_until(lambda: interim_of(tmp_path / "cut"), job)
    assert job.stdout is not None
    os.kill(job.pid, signal.SIGINT)
    job.stdout.close()
    assert job.wait(STOPS_WITHIN_S) == 130
    assert interim_of(tmp_path / "cut")
