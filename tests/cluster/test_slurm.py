"""Jobs under a real Slurm of two nodes: what stops them, what requeues them, and to which bits they go on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.helpers.launching import CLONE, launch_environment, replaced, run, summary
from tests.helpers.processes import wait_until
from tests.helpers.slurm import Slurm, slurm, why_not

pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.slurm]

STOPS_WITHIN_S = 20
REQUEUED_WITHIN_S = 60
CLS = ["--config", "configs/cls/px32.yaml", "--batch", "16", "--budget", "9600 images", "--evaluations", "3"]
CLS += ["--precision", "fp32", "--widths", "4,8", "--hidden", "16", "--mix", "DS1"]
OFTEN = ["--checkpoint-minutes", "0.0005"]
ONLY_WHEN_ASKED = ["--checkpoint-minutes", "60"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    reason = why_not()
    if reason:
        pytest.skip(f"no Slurm: {reason}")
    environment = launch_environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with slurm(tmp_path_factory.mktemp("slurm"), environment) as started:
        yield started


class Submitted:
    """A job of launch/slurm/train.sbatch, submitted in the clone, with its run folder and its log in ``folder``."""

    def __init__(self, cluster: Slurm, folder: Path, *options: str, shards: Path, words: list[str]) -> None:
        self.cluster, self.run, self.log = cluster, folder / "run", folder / "log"
        self.job = cluster.ask(
            "sbatch",
            "--parsable",
            f"--output={self.log}",
            *options,
            "launch/slurm/train.sbatch",
            "launch/train_cls.py",
            *replaced(CLS, "--shards", str(shards), "--run", str(self.run), *words),
            cwd=CLONE,
        )

    def interim(self) -> list[str]:
        return sorted(path.name for path in self.run.glob("checkpoints/interim-*"))

    def wait_for_new_checkpoint(self, before: list[str]) -> None:
        wait_until(lambda: self.interim() and self.interim() != before)


def processes_of(cluster: Slurm, node: int, *words: bytes) -> list[int]:
    """Those on a node whose command line begins with ``words``, the oldest first."""
    found = []
    for process in cluster.nodes[node].processes():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[: len(words)] == [*words]:
                found.append(process)
    return sorted(found)


def ranks_on(cluster: Slurm, node: int) -> list[int]:
    return processes_of(cluster, node, b"python", b"launch/train_cls.py")


def assert_stopped(said: str) -> None:
    """Both ranks have saved, at the same step, and exited with 143."""
    saved = [line for line in said.splitlines() if line.endswith("the same command resumes")]
    assert len(saved) == 2 and len({*saved}) == 1, said
    for of_rank in ("node-a: task 0", "node-b: task 1"):
        assert said.count(f"srun: error: {of_rank}: Exited with exit code 143") == 1, said


def test_a_job_that_is_stopped_in_every_way_is_requeued_and_ends_in_the_same_bits(
    cluster: Slurm, tiny_set: Path, tmp_path: Path
) -> None:
    undisturbed = [*CLS, "--shards", str(tiny_set), "--run", "whole", *ONLY_WHEN_ASKED]
    run("train_cls.py", *undisturbed, cwd=tmp_path, processes=2)

    cut = Submitted(cluster, tmp_path, "--nodes=2", shards=tiny_set, words=OFTEN)
    stops = {
        "the ranks": ["scancel", "--signal=TERM", cut.job],
        "the batch script": ["scancel", "--batch", "--signal=TERM", cut.job],
        "the job, by Slurm": ["scontrol", "requeue", cut.job],
    }
    before: list[str] = []
    for restarts, (what, words) in enumerate(stops.items()):
        cut.wait_for_new_checkpoint(before)
        assert cluster.state(cut.job)["Restarts"] == str(restarts)
        seen = len(cut.log.read_text())
        cluster.ask(*words)
        cluster.wait_for(cut.job, "PENDING", timeout_s=STOPS_WITHIN_S)
        said = cut.log.read_text()[seen:]
        assert_stopped(said)
        before = cut.interim()
        assert len(before) == 1, what
        assert not (cut.run / "summary.json").exists()

    # srun itself kills its tasks when it receives TERM: what is left is the last checkpoint by time.
    cut.wait_for_new_checkpoint(before)
    os.kill(processes_of(cluster, 0, b"srun")[0], signal.SIGTERM)
    assert cluster.wait_for(cut.job, "FAILED", timeout_s=STOPS_WITHIN_S)["ExitCode"] == "137:0"
    assert cut.interim() and not (cut.run / "summary.json").exists()
    cluster.ask("scontrol", "requeue", cut.job)

    done = cluster.wait_for(cut.job, "COMPLETED", "FAILED", timeout_s=REQUEUED_WITHIN_S)
    assert (done["JobState"], done["Restarts"]) == ("COMPLETED", "4"), cut.log.read_text()
    assert cut.log.read_text().count("resuming at") == 4
    whole = tmp_path / "whole"
    ours, theirs = summary(cut.run), summary(whole)
    for key in ("weights_sha256", "order_sha256", "metrics", "images_seen"):
        assert ours[key] == theirs[key], key
    names = [path.name for path in sorted((whole / "checkpoints").iterdir())]
    assert [path.name for path in sorted((cut.run / "checkpoints").iterdir())] == names
    for path in (whole / "checkpoints" / names[-1]).glob("*.safetensors"):
        ours_w, theirs_w = load_file(cut.run / "checkpoints" / names[-1] / path.name), load_file(path)
        assert all(np.array_equal(ours_w[name], theirs_w[name]) for name in theirs_w), path.name


def test_a_time_limit_leads_to_a_checkpoint_and_the_job_is_requeued(
    cluster: Slurm, tiny_set: Path, tmp_path: Path
) -> None:
    """Slurm looks at limits every 30 s, and then takes what falls due before the next look: TERM comes 20 to 50 s
    after the start, 10 s before the end at the latest."""
    words = ["--budget", "9600000 images", *ONLY_WHEN_ASKED]
    cut = Submitted(
        cluster, tmp_path, "--nodes=2", "--time=1", "--signal=TERM@10", shards=tiny_set, words=words
    )
    cluster.wait_for(cut.job, "RUNNING")
    cluster.wait_for(cut.job, "PENDING", timeout_s=90)
    cluster.ask("scancel", cut.job)
    assert_stopped(cut.log.read_text())
    assert len(cut.interim()) == 1


def test_a_mistake_a_cancelled_job_and_one_that_was_restarted_too_often_are_not_requeued(
    cluster: Slurm, tiny_set: Path, tmp_path: Path
) -> None:
    options = {"cancelled": [], "often": ["--export=ALL,MOST_RESTARTS=0"]}
    for name in ("mistake", *options):
        (tmp_path / name).mkdir()
    mistake = Submitted(cluster, tmp_path / "mistake", "--nodes=2", shards=tmp_path / "none", words=[])
    cluster.wait_for(mistake.job, "FAILED", "COMPLETED")
    assert "no such shard set" in mistake.log.read_text()

    words = ["--budget", "9600000 images", *OFTEN]
    cancelled, often = (
        Submitted(cluster, tmp_path / name, "--nodes=2", *more, shards=tiny_set, words=words)
        for name, more in options.items()
    )
    for stopped in (cancelled, often):
        stopped.wait_for_new_checkpoint([])
    cluster.ask("scancel", cancelled.job)
    wait_until(lambda: cluster.state(cancelled.job)["JobState"] == "CANCELLED", timeout_s=STOPS_WITHIN_S)
    wait_until(lambda: len(ranks_on(cluster, 1)) == 1, timeout_s=STOPS_WITHIN_S)
    os.kill(ranks_on(cluster, 1)[0], signal.SIGTERM)  # to one rank of `often`; it tells the other
    wait_until(lambda: not cluster.ask("squeue", "--noheader"), timeout_s=STOPS_WITHIN_S)
    for stopped in (cancelled, often):
        assert len(stopped.interim()) == 1
        assert_stopped(stopped.log.read_text())
    assert "stopped, and not requeued: it was restarted 0 times" in often.log.read_text()

    time.sleep(1)  # a requeue would have arrived
    ends = ((mistake, "FAILED", "2:0"), (cancelled, "CANCELLED", "143:0"), (often, "FAILED", "143:0"))
    for of_job, state, code in ends:
        found = cluster.state(of_job.job)
        assert (found["JobState"], found["ExitCode"], found["Restarts"]) == (state, code, "0")


RANK = """
import os, socket, sys, time
names = ("RANK", "WORLD_SIZE", "MASTER_ADDR")
print("on", socket.gethostname(), *(os.environ.get(name) for name in names), flush=True)
if os.environ.get("RANK") == "1":
    time.sleep(600)
sys.exit(1)
"""


def test_ranks_know_each_other_whatever_sbatch_exports_and_one_that_hangs_is_killed(
    cluster: Slurm, tmp_path: Path
) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    exported = "--export=PATH,LAST_RANK_S=2"
    words = ["--parsable", "--nodes=2", exported, f"--output={tmp_path / 'log'}", "launch/slurm/train.sbatch"]
    job = cluster.ask("sbatch", *words, str(tmp_path / "rank.py"), cwd=CLONE)
    done = cluster.wait_for(job, "FAILED", "COMPLETED", timeout_s=STOPS_WITHIN_S)
    said = (tmp_path / "log").read_text()
    assert "on node-a 0 2 node-a" in said and "on node-b 1 2 node-a" in said
    assert (done["JobState"], done["ExitCode"]) == ("FAILED", "137:0"), said


STUDY = """
name: {name}
shards: {shards}
source: null
arms: [DS1, DS2]
seeds: [0, 1]
cls_config: configs/cls/px32.yaml
cls_options: ["--budget=64 images", "--batch=16", "--evaluations=1", "--widths=4,8", "--hidden=16"]
processes: 1
report: {folder}/report
"""


def test_an_array_divides_a_study_and_ends_in_one_report(
    cluster: Slurm, tiny_set: Path, tmp_path: Path
) -> None:
    """A task that is stopped on its way is requeued alone, though it may have the number of the array."""
    for name in ("configs", "launch"):
        (tmp_path / name).symlink_to(CLONE / name)
    (tmp_path / "study.yaml").write_text(STUDY.format(name="tiny", shards=tiny_set, folder=tmp_path))
    options = ["--parsable", "--array=0-1", "--exclusive", "--output=log-%a"]
    array = cluster.ask("sbatch", *options, "launch/slurm/study.sbatch", "study.yaml", cwd=tmp_path)
    logs = [tmp_path / "log-0", tmp_path / "log-1"]
    wait_until(lambda: all(log.is_file() and "so far)" in log.read_text() for log in logs))
    cluster.ask("scancel", "--signal=TERM", f"{array}_1")
    cluster.wait_for(f"{array}_1", "PENDING", timeout_s=STOPS_WITHIN_S)
    restarts = []
    for task in (0, 1):
        done = cluster.wait_for(f"{array}_{task}", "COMPLETED", "FAILED", timeout_s=120)
        assert done["JobState"] == "COMPLETED", logs[task].read_text()
        restarts.append(done["Restarts"])
    assert restarts == ["0", "1"]
    said = [log.read_text() for log in logs]
    assert sorted(text.count("Report: ") for text in said) == [0, 1]
    begun = re.findall(r"^\[\d/4\] (\S+)  \(", "".join(said), re.MULTILINE)
    runs = [f"cls-{arm}-seed{seed}" for arm in ("ds1", "ds2") for seed in (0, 1)]
    assert {*begun} == {*runs} and len(begun) == 5  # the one that was stopped, twice
    assert all((tmp_path / "runs/tiny" / name / "summary.json").is_file() for name in runs)
    assert (tmp_path / "report/index.html").is_file()
