"""What an interim checkpoint costs a training beside which it is written: the same training with many and with none,
in turn. A share of the time is that of --checkpoint-minutes 10, the default."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from statistics import median

from benchmarks.common import (
    CLONE,
    Row,
    device,
    load,
    parser,
    python_path,
    report,
    report_progress,
    versions,
)

NEVER_MINUTES, DEFAULT_S = 1000.0, 600.0
COLUMNS = (
    "config",
    "processes",
    "images",
    "seconds",
    "seconds_none",
    "checkpoints",
    "s_each",
    "share_of_10_min",
)


def trained(folder: Path, chosen: dict[str, object], processes: int, minutes: float) -> tuple[float, int]:
    """Seconds of a training, and the interim checkpoints that it wrote."""
    run = folder / f"{processes}-{minutes}-{len([*folder.iterdir()])}"
    words = ["--config", str(chosen["config"]), "--shards", str(chosen["shards"]), "--run", str(run)]
    words += ["--budget", f"{chosen['images']} images", "--look-every-images", str(chosen["images"])]
    words += ["--checkpoint-minutes", str(minutes), "--tracking.mode", "disabled"]
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu2.yaml"]
    command += ["launch/train_gan.py", *words]
    report_progress(" ".join(command[1:]))
    environment = {**os.environ, "PYTHONPATH": python_path()}
    seen: set[str] = set()
    with subprocess.Popen(command, cwd=CLONE, env=environment, stdout=subprocess.DEVNULL) as training:
        ended = threading.Event()
        while training.poll() is None:
            seen |= {path.name for path in run.glob("*/checkpoints/interim-*")}
            ended.wait(0.2)
    if training.returncode:
        raise SystemExit(training.returncode)
    return json.loads((run / "summary.json").read_text())["seconds"], len(seen)


def main() -> None:
    options = parser(
        __doc__ or "", "python -m benchmarks.checkpoint --json benchmarks/results/checkpoint.json"
    )
    options.add_argument("--config", default="configs/gan/demo.yaml", help="preset of the GAN")
    options.add_argument("--shards", default="shards/phantom", help="set to train on")
    options.add_argument("--images", type=int, default=6_000, help="images of a training")
    options.add_argument("--every-s", type=float, default=0.5, help="seconds between two checkpoints")
    options.add_argument("--rounds", type=int, default=3, help="trainings of each kind")
    options.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="of the trainings")
    chosen = options.parse_args()
    rows: list[Row] = []
    loads = [load()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for processes in chosen.processes:
            pairs = []
            for _ in range(chosen.rounds):
                none, _ = trained(folder, vars(chosen), processes, NEVER_MINUTES)
                many, checkpoints = trained(folder, vars(chosen), processes, chosen.every_s / 60)
                pairs.append((many, none, checkpoints))
                loads.append(load())
            each = [(many - none) / checkpoints for many, none, checkpoints in pairs]
            rows.append(
                {
                    "config": chosen.config,
                    "processes": processes,
                    "images": chosen.images,
                    "seconds": [many for many, _, _ in pairs],
                    "seconds_none": [none for _, none, _ in pairs],
                    "checkpoints": [count for _, _, count in pairs],
                    "s_each": round(median(each), 3),
                    "share_of_10_min": round(median(each) / DEFAULT_S, 5),
                }
            )
    result = {
        "device": device(),
        "versions": versions("torch", "accelerate", "safetensors"),
        "load": loads,
        "rows": rows,
        "ratios": {f"{row['processes']} processes": row["share_of_10_min"] for row in rows},
    }
    report(result, COLUMNS, chosen.json)


if __name__ == "__main__":
    main()
