"""A host's way to the others made slow and lossy: by netem where the kernel has it, else by ``slow_link.py``."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tests.helpers.hosts import INTERFACE, Host
from tests.helpers.launching import CLONE

ASIDE = "cable"
"""The name of a host's own interface while another one has its place."""


@dataclass
class Impaired:
    """What a host sends goes through this; what it receives does not."""

    by: str
    """``netem``, or ``a relay``."""
    passed: int = 0
    """Frames that came through. Known after the end, as ``dropped``."""
    dropped: int = 0


@contextlib.contextmanager
def impaired(host: Host, *, delay_ms: float, loss_percent: float, seed: int = 0) -> Iterator[Impaired]:
    """What ``host`` sends takes ``delay_ms`` longer, and ``loss_percent`` of its frames are lost at random."""
    tc = ["ip", "netns", "exec", host.namespace, "tc"]
    netem = ["netem", "delay", f"{delay_ms:g}ms", "loss", f"{loss_percent:g}%"]
    root = ["dev", INTERFACE, "root"]
    if subprocess.run([*tc, "qdisc", "add", *root, *netem], capture_output=True, check=False).returncode == 0:
        of = Impaired("netem")
        try:
            yield of
        finally:
            said = _output(*tc, "-s", "qdisc", "show", *root)
            of.passed, of.dropped = (int(n) for n in re.search(r"(\d+) pkt \(dropped (\d+)", said).groups())  # type: ignore[union-attr]
            subprocess.run([*tc, "qdisc", "del", *root], check=True)
        return
    with _relay(host, [f"{delay_ms:g}", f"{loss_percent:g}", str(seed)]) as of:
        yield of


@contextlib.contextmanager
def _relay(host: Host, options: list[str]) -> Iterator[Impaired]:
    """Put a TAP in the place of the host's interface, with its address, and connect it to the others by a relay."""
    switch = host.namespace.removesuffix(host.name) + "switch"
    inside, outside = f"{host.name}-in", f"{host.name}-out"
    command = ["ip", "netns", "exec", switch, sys.executable, "-m", "tests.helpers.slow_link"]
    relay = subprocess.Popen(
        [*command, inside, outside, *options], cwd=CLONE, stdout=subprocess.PIPE, text=True
    )
    assert relay.stdout is not None
    of = Impaired("a relay")
    try:
        assert relay.stdout.readline() == "ready\n"
        here, there = ["ip", "-n", host.namespace], ["ip", "-n", switch]
        _output(*there, "link", "set", outside, "master", "bridge", "up")
        _output(*here, "link", "set", INTERFACE, "down")
        _output(*here, "address", "flush", "dev", INTERFACE)
        mac = _output(*here, "link", "show", INTERFACE).partition("link/ether ")[2].split()[0]
        _output(*here, "link", "set", INTERFACE, "name", ASIDE)
        # With the same hardware address the others' ARP tables stay right.
        _output(*there, "link", "set", inside, "address", mac, "netns", host.namespace)
        _output(*here, "link", "set", inside, "name", INTERFACE)
        _output(*here, "address", "add", f"{host.address}/24", "dev", INTERFACE)
        _output(*here, "link", "set", INTERFACE, "up")
        yield of
    finally:
        relay.terminate()
        of.passed, of.dropped = (int(word) for word in relay.communicate(timeout=20)[0].split())
    # The TAPs have ended with the relay.
    _output(*here, "link", "set", ASIDE, "name", INTERFACE)
    _output(*here, "address", "add", f"{host.address}/24", "dev", INTERFACE)
    _output(*here, "link", "set", INTERFACE, "up")


def _output(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
