"""Time of one training step of a DCGAN and of a conditional GAN, of this project and of a plain PyTorch loop; two
processes against one."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import (
    CLONE,
    Row,
    device,
    load,
    median_ratio,
    parser,
    python_path,
    report,
    report_progress,
    versions,
)
from benchmarks.gan.step_side import Side

COLUMNS = (
    *("side", "net", "processes", "threads", "precision", "size", "batch", "ms", "img_s", "gflop"),
    *("gflop_s", "of_bf16_matmul", "peak_mib"),
)
SMALL_PX, SMALL_BATCH, SMALL_STEPS = 64, 20, 40
CPU2 = ("accelerate", "launch", "--config_file", "configs/accelerate/cpu2.yaml")


def run(side: Side, *launcher: str, timeout_s: float | None = None) -> Row:
    """What one process, or those of one launch, measured. Raises subprocess.SubprocessError if it fails or takes
    longer."""
    report_progress(f"{side.side} {side.net} {' '.join(launcher[:1])} {side.size} px, batch {side.batch}")
    script = str(CLONE / "benchmarks/gan/step_side.py")
    ran = subprocess.run(
        [*launcher, script, json.dumps(asdict(side))],
        cwd=CLONE,
        env={
            **os.environ,
            "PYTHONPATH": python_path(),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout_s,
    )
    reported = json.loads(next(line for line in ran.stdout.splitlines() if line.startswith("{")))
    flops = reported["flops"] * reported["processes"]
    rate = flops / reported["seconds"]
    return {
        "side": side.side,
        "net": side.net,
        **{name: reported[name] for name in ("processes", "threads", "precision")},
        "size": side.size,
        "batch": side.batch,
        "ms": round(reported["seconds"] * 1e3, 2),
        "img_s": round(side.batch / reported["seconds"], 1),
        "gflop": round(flops / 1e9, 1),
        "gflop_s": round(rate / 1e9, 1),
        # Several processes have several cores, and one of them measured the product's rate.
        "of_bf16_matmul": round(rate / reported["bf16_matmul_flops_s"] / reported["processes"], 3),
        "peak_mib": reported["peak_mib"],
        "on": reported["device"],
    }


def in_turn(repeats: int, *sides: tuple[Side, tuple[str, ...]]) -> list[list[Row]]:
    """The runs of each side; one run of each follows the other."""
    rounds = [[run(side, *launcher) for side, launcher in sides] for _ in range(repeats)]
    return [list(runs) for runs in zip(*rounds, strict=True)]


def seconds(runs: list[Row]) -> list[float]:
    return [row["ms"] / 1e3 for row in runs]


def data_wait(chosen: argparse.Namespace) -> float:
    """Which part of its time the training of one class waits for data, on phantom images as PNG."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--out", f"{folder}/set", "--size", str(chosen.size), "--images", "5000"]
        made = [sys.executable, "-m", "cxrdist", "import", "phantom", *words]
        words = ["--shards", f"{folder}/set", "--run", f"{folder}/gan", "--classes", "[Normal]"]
        words += ["--maps", str(chosen.maps), "--kernel", str(chosen.kernel), "--batch", str(chosen.batch)]
        words += ["--budget", f"{chosen.data_wait_images} images", "--tracking.mode", "disabled"]
        trained = [sys.executable, "launch/train_gan.py", *words]
        for command in (made, trained):
            report_progress(" ".join(command[1:3]))
            env = {**os.environ, "PYTHONPATH": python_path()}
            subprocess.run(command, cwd=CLONE, env=env, check=True, stdout=sys.stderr)
        summary: dict[str, Any] = json.loads(Path(folder, "gan", "normal", "summary.json").read_text())
    return float(summary["data_wait"])


def options() -> argparse.ArgumentParser:
    on_gpu = torch.cuda.is_available()
    made = parser(__doc__ or "", "python -m benchmarks.gan.step --json benchmarks/results/gan_step.json")
    made.add_argument("--size", type=int, default=256, help="pixels")
    made.add_argument("--batch", type=int, default=64 if on_gpu else 8, help="of one process")
    made.add_argument(
        "--parallel-batch", type=int, default=64, help="global, of two processes and of one on CPU"
    )
    made.add_argument("--maps", type=int, default=1024, help="feature maps at 4x4")
    made.add_argument("--kernel", type=int, default=5, help="pixels")
    made.add_argument("--steps", type=int, default=50 if on_gpu else 4, help="timed, in each run")
    made.add_argument(
        "--conditional-sizes",
        type=int,
        nargs="*",
        default=[64, 256],
        help="pixels, of conditional GANs: the networks of demo.yaml up to 64, of modern.yaml above",
    )
    made.add_argument(
        "--conditional-steps",
        type=int,
        default=0,
        help="timed, in each run; 0: 40 up to 64 px, --steps above",
    )
    made.add_argument("--repeats", type=int, default=5, help="runs of each side, in turn")
    made.add_argument("--precision", default="auto", help="ours: auto, fp32 or bf16")
    made.add_argument("--compile", action="store_true", help="ours: torch.compile")
    made.add_argument(
        "--data-wait-images", type=int, default=12_800 if on_gpu else 0, help="to train on; 0: none"
    )
    return made


def conditional(chosen: argparse.Namespace, size: int) -> Side:
    """Our side with the networks, batch and losses of a preset; above 64 px the batch is that of the DCGAN. Steps are
    a multiple of those between two with R1, so that each run has its share of R1."""
    side = Side(
        side="ours",
        preset=f"configs/gan/{'demo' if size <= SMALL_PX else 'modern'}.yaml",
        size=size,
        batch=SMALL_BATCH if size <= SMALL_PX else chosen.batch,
        maps=0,
        kernel=0,
        steps=chosen.conditional_steps or (SMALL_STEPS if size <= SMALL_PX else chosen.steps),
        precision=chosen.precision,
        compile=chosen.compile,
    )
    return replace(side, steps=-(-side.steps // side.r1_every) * side.r1_every)


def main() -> None:
    chosen = options().parse_args()
    ours = Side(
        side="ours",
        preset=None,
        **{name: getattr(chosen, name) for name in ("size", "batch", "maps", "kernel", "steps")},
        precision=chosen.precision,
        compile=chosen.compile,
    )
    alone = (sys.executable,)
    loads = [load()]
    eager_runs, our_runs = in_turn(chosen.repeats, (replace(ours, side="eager"), alone), (ours, alone))
    ratios = {"step_vs_eager": median_ratio(seconds(eager_runs), seconds(our_runs))}
    rows = [*eager_runs, *our_runs]
    loads.append(load())
    for size in chosen.conditional_sizes:
        side = conditional(chosen, size)
        eager, own = in_turn(chosen.repeats, (replace(side, side="eager"), alone), (side, alone))
        ratios[f"step_vs_eager_conditional_{size}"] = median_ratio(seconds(eager), seconds(own))
        rows += [*eager, *own]
        loads.append(load())
    if not torch.cuda.is_available():
        spread = replace(ours, batch=chosen.parallel_batch, steps=2)
        first_core = str(min(os.sched_getaffinity(0)))
        pinned = ("taskset", "-c", first_core, *alone)
        one, two = in_turn(min(3, chosen.repeats), (spread, pinned), (spread, CPU2))
        ratios["two_vs_one"] = median_ratio(seconds(one), seconds(two))
        rows += [*one, *two]
        loads.append(load())
    if chosen.data_wait_images:
        ratios["data_wait"] = data_wait(chosen)
    result = {
        "device": device() if not torch.cuda.is_available() else our_runs[0]["on"],
        "versions": versions("cxrdist", "torch", "accelerate"),
        "load_1_min": loads,
        "rows": rows,
        "ratios": ratios,
    }
    report(result, COLUMNS, chosen.json)


if __name__ == "__main__":
    main()
