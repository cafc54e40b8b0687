"""The environment of the peers, not the project's own: they bring torchvision, and another version of numpy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.common import CLONE, report_progress

PINS = Path(__file__).with_name("peers.txt")
TORCH_CPU_INDEX = os.environ.get("TORCH_CPU_INDEX", "https://download.pytorch.org/whl/cpu")


def peers_python() -> Path:
    """The interpreter of ``.venv-bench``, which is made where there is none or where ``peers.txt`` has changed."""
    home = CLONE / ".venv-bench"
    python, ready = home / "bin" / "python", home / "ready.txt"
    if not ready.is_file() or ready.read_bytes() != PINS.read_bytes():
        report_progress(f"making {home} (two to five minutes, once)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        _install_torch(python)
        _pip(python, "-r", str(PINS))
        shutil.copyfile(PINS, ready)
    return python


def _install_torch(python: Path) -> None:
    """The CPU build where it can be had, as in the Makefile: the other brings several GB that no loader needs."""
    pinned = next(line for line in PINS.read_text().splitlines() if line.startswith("torch=="))
    try:
        _pip(python, f"{pinned}+cpu", quiet=True)
    except subprocess.CalledProcessError:
        _pip(python, "--extra-index-url", TORCH_CPU_INDEX, f"{pinned}+cpu")


def _pip(python: Path, *words: str, quiet: bool = False) -> None:
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, stdout=sys.stderr, stderr=subprocess.DEVNULL if quiet else None)


def pins(names: Iterable[str]) -> dict[str, str]:
    """Their versions in ``peers.txt``."""
    pinned = dict(line.split("==") for line in PINS.read_text().splitlines() if "==" in line)
    return {name: pinned[name] for name in names}
