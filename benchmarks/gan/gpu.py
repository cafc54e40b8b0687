"""One check of a GPU, at most eight minutes: that it computes what the CPU does, how fast a training step is, and
what two minutes of the presets for 256 px draw.

Exits with 1 if the GPU draws other numbers, or delivers other images, than the CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import CLONE, Row, load, parser, report, report_progress, versions
from benchmarks.gan.jobs import launch, run_python
from benchmarks.gan.step import COLUMNS, run
from benchmarks.gan.step_side import Side
from cxrdist import counter_rng
from cxrdist.data.loading.config import LoaderConfig
from cxrdist.data.loading.prefetch import read_ahead
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.shards.shard_set import ShardSet

SIZE, BATCH, STEPS = 256, 64, 48
IMAGES = 2000
PRESETS = {"dcgan": "paper", "conditional": "modern"}
VARIANTS: dict[str, dict[str, bool]] = {
    "ours": {},
    "ours, compiled": {"compile": True},
    "ours, CUDA graphs": {"compile": True, "cuda_graphs": True},
}
KEPT_TIME = 0.9
"""A training also starts, draws and writes checkpoints."""


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
        config = LoaderConfig(device_cache=cache)
        with read_ahead(stream, 0, 60, config, device=device) as batches:
            equal[f"batches equal, device cache {cache}"] = all(
                torch.equal(batch.pixels.cpu(), stream.read(step).pixels)
                and torch.equal(batch.labels.cpu(), stream.read(step).labels)
                for step, batch in enumerate(batches)
            )
    return equal


def steps_of(net: str) -> tuple[list[Row], dict[str, float]]:
    """Rows and ratios of the training step of a network. A variant that fails has its error in its row."""
    preset = None if net == "dcgan" else f"configs/gan/{PRESETS[net]}.yaml"
    common: dict[str, Any] = {"preset": preset, "size": SIZE, "batch": BATCH, "maps": 1024, "kernel": 5}
    common |= {"steps": STEPS, "precision": "auto"}
    rows = [run(Side(side="eager", compile=False, **common), sys.executable)]
    ratios = {}
    for name, options in VARIANTS.items():
        try:
            row = run(Side(**{"side": "ours", "compile": False, **common, **options}), sys.executable)
        except subprocess.CalledProcessError:
            rows.append({"side": name, "net": net, "failed": True})
            continue
        rows.append({**row, "side": name})
        ratios[f"{net} {name}: step vs eager"] = round(rows[0]["ms"] / row["ms"], 3)
        ratios[f"{net} {name}: of bf16 matmul"] = row["of_bf16_matmul"]
    return rows, ratios


def train(
    net: str, shards: Path, folder: Path, img_s: float, seconds: float
) -> tuple[float, list[np.ndarray]]:
    """Train a preset for about so long. Returns data_wait, and the last grid of each class."""
    gan = folder / PRESETS[net]
    images = max(BATCH, int(KEPT_TIME * seconds * img_s) // BATCH * BATCH)
    words = [
        "--config",
        str(CLONE / f"configs/gan/{PRESETS[net]}.yaml"),
        "--shards",
        str(shards),
        "--run",
        str(gan),
    ]
    words += ["--budget", f"{images} images", *(["--classes", "Normal"] if net == "dcgan" else [])]
    launch("train_gan.py", *words, processes=1)
    (summary,) = gan.glob("*/summary.json")
    grids = []
    for samples in sorted(gan.glob("*/samples/*")):
        with Image.open(max(samples.glob("*.png"))) as grid:
            grids.append(np.asarray(grid)[:SIZE])  # its first line
    return json.loads(summary.read_text())["data_wait"], grids


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
    began, device = time.monotonic(), torch.device("cuda")
    checks = draws_equal(device)
    shards = chosen.folder.resolve() / "set"
    if not shards.exists():
        words = ["--size", str(SIZE), "--images", str(IMAGES), "--encoding", "npy", "--out", str(shards)]
        run_python("-m", "cxrdist", "import", "phantom", *words)
    checks |= batches_equal(shards, device)
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    lines = []
    for net, preset in PRESETS.items():
        of_net, found = steps_of(net)
        rows += of_net
        ratios |= found
        img_s = next(row["img_s"] for row in of_net if row["side"] == "ours")
        waited, grids = train(net, shards, chosen.folder.resolve(), img_s, chosen.seconds)
        ratios[f"{preset}.yaml: data_wait"] = waited
        lines += grids
    if chosen.picture:
        chosen.picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.vstack(lines)).save(chosen.picture)
    result = {
        "device": torch.cuda.get_device_name(device),
        "versions": versions("cxrdist", "torch", "accelerate"),
        "load_1_min": [load()],
        "rows": rows,
        "ratios": ratios,
        "checks": checks,
        "seconds": round(time.monotonic() - began),
    }
    report(result, COLUMNS, chosen.json)
    for name, value in checks.items():
        report_progress(f"{name}: {value}")
    if not all(value for value in checks.values() if isinstance(value, bool)):
        sys.exit("the GPU does not compute what the CPU does")


if __name__ == "__main__":
    main()
