"""A job on two hosts of which a process hangs, a host is lost, or one comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.hosts import Host, hosts, why_not
from tests.helpers.launching import CLONE, launch_environment, run, summary
from tests.helpers.processes import alive, children, wait_until

WHY_NOT = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]

TIMEOUT_S = 6
ENDS_WITHIN_S = 20
"""After the timeout: the others read the name, say it, and their launcher notices."""
KILLS_WITHIN_S = 45
"""A launcher sends SIGKILL 30 s after SIGTERM."""
CLS = ["--config", "configs/cls/px32.yaml", "--batch", "16", "--evaluations", "2", "--precision", "fp32"]
CLS += ["--widths", "4,8", "--hidden", "16", "--mix", "DS1", "--checkpoint-minutes", "0.02"]
ENDLESS = ["--budget", "4000000 images"]
SILENT = "stopped: rank {} on {} did not answer for 6 s (--collective-timeout): it hangs, or its host or the network "
SILENT += "to it is lost; the same command resumes"
ENDED_FIRST = "stopped: another process of this job ended first: see its error, or whether its host is lost"
PORT = "29500"


class Job:
    """A classifier on two hosts, one process each, with a run folder that both see."""

    def __init__(self, folder: Path, made: list[Host], shards: Path) -> None:
        self.folder, self.hosts = folder, made
        self.options = ["--shards", str(shards), "--collective-timeout", str(TIMEOUT_S / 60)]
        self.launchers: list[subprocess.Popen[str]] = []

    def static(self) -> None:
        """`accelerate launch`, whose launchers know the address of the first one."""
        for rank, host in enumerate(self.hosts):
            config = str(CLONE / "configs/accelerate/cpu2.yaml")
            words = ["accelerate.commands.launch", "--config_file", config, "--num_machines", "2"]
            words += ["--num_processes", "2", "--machine_rank", str(rank), "--main_process_port", PORT]
            words += ["--main_process_ip", self.hosts[0].address]
            self.start(host, *words, str(CLONE / "launch/train_cls.py"), *CLS, *ENDLESS, "--run", "run")

    def elastic(self, host: Host, *budget: str) -> None:
        words = ["torch.distributed.run", "--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3"]
        words += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"node-a:{PORT}", "--rdzv-id", "job"]
        words += ["--rdzv-conf", "last_call_timeout=3", str(CLONE / "launch/train_cls.py")]
        self.start(host, *words, *CLS, *budget, "--run-folder", "run")

    def start(self, host: Host, *words: str) -> None:
        environment = {
            **launch_environment(),
            "ACCELERATE_USE_CPU": "true",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        with (self.folder / f"said on {host.name}").open("a") as file:
            self.launchers.append(
                host.start(
                    *[sys.executable, "-m", *words, *self.options],
                    cwd=self.folder,
                    env=environment,
                    stdout=file,
                    stderr=file,
                )
            )

    def wait_for_checkpoint(self) -> None:
        wait_until(self.checkpoints, self.launchers[0])

    def checkpoints(self) -> set[Path]:
        return {*self.folder.glob("run/checkpoints/interim-*")}

    def said(self, host: Host) -> str:
        return (self.folder / f"said on {host.name}").read_text()

    def code(self, number: int, within_s: float) -> int:
        return self.launchers[number].wait(within_s)


@pytest.fixture
def job(tmp_path: Path, tiny_set: Path) -> Iterator[Job]:
    with hosts(tmp_path) as made:
        yield Job(tmp_path, made, tiny_set)


def is_last(message: str, said: str) -> bool:
    """Whether the message is all that a process said of its end, and what its launcher's last lines give as the
    cause."""
    by_process, _, last = said.partition("Root Cause")
    return (
        by_process.count("stopped: ") == 1
        and "RuntimeError" not in said
        and "Exception raised" not in said  # as c10d's warnings say
        and message in last
    )


def test_a_process_that_hangs_is_named_and_killed(job: Job) -> None:
    """On one host, whose launcher kills it."""
    node = job.hosts[0]
    words = ["accelerate.commands.launch", "--config_file", str(CLONE / "configs/accelerate/cpu2.yaml")]
    job.start(node, *words, str(CLONE / "launch/train_cls.py"), *CLS, *ENDLESS, "--run", "run")
    job.wait_for_checkpoint()
    ranks = children(job.launchers[0].pid)
    hanging = next(p for p in ranks if b"RANK=1" in Path(f"/proc/{p}/environ").read_bytes().split(b"\0"))
    began_s = time.monotonic()
    os.kill(hanging, signal.SIGSTOP)
    wait_until(lambda: alive(ranks) == [hanging], timeout_s=TIMEOUT_S + ENDS_WITHIN_S)
    assert time.monotonic() - began_s > TIMEOUT_S
    assert job.code(0, KILLS_WITHIN_S) == 1 and not alive(ranks)
    assert is_last(SILENT.format(1, "node-a"), job.said(node)), job.said(node)


def test_hosts_that_are_cut_off_from_each_other_name_each_other(job: Job) -> None:
    """No packet tells them: as after a power failure."""
    job.static()
    job.wait_for_checkpoint()
    job.hosts[1].connect(False)
    assert [job.code(number, TIMEOUT_S + ENDS_WITHIN_S) for number in (0, 1)] == [1, 1]
    for rank, host in enumerate(job.hosts):
        other = 1 - rank
        assert is_last(SILENT.format(other, job.hosts[other].name), job.said(host)), job.said(host)


def test_the_host_of_rank_0_and_of_the_rendezvous_is_killed(job: Job) -> None:
    job.static()
    job.wait_for_checkpoint()
    job.hosts[0].kill()
    assert job.code(1, ENDS_WITHIN_S) == 1
    assert is_last(ENDED_FIRST, job.said(job.hosts[1])), job.said(job.hosts[1])


def test_a_job_goes_on_without_a_lost_host_and_with_one_that_comes(job: Job, tiny_set: Path) -> None:
    a, b = job.hosts
    budget = ["--budget", "45000 images"]
    job.elastic(a, *budget)
    job.elastic(b, *budget)
    job.wait_for_checkpoint()
    b.kill()
    wait_until(lambda: "resuming at" in job.said(a), job.launchers[0])
    assert ENDED_FIRST in job.said(a)
    resumed_from = job.checkpoints()
    wait_until(lambda: job.checkpoints() - resumed_from, job.launchers[0])
    job.elastic(b, *budget)
    assert job.code(0, 300) == 0, job.said(a)
    found = summary(job.folder / "run")
    assert [stretch["world_size"] for stretch in found["stretches"]] == [2, 1, 2]

    run("train_cls.py", *CLS, *budget, "--shards", str(tiny_set), "--run", "whole", cwd=job.folder)
    assert found["order_sha256"] == summary(job.folder / "whole")["order_sha256"]
    assert found["images_seen"] == summary(job.folder / "whole")["images_seen"]


def test_torchrun_restarts_a_job_whose_processes_connect_again(tmp_path: Path, tiny_set: Path) -> None:
    """torchrun's store still has the addresses of those before."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", str(CLONE / "launch/train_cls.py"), *CLS, "--budget", "8000 images"]
    command += ["--shards", str(tiny_set), "--run-folder", "run"]
    environment = {**launch_environment(), "ACCELERATE_USE_CPU": "true"}
    launcher = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_until(lambda: [*tmp_path.glob("run/checkpoints/interim-*")], launcher)
    os.kill(children(launcher.pid)[1], signal.SIGKILL)
    said, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, said
    assert said.count(ENDED_FIRST) == 1 and said.count("resuming at") == 1
    assert [stretch["world_size"] for stretch in summary(tmp_path / "run")["stretches"]] == [2]
