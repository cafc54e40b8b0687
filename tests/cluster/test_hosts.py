"""Hosts of the helper are what it says: names, addresses, folders of their own, slow and lossy ways between them."""

from __future__ import annotations

import os
import socket
import statistics
import sys
from pathlib import Path

import pytest

from tests.helpers.hosts import Host
from tests.helpers.impaired import impaired

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

Hosts = tuple[Host, Host]
SAY = "import os, socket, sys; print(socket.gethostname(), socket.gethostbyname(sys.argv[1]), *os.listdir('own'))"
ECHO = """
import socket
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(("0.0.0.0", 7))
print("ready", flush=True)
while True:
    own.sendto(*own.recvfrom(100))
"""
ASK = """
import socket, sys, time
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sent = {}
for i in range(int(sys.argv[2])):
    sent[i] = time.monotonic()
    own.sendto(str(i).encode(), (sys.argv[1], 7))
    time.sleep(0.002)
    try:
        own.settimeout(0.5 if i + 1 == int(sys.argv[2]) else 0.001)
        while sent:
            print(1000 * (time.monotonic() - sent.pop(int(own.recv(100)))))
    except TimeoutError:
        pass
"""


def said(host: Host, *words: str, cwd: Path, mounted: Path | None = None) -> str:
    process = host.start(sys.executable, "-c", *words, cwd=cwd, env=dict(os.environ), mounted=mounted)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    return stdout


def round_trips_ms(of: Host, to: Host, *, cwd: Path, count: int) -> list[float]:
    """Of the datagrams that came back."""
    echo = to.start(sys.executable, "-c", ECHO, cwd=cwd, env=dict(os.environ))
    try:
        assert echo.stdout is not None and echo.stdout.readline() == "ready\n"
        return [float(line) for line in said(of, ASK, to.name, str(count), cwd=cwd).splitlines()]
    finally:
        echo.kill()
        echo.communicate()


def test_a_host_has_a_name_an_address_and_a_folder_of_its_own(two_hosts: Hosts, tmp_path: Path) -> None:
    a, b = two_hosts
    own = tmp_path / "own"
    own.mkdir()
    (a.private / "on-a").touch()
    (b.private / "on-b").touch()
    assert said(a, SAY, "node-b", cwd=tmp_path, mounted=own) == "node-a 10.77.0.2 on-a\n"
    assert said(b, SAY, "node-a", cwd=tmp_path, mounted=own) == "node-b 10.77.0.1 on-b\n"
    assert list(own.iterdir()) == [] and socket.gethostname() not in ("node-a", "node-b")


def test_a_host_is_lost_and_cut_off(two_hosts: Hosts, tmp_path: Path) -> None:
    a, b = two_hosts
    assert len(round_trips_ms(a, b, cwd=tmp_path, count=5)) == 5
    b.connect(False)
    assert round_trips_ms(a, b, cwd=tmp_path, count=5) == []
    b.connect(True)
    assert len(round_trips_ms(a, b, cwd=tmp_path, count=5)) == 5
    left = b.start("sleep", "60", cwd=tmp_path, env=dict(os.environ))
    while not b.processes():
        assert left.poll() is None
    b.kill()
    assert left.wait(10) == -9 and b.processes() == []
    left.communicate()


def test_an_impaired_host_sends_late_and_loses_frames(
    two_hosts: Hosts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two_hosts
    count = 1000
    with impaired(b, delay_ms=50, loss_percent=1) as way:
        slow = round_trips_ms(a, b, cwd=tmp_path, count=count)
    fast = round_trips_ms(a, b, cwd=tmp_path, count=20)
    with capsys.disabled():
        print(f"\n50 ms and 1% by {way.by}: {statistics.median(slow):.1f} ms, {way.dropped} of {count} lost")
    assert len(fast) == 20 and statistics.median(fast) < 25
    assert 50 <= statistics.median(slow) < 100
    # The echo's frames, and an ARP or two. One in a hundred of a thousand: 10, with a standard deviation of 3.
    lost = count - len(slow)
    assert 1 <= lost <= 25 and lost <= way.dropped <= lost + 2
    assert way.passed >= len(slow)
