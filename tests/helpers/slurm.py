"""A Slurm of its own for tests: munged, slurmctld and one slurmd per host, in network namespaces.

Keys, sockets, ports and state are its own, so that a Slurm of the machine is neither used nor touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers import hosts
from tests.helpers.hosts import Host
from tests.helpers.processes import wait_until

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue")
STARTS_WITHIN_S = 60
ENDS_WITHIN_S = 10
CPUS = 4
"""Of a node, as Slurm counts them: more than there are, so that two jobs fit on it."""
CONFIG = """
ClusterName=test
SlurmctldHost={controller.name}({controller.address})
SlurmUser=root
AuthType=auth/munge
# A requeued job waits for as long as its credential is valid, by default two minutes.
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
PartitionName=all Nodes=ALL Default=YES
"""


@dataclass(frozen=True)
class Slurm:
    """A running cluster. ``nodes``: its hosts; the controller is on the first one."""

    nodes: list[Host]
    environment: Mapping[str, str]
    folder: Path
    daemons: list[subprocess.Popen[str]] = field(default_factory=list)

    def ask(self, *words: str, cwd: Path | None = None) -> str:
        """What a command of Slurm prints on the first node. Raises AssertionError if it fails."""
        done = subprocess.run(
            self.nodes[0].command(*words),
            env=dict(self.environment),
            cwd=cwd or self.folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        """All fields of ``scontrol show job``, such as JobState, Restarts and ExitCode."""
        words = self.ask("scontrol", "show", "job", job, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, job: str, *states: str, timeout_s: float = 60) -> dict[str, str]:
        """Until a job is in one of these states."""
        found: dict[str, str] = {}

        def is_so() -> bool:
            found.update(self.state(job))
            return found["JobState"] in states

        wait_until(is_so, timeout_s=timeout_s)
        return found


def why_not() -> str:
    """Why no Slurm can be started here; empty if one can."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        return f"{missing[0]} is not installed (Debian: apt-get install slurm-wlm munge)"
    return hosts.why_not()


@contextlib.contextmanager
def slurm(folder: Path, environment: Mapping[str, str]) -> Iterator[Slurm]:
    """Two nodes, node-a and node-b, which see the same files. ``environment``: of the commands, and so of jobs."""
    with hosts.hosts(folder) as nodes:
        config = folder / "slurm.conf"
        lines = [f"NodeName={node.name} NodeAddr={node.address} CPUs={CPUS}" for node in nodes]
        text = CONFIG.format(controller=nodes[0], folder=folder)
        config.write_text(text + "\n".join(lines) + "\n")
        # In a namespace's /sys no cgroups are mounted, and slurmd would look for those of version 2.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for name in ("state", *(f"spool-{node.name}" for node in nodes)):
            (folder / name).mkdir()
        started = Slurm(nodes, {**environment, "SLURM_CONF": str(config)}, folder)
        try:
            _start(started)
            yield started
        finally:
            _stop(started)


def _start(cluster: Slurm) -> None:
    folder, first = cluster.folder, cluster.nodes[0]
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = {"socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "seed"}
    options = [f"--{option}={folder / name}" for option, name in files.items()]
    _daemon(cluster, first, "munged", "--foreground", "--force", f"--key-file={key}", *options)
    wait_until((folder / "munge.sock").exists, timeout_s=STARTS_WITHIN_S)
    _daemon(cluster, first, "slurmctld", "-D")
    for node in cluster.nodes:
        _daemon(cluster, node, "slurmd", "-D", "-N", node.name)
    wait_until(lambda: _idle(cluster) == len(cluster.nodes), timeout_s=STARTS_WITHIN_S)


def _daemon(cluster: Slurm, node: Host, *words: str) -> None:
    with (cluster.folder / f"{words[0]} on {node.name}").open("w") as log:
        cluster.daemons.append(
            node.start(*words, cwd=cluster.folder, env=cluster.environment, stdout=log, stderr=log)
        )


def _idle(cluster: Slurm) -> int:
    """Nodes on which a job may start."""
    for daemon in cluster.daemons:
        assert daemon.poll() is None, (daemon.args, _logs(cluster.folder))
    words = cluster.nodes[0].command("sinfo", "--noheader", "--states=idle", "--format=%D")
    done = subprocess.run(words, env=dict(cluster.environment), capture_output=True, text=True)
    return sum(int(word) for word in done.stdout.split() if word.isdecimal())


def _logs(folder: Path) -> str:
    return "\n".join(path.read_text()[-1000:] for path in folder.glob("* on node-?") if path.is_file())


def _stop(cluster: Slurm) -> None:
    """Jobs first: what is left of them would outlive the daemons until the hosts end."""
    with contextlib.suppress(AssertionError, subprocess.SubprocessError):
        cluster.ask("scancel", "--user=root")
        end_s = time.monotonic() + ENDS_WITHIN_S
        while cluster.ask("squeue", "--noheader") and time.monotonic() < end_s:
            time.sleep(0.2)
    for daemon in reversed(cluster.daemons):
        daemon.send_signal(signal.SIGTERM)
    for daemon in reversed(cluster.daemons):
        try:
            daemon.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
