"""A machine with GPUs, as far as ``nvidia-smi`` says: a script of that name on PATH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

A100 = "0, NVIDIA A100-SXM4-80GB, 81920, 512, 0, 550.54.15, GPU-a"
BUSY = "1, NVIDIA A100-SXM4-80GB, 81920, 40960, 99, 550.54.15, GPU-b"
T4 = "2, Tesla T4, 15360, 3, 90, 550.54.15, GPU-c"


def fake_smi(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *rows: str, cuda: str = "12.4", fails: str = ""
) -> None:
    """Put an nvidia-smi on PATH that lists ``rows``, or ``fails`` with a text."""
    folder.mkdir(exist_ok=True)
    script = folder / "nvidia-smi"
    lines = "\\n".join(rows)
    head = f"| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: {cuda} |"
    body = f"echo '{fails}'; exit 9" if fails else f'[ -n "$1" ] && printf "{lines}\\n" || echo "{head}"'
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
