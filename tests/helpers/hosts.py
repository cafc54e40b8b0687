"""Several hosts on one machine: each has its own network stack, host name, and files where it shall have its own.

A host is a network namespace. All of them are connected to one bridge, which lies in a namespace too, so that nothing
of this machine's own network is touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INTERFACE = "eth0"
_COMMANDS = ("ip", "tc", "unshare", "mount")


@dataclass(frozen=True)
class Host:
    """One host: ``name`` is its host name, ``address`` its IPv4 address; both lead to it from every other host."""

    name: str
    address: str
    namespace: str
    private: Path
    """A folder of this host's own."""

    def command(self, *words: str, mounted: Path | None = None) -> list[str]:
        """A command line that runs ``words`` on this host. ``mounted``: a folder that this host sees its own
        ``private`` folder in."""
        prepare = (
            f'hostname {self.name} && {{ [ -z "$1" ] || mount --bind "$2" "$1"; }} && shift 2 && exec "$@"'
        )
        own = ["sh", "-c", prepare, "sh", str(mounted or ""), str(self.private), *words]
        return ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "--mount", *own]

    def start(
        self, *words: str, cwd: Path, env: Mapping[str, str], mounted: Path | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start ``words`` on this host; its stdout and stderr are pipes unless ``options`` say otherwise."""
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # gloo and NCCL would otherwise look for the interface by the host name.
        variables = {**env, "GLOO_SOCKET_IFNAME": INTERFACE, "NCCL_SOCKET_IFNAME": INTERFACE}
        command = self.command(*words, mounted=mounted)
        return subprocess.Popen(command, cwd=cwd, env=variables, **{**streams, **options})

    def processes(self) -> list[int]:
        """IDs of all processes that run on this host."""
        done = subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True
        )
        return [int(word) for word in done.stdout.split()]

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to all processes of this host; SIGKILL is the loss of the host, its network aside."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signum)

    def connect(self, is_up: bool) -> None:
        """Unplug this host's network cable, or plug it in again."""
        _ip("-n", self.namespace, "link", "set", INTERFACE, "up" if is_up else "down")

    def shape(self, *qdisc: str) -> None:
        """Queue what this host sends as ``tc(8)`` has it, such as ``shape("tbf", "rate", "8mbit", "burst", "32k",
        "latency", "400ms")``; without words, as before."""
        tc = ["ip", "netns", "exec", self.namespace, "tc", "qdisc"]
        subprocess.run([*tc, "del", "dev", INTERFACE, "root"], capture_output=True, check=False)
        if qdisc:
            subprocess.run([*tc, "add", "dev", INTERFACE, "root", *qdisc], check=True)


def why_not() -> str:
    """Why there can be no such hosts here; empty if there can."""
    missing = [command for command in _COMMANDS if shutil.which(command) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"cxr-try-{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "exec", name, "unshare", "--uts", "--mount", "true")
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return ""


@contextlib.contextmanager
def hosts(folder: Path, count: int = 2) -> Iterator[list[Host]]:
    """``count`` hosts, node-a, node-b and so on, at 10.77.0.1 and up, connected to each other; what runs on them is
    killed at the end. ``folder``: where their private folders are made."""
    prefix = f"cxr-{os.getpid()}"
    switch = f"{prefix}-switch"
    made = []
    for i in range(count):
        name = f"node-{chr(ord('a') + i)}"
        private = folder / f"private of {name}"
        private.mkdir()
        made.append(Host(name, f"10.77.0.{i + 1}", f"{prefix}-{name}", private))
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for host in made:
            _connect(host, switch, made)
        yield made
    finally:
        for host in made:
            with contextlib.suppress(subprocess.CalledProcessError):
                host.kill()
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True, check=False)
            shutil.rmtree(_names_of(host), ignore_errors=True)
        subprocess.run(["ip", "netns", "del", switch], capture_output=True, check=False)


def _connect(host: Host, switch: str, made: list[Host]) -> None:
    _ip("netns", "add", host.namespace)
    _ip(
        "-n",
        host.namespace,
        "link",
        "add",
        INTERFACE,
        "type",
        "veth",
        "peer",
        "name",
        host.name,
        "netns",
        switch,
    )
    _ip("-n", switch, "link", "set", host.name, "master", "bridge", "up")
    _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", INTERFACE)
    _ip("-n", host.namespace, "link", "set", INTERFACE, "up")
    _ip("-n", host.namespace, "link", "set", "lo", "up")
    _names_of(host).mkdir(parents=True)
    lines = ["127.0.0.1 localhost", *(f"{other.address} {other.name}" for other in made)]
    (_names_of(host) / "hosts").write_text("\n".join(lines) + "\n")


def _names_of(host: Host) -> Path:
    """``ip netns exec`` mounts what lies here over /etc."""
    return Path("/etc/netns") / host.namespace


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
