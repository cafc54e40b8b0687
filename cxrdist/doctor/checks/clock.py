"""The clock of this machine against that of the file system of runs, and against the age of this package."""

from __future__ import annotations

import datetime
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cxrdist.doctor.clocks import CURE, FAR_S, SKEW_S
from cxrdist.doctor.findings import Finding, error, ok, warning
from cxrdist.doctor.folders import PREFIX
from cxrdist.doctor.options import DoctorOptions
from cxrdist.files import nearest_folder


def look(options: DoctorOptions) -> Iterator[Finding]:
    now = time.time()
    newest = max(path.stat().st_mtime for path in Path(__file__).parents[1].glob("*.py"))
    stated = datetime.datetime.fromtimestamp(now).astimezone().isoformat(" ", "seconds")
    if now < newest - FAR_S:
        yield error(f"it is {stated} here, before this package was written", CURE)
        return
    folder = nearest_folder(options.run)
    if not os.access(folder, os.W_OK | os.X_OK):  # an error of the folder of runs
        yield ok(f"{stated}; not compared with the file system of runs, which is not writable")
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix=PREFIX) as file:
        before = time.time()
        file.write(b"now")
        file.flush()
        written = Path(file.name).stat().st_mtime
        after = time.time()
    yield against_files(outside(written, before, after), stated)


def outside(moment: float, before: float, after: float) -> float:
    """Seconds by which a moment of another clock lies before ``before`` (negative) or after ``after`` (positive) of
    this one; 0 if it is between them."""
    return min(0.0, moment - before) + max(0.0, moment - after)


def against_files(skew_s: float, stated: str) -> Finding:
    """``skew_s``: how far the file system's clock is ahead of this machine's."""
    if abs(skew_s) < SKEW_S:
        return ok(f"{stated}, and the file system of runs agrees")
    side = "ahead of" if skew_s > 0 else "behind"
    what = f"the clock of the file system of runs is {abs(skew_s):.0f} s {side} this machine's ({stated})"
    return error(what, CURE) if abs(skew_s) >= FAR_S else warning(what, CURE)
