"""The paper's preset trained whole on computed radiographs: five DCGANs, 2,000 images each, 20 epochs, 256 px.

For a GPU; not run on one yet. It shows that the preset trains to its end, how long it takes, and what it draws.
Phantoms are of nobody.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import CLONE, Row, device, load, parser, python_path, report, report_progress, versions
from benchmarks.gan.jobs import first_line

# In the paper's proportions the rarest class is 7.1 % of the images: 2,000 of it in train.
IMAGES = 29_500
COLUMNS = ("class", "images", "s", "img_s", "data_wait", "loss_d", "loss_g", "device", "precision")


def run(*words: str) -> None:
    report_progress(" ".join(words))
    environment = {**os.environ, "PYTHONPATH": python_path()}
    subprocess.run([sys.executable, *words], cwd=CLONE, env=environment, check=True, stdout=sys.stderr)


def main() -> None:
    options = parser(__doc__ or "", "python -m benchmarks.gan.paper --json benchmarks/results/gan_paper.json")
    options.add_argument(
        "--folder", type=Path, default=Path("runs/gan-paper-phantom"), help="set and run, kept"
    )
    options.add_argument("--images", type=int, default=IMAGES, help="phantom images, all classes together")
    options.add_argument("--size", type=int, default=256, help="pixels")
    options.add_argument("--budget", default="20 epochs", help="as train_gan.py takes it")
    options.add_argument("--maps", type=int, default=1024, help="feature maps at 4x4")
    options.add_argument("--picture", type=Path, help="PNG of the last grids, a row per class")
    chosen = options.parse_args()
    shards, gan = str(chosen.folder.resolve() / "set"), chosen.folder.resolve() / "gan"
    words = ["--size", str(chosen.size), "--images", str(chosen.images), "--encoding", "npy"]
    run("-m", "cxrdist", "import", "phantom", "--out", shards, *words, "--val", "0.02", "--test", "0.02")
    loads = [load()]
    words = ["--config", "configs/gan/paper.yaml", "--shards", shards, "--run", str(gan)]
    words += ["--budget", chosen.budget, "--maps", str(chosen.maps), "--tracking.mode", "disabled"]
    run("launch/train_gan.py", *words)
    loads.append(load())
    summary = json.loads((gan / "summary.json").read_text())
    rows: list[Row] = []
    grids = []
    for name, model in summary["models"].items():
        row: Row = {"class": name, "images": model["images_seen"], "s": model["seconds"]}
        row |= {"img_s": round(model["images_seen"] / model["seconds"], 1), "data_wait": model["data_wait"]}
        row |= {key: model["metrics"][key] for key in ("loss_d", "loss_g")}
        rows.append(row | {"device": model["device"], "precision": model["precision"]})
        (samples,) = gan.glob(f"*/samples/{name.lower().replace(' ', '-')}")
        grids.append(first_line(samples, chosen.size))
    if chosen.picture:
        chosen.picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.vstack(grids)).save(chosen.picture)
    result = {
        "device": device(),
        "versions": versions("cxrdist", "torch"),
        "load_1_min": loads,
        "rows": rows,
        "ratios": {"seconds, all classes": summary["seconds"]},
    }
    report(result, COLUMNS, chosen.json)


if __name__ == "__main__":
    main()
