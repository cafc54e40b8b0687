"""One check of a GPU, about eight minutes: that it computes what the CPU does, how fast a training step is, and
what two minutes of the presets for 256 px draw.

Exits with 1 if the GPU draws other numbers, or delivers other images, than the CPU.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import CLONE, Row, load, parser, report, report_progress, versions, write_json
from benchmarks.gan.jobs import first_line, launch, run_python
from benchmarks.gan.step import COLUMNS, run
from benchmarks.gan.step_side import Side
from cxrdist import counter_rng
from cxrdist.data.loading.config import LoaderConfig
from cxrdist.data.loading.prefetch import read_ahead
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.shards.shard_set import ShardSet

SIZE, BATCH, STEPS = 256, 64, 48
IMAGES = 2000
LIMIT_S = 460
PRESETS = {"dcgan": "paper", "conditional": "modern"}
COMPILED: dict[str, dict[str, bool]] = {
    "ours, compiled": {"compile": True},
    "ours, CUDA graphs": {"compile": True, "cuda_graphs": True},
}
KEPT_TIME = 0.9
"""A training also starts, draws and writes a checkpoint."""
HELD_CYCLES = 20_000_000
"""The device waits so long before it reads a batch: a copy that the next one overwrites would be seen."""


def draws_equal(device: torch.device) -> dict[str, bool | float]:
    """Random numbers of the device beside those of the CPU."""
    drawn = [
        counter_rng.bits(7, counter_rng.positions_on(range(0, 2**20, 97), d), 64)
        for d in (torch.device("cpu"), device)
    ]
    on_cpu, on_gpu = drawn[0], drawn[1].cpu()
    normal = [counter_rng.to_normal(d).cpu() for d in drawn]
    return {
        "integers equal": torch.equal(on_cpu, on_gpu),
        "uniform equal": torch.equal(counter_rng.to_uniform(on_cpu), counter_rng.to_uniform(drawn[1]).cpu()),
        "normal, largest difference": float((normal[0] - normal[1]).abs().max()),
    }


def batches_equal(shards: Path, device: torch.device) -> dict[str, bool | float]:
    """Batches copied to the device, and taken from a cache there, beside those of the host."""
    found = ShardSet(shards)
    quotas = {name: {"real": 100} for name in found.classes}
    stream = Stream(found, None, quotas, StreamOptions(batch=BATCH, seed=1))
    equal: dict[str, bool | float] = {}
    for cache in ("off", "on"):
        kept = []
        with read_ahead(stream, 0, 60, LoaderConfig(device_cache=cache), device=device) as batches:
            for batch in batches:
                if device.type == "cuda":
                    torch.cuda._sleep(HELD_CYCLES)
                kept.append((batch.pixels.clone(), batch.labels.clone()))
                del batch
        equal[f"batches equal, device cache {cache}"] = all(
            torch.equal(pixels.cpu(), stream.read(step).pixels)
            and torch.equal(labels.cpu(), stream.read(step).labels)
            for step, (pixels, labels) in enumerate(kept)
        )
    return equal


def side_of(net: str, side: str, **options: bool) -> Side:
    return Side(
        side=side,
        preset=None if net == "dcgan" else f"configs/gan/{PRESETS[net]}.yaml",
        size=SIZE,
        batch=BATCH,
        maps=1024,
        kernel=5,
        steps=STEPS,
        precision="auto",
        **{"compile": False, **options},
    )


def make_set(shards: Path) -> None:
    """The same command goes on with an import that was interrupted, and changes nothing in a finished one."""
    words = ["--size", str(SIZE), "--images", str(IMAGES), "--encoding", "npy", "--out", str(shards)]
    run_python("-m", "cxrdist", "import", "phantom", *words)


def train(
    net: str, shards: Path, folder: Path, img_s: float, seconds: float
) -> tuple[float, list[np.ndarray]]:
    """Train a preset anew for about so long. Returns data_wait, and a line of the last grid of each
    class."""
    gan = folder / PRESETS[net]
    shutil.rmtree(gan, ignore_errors=True)
    images = max(BATCH, int(KEPT_TIME * seconds * img_s) // BATCH * BATCH)
    words = ["--config", str(CLONE / f"configs/gan/{PRESETS[net]}.yaml"), "--shards", str(shards)]
    words += ["--run", str(gan), "--budget", f"{images} images", "--look-every-images", str(images)]
    launch("train_gan.py", *words, *(["--classes", "Normal"] if net == "dcgan" else []), processes=1)
    (summary,) = gan.glob("*/summary.json")
    grids = [first_line(samples, SIZE) for samples in sorted(gan.glob("*/samples/*"))]
    return json.loads(summary.read_text())["data_wait"], grids


class Figures:
    """What was found so far, written after each part: the command may be ended from outside."""

    def __init__(self, json_file: Path | None) -> None:
        self.began_s, self.json_file = time.monotonic(), json_file
        self.rows: list[Row] = []
        self.ratios: dict[str, float] = {}
        self.checks: dict[str, bool | float] = {}
        self.failed: list[str] = []

    @property
    def left_s(self) -> float:
        return LIMIT_S - (time.monotonic() - self.began_s)

    def add_step(self, name: str, eager: Row, row: Row) -> None:
        self.rows.append({**row, "side": name})
        self.ratios[f"{row['net']} {name}: step vs eager"] = round(eager["ms"] / row["ms"], 3)
        self.ratios[f"{row['net']} {name}: of bf16 matmul"] = row["of_bf16_matmul"]
        self.write()

    def write(self) -> None:
        write_json(self.result(), self.json_file)

    def result(self) -> dict[str, Any]:
        return {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
            "versions": versions("cxrdist", "torch", "accelerate"),
            "load_1_min": [load()],
            "rows": self.rows,
            "ratios": self.ratios,
            "checks": self.checks,
            "failed": self.failed,
            "seconds": round(time.monotonic() - self.began_s),
        }


def main() -> None:
    options = parser(
        __doc__ or "",
        "python -m benchmarks.gan.gpu --json benchmarks/results/gan_gpu.json --picture docs/gan-256.png",
    )
    options.add_argument("--folder", type=Path, default=Path("runs/gan-gpu"), help="set and runs, kept")
    options.add_argument("--seconds", type=float, default=120, help="of training, of each preset")
    options.add_argument("--picture", type=Path, help="PNG of the last grids")
    chosen = options.parse_args()
    if not torch.cuda.is_available():
        sys.exit(
            "no GPU that torch can use: this is a check of one; `python -m benchmarks.gan.step` is for CPUs"
        )
    figures, device, folder = Figures(chosen.json), torch.device("cuda"), chosen.folder.resolve()
    make_set(folder / "set")
    figures.checks = draws_equal(device) | batches_equal(folder / "set", device)
    eager, lines = {}, []
    for net, preset in PRESETS.items():
        eager[net] = run(side_of(net, "eager"), sys.executable)
        figures.rows.append(eager[net])
        ours = run(side_of(net, "ours"), sys.executable)
        figures.add_step("ours", eager[net], ours)
        waited, grids = train(net, folder / "set", folder, ours["img_s"], chosen.seconds)
        figures.ratios[f"{preset}.yaml: data_wait"] = waited
        lines += grids
        figures.write()
    if chosen.picture:
        chosen.picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.vstack(lines)).save(chosen.picture)
    for net in PRESETS:
        for name, compiled in COMPILED.items():
            try:
                row = run(side_of(net, "ours", **compiled), sys.executable, timeout_s=max(1, figures.left_s))
                figures.add_step(name, eager[net], row)
            except subprocess.SubprocessError as error:  # the reason is on stderr
                figures.failed.append(f"{net}, {name}: {type(error).__name__}")
    report(figures.result(), COLUMNS, chosen.json)
    for name, value in figures.checks.items():
        report_progress(f"{name}: {value}")
    for failure in figures.failed:
        report_progress(f"did not run, or not in {LIMIT_S} s: {failure}")
    if not all(value for value in figures.checks.values() if isinstance(value, bool)):
        sys.exit("the GPU does not compute what the CPU does")


if __name__ == "__main__":
    main()
