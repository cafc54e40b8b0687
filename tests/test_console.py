from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from cxrdist import console
from cxrdist.console import Progress

LIVE = """
import sys, time
from cxrdist.console import Progress
assert "rich" not in sys.modules
with Progress("import [red]\\x1b[31mx", 4, start=1) as progress:
    progress.last_shown_s = 0
    progress.at(3, "loss 0.3")
    print("a line")
print("rich" in sys.modules)
"""


def on_terminal(program: str, **environment: str) -> str:
    """What a program writes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": "100", "TERM": "xterm", **environment}
    with subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 65536):
                written += part
        except OSError:  # the program has ended
            pass
    os.close(ours)
    assert process.returncode == 0, written.decode()
    return written.decode().replace("\r\n", "\n")


def test_on_a_terminal_one_line_is_redrawn_and_removed() -> None:
    written = on_terminal(LIVE)
    assert re.search(r"import \[red\]\\x1b\[31mx +3/4 img +75% +[\d,]+ img/s +0 s left +loss 0\.3", written)
    shown, _, rest = written.partition("a line")
    assert shown.count("3/4 img") == 1 and rest.count("3/4 img") == 2  # drawn again below the line
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", rest)
    assert plain.endswith("import [red]\\x1b[31mx  3 img in 0 s  loss 0.3\nTrue\n")


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"RANK": "1", "WORLD_SIZE": "2"}])
def test_without_a_line_to_redraw_rich_is_not_imported(environment: dict[str, str]) -> None:
    written = on_terminal(LIVE, **environment)
    assert written.endswith("False\n") and "\x1b[2K" not in written


def test_elsewhere_a_line_is_printed_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Progress("GAN", 2000, start=1000) as progress:
        for seconds, done in ((1.0, 1100), (5.0, 1500), (9.0, 1900), (10.0, 2000)):
            now[0] = 100.0 + seconds
            progress.at(done, "loss 1" if done == 1500 else "")
    assert capsys.readouterr().out.splitlines() == [
        "GAN  1,500/2,000 img  75%  100 img/s  5 s left  loss 1",
        "GAN  2,000/2,000 img  100%  100 img/s  0 s left  loss 1",
        "GAN  2,000 img in 10 s  loss 1",
    ]
