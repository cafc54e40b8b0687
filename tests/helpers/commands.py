"""Run a command of ``cxrdist`` in this process."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cxrdist.cli.main import dispatch
from cxrdist.process import main as process_main

Capture = pytest.CaptureFixture[str]


def mix(capsys: Capture, *words: str, logged: Sequence[str] = ()) -> list[str]:
    """The lines that a command prints, without the blanks at their ends; ``logged``: what it must log on stderr."""
    with pytest.raises(SystemExit) as caught:
        process_main(lambda: dispatch(["mix", *words]))
    done = capsys.readouterr()
    assert (caught.value.code, done.err.splitlines()) == (0, [*logged])
    return [line.rstrip() for line in done.out.splitlines()]
