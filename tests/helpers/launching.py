"""Start the jobs of launch/ as users do, on CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parents[2]


def launch(
    script: str, *words: str, cwd: Path, processes: int = 1, config: str = "cpu2.yaml"
) -> subprocess.CompletedProcess[str]:
    """``launch/<script>`` on CPU, under ``accelerate launch`` where there are several processes."""
    return subprocess.run(
        launch_command(script, *words, processes=processes, config=config),
        cwd=cwd,
        env=launch_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def launch_command(script: str, *words: str, processes: int = 1, config: str = "cpu2.yaml") -> list[str]:
    command = [sys.executable]
    if processes > 1:
        file = str(CLONE / "configs/accelerate" / config)
        command += ["-m", "accelerate.commands.launch", "--config_file", file]
        command += ["--num_processes", str(processes)]
    return [*command, str(CLONE / "launch" / script), *words]


def launch_environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(CLONE),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "WANDB_MODE": "disabled",
    }


def run(script: str, *words: str, cwd: Path, processes: int = 1) -> str:
    done = launch(script, *words, cwd=cwd, processes=processes)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())
