from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys

import pytest

from cxrdist import process

NAMES_ITS_PARENT = """
import os, subprocess, sys
from cxrdist.process import die_with_parent
die_with_parent({parent})
print("lives")
"""


def child(parent: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NAMES_ITS_PARENT.format(parent=parent)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_child_of_the_parent_it_names_lives() -> None:
    assert child("os.getppid()").stdout == "lives\n"


def test_a_child_whose_parent_is_gone_says_so_and_ends() -> None:
    done = child("os.getppid() + 1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "stopped: the process that started this one has ended\n"


def test_a_command_that_is_process_1_may_have_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container: the parent is process 1, and it is the one that the child was told of."""
    monkeypatch.setattr(process.os, "getppid", lambda: 1)
    monkeypatch.setattr(process.os, "_exit", lambda _: pytest.fail("killed itself"))
    monkeypatch.setattr(process.ctypes, "CDLL", lambda *_, **__: type("C", (), {"prctl": lambda *_: 0})())
    process.die_with_parent(1)


TAKES_MEMORY_AGAIN = """
import resource
from cxrdist.process import keep_freed_memory
{call}
faults = []
for _ in range(4):
    [b"x" * 2**20 for _ in range(8)]
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[3] - faults[1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_is_kept_is_not_taken_from_the_system_again() -> None:
    def pages(call: str) -> int:
        command = [sys.executable, "-c", TAKES_MEMORY_AGAIN.format(call=call)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    # Twice 8 MiB, in pages of 4 KiB; the system may hand out a few of them at once.
    assert pages("") > 2048 > 100 > pages("keep_freed_memory()")


AT_THE_END = """
import atexit
from cxrdist.process import main

class Last:
    def __del__(self):
        print("finalized", flush=True)

last = Last()
atexit.register(lambda: print("atexit"))

def command():
    print("done")
    return 3

main(command)
"""


@pytest.mark.parametrize(("launched", "said"), [(True, "done atexit"), (False, "done atexit finalized")])
def test_a_launched_process_exits_without_finalizing_the_interpreter(launched: bool, said: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "ACCELERATE_MIXED_PRECISION"}
    env |= {"PYTHONPATH": os.pathsep.join(sys.path)} | (
        {"ACCELERATE_MIXED_PRECISION": "no"} if launched else {}
    )
    done = subprocess.run([sys.executable, "-c", AT_THE_END], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (3, said.split(), "")


def test_a_command_leaves_the_signals_of_its_caller_as_they_were() -> None:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(signum) for signum in signals]
    with pytest.raises(SystemExit) as ended:
        process.main(lambda: 3)
    assert ended.value.code == 3
    assert [signal.getsignal(signum) for signum in signals] == before


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "[transport/tcp/pair.cc:547] Connection closed by peer [10.77.0.2]:43312",
            "another process of this job ended first: see its error, or whether its host is lost",
        ),
        (
            "[transport/tcp/unbound_buffer.cc:81] Timed out waiting 7000ms for recv operation to complete",
            "another process of this job did not come to the same step within --collective-timeout",
        ),
    ],
)
def test_an_error_of_a_collective_is_said_in_one_line(
    message: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise RuntimeError(message)

    with pytest.raises(SystemExit) as ended:
        process.main(command)
    assert ended.value.code == 1
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1 and stderr.startswith(f"stopped: {said}")
