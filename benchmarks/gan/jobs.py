"""What the comparisons of generators share: jobs as users start them, with their processor time, and the picture."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from PIL import Image

from benchmarks.common import CLONE, python_path, report_progress


@dataclass(frozen=True)
class Cost:
    """Of a command and its child processes, from start to exit."""

    cpu_s: float
    wall_s: float


def launch(script: str, *words: str, processes: int) -> None:
    """A job of ours, as users start it. Raises CalledProcessError if it fails."""
    command = []
    if processes > 1:
        config = "gpu.yaml" if torch.cuda.is_available() else "cpu2.yaml"
        command += ["-m", "accelerate.commands.launch"]
        command += ["--config_file", str(CLONE / "configs/accelerate" / config)]
        command += ["--num_processes", str(processes)]
    run_python(*command, str(CLONE / "launch" / script), *words, "--tracking.mode", "disabled")


def run_python(*words: str) -> None:
    """A Python command in the clone; what it prints goes to stderr. Raises CalledProcessError if it fails."""
    report_progress(" ".join(words))
    env = {**os.environ, "PYTHONPATH": python_path()}
    subprocess.run([sys.executable, *words], env=env, check=True, stdout=sys.stderr)


def measured(run: Path, words: Sequence[str], start: Callable[[], None]) -> Cost:
    """The cost of a command that writes ``run``, a folder or a file; that of the first call if ``run`` is finished.

    ``words``: the options of the command. Raises SystemExit if ``run`` was finished with others. A run that was
    interrupted starts again: the processor time of its first part is not known.
    """
    file = run.with_name(f"{run.name}.cost.json")
    if file.exists():
        found = json.loads(file.read_text())
        if found["options"] != list(words):
            raise SystemExit(
                f"{run}: was trained with other options ({' '.join(found['options'])}): remove it and {file.name}, "
                "or name another --folder"
            )
        return Cost(**found["cost"])
    if run.is_dir():
        shutil.rmtree(run)
    run.parent.mkdir(parents=True, exist_ok=True)
    cpu, wall = _cpu_of_children(), time.monotonic()
    start()
    cost = Cost(round(_cpu_of_children() - cpu, 1), round(time.monotonic() - wall, 1))
    file.write_text(json.dumps({"cost": asdict(cost), "options": list(words)}) + "\n")
    return cost


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def mean_of(values: Sequence[float | None]) -> float | None:
    """None if one is missing, as of a class with too few images for the figure, or if there are none."""
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None


def std_of(values: Sequence[float | None]) -> float | None:
    """None if one is missing or alone."""
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) > 1 and len(known) == len(values) else None


def rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def first_line(samples: Path, size: int) -> np.ndarray:
    """The first line of the newest grid that a training drew in a folder, of images of ``size`` pixels."""
    with Image.open(max(samples.glob("*.png"))) as grid:
        return np.asarray(grid)[:size]


def save_picture(file: Path, rows: Sequence[Sequence[np.ndarray]]) -> None:
    """A line of pictures per row: groups of images [n, H, W] uint8 side by side, with a gap between groups."""
    lines = []
    for groups in rows:
        side = groups[0].shape[1]
        gap = np.full((side + 2, side // 4 + 2), 255, np.uint8)
        drawn = [np.hstack([np.pad(image, 1, constant_values=255) for image in some]) for some in groups]
        parts = [part for some in drawn for part in (gap, some)][1:]
        lines.append(np.hstack(parts))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(lines)).save(file)
