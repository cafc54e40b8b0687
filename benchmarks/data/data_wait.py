"""Which part of its time the classifier's training waits for data, on the device that is there: CPU or GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import CLONE, Row, device, load, parser, report, report_progress, versions

ENCODINGS = ("npy", "png", "jpg")
COLUMNS = ("encoding", "size", "device", "batch", "images", "img_s", "data_wait")


def cxrdist(*words: str) -> None:
    report_progress(f"cxrdist {' '.join(words)}")
    subprocess.run([sys.executable, "-m", "cxrdist", *words], cwd=CLONE, check=True, stdout=sys.stderr)


def made(folder: Path, size: int, images: int) -> dict[str, Path]:
    """The same phantom images in each encoding; made where they are not there."""
    sets = {encoding: folder / f"{size}-{images}-{encoding}" for encoding in ENCODINGS}
    words = ["--size", str(size), "--images", str(images), "--encoding", "npy"]
    cxrdist("import", "phantom", "--out", str(sets["npy"]), *words)
    for encoding in ("png", "jpg"):
        cxrdist("shards", "convert", str(sets["npy"]), "--out", str(sets[encoding]), "--encoding", encoding)
    return sets


def trained(shards: Path, batch: int, images: int) -> dict[str, Any]:
    """The summary of a classifier trained on a set, in a process of its own."""
    with tempfile.TemporaryDirectory() as run:
        words = ["--mix", "DS1", "--shards", str(shards), "--run", f"{run}/cls", "--batch", str(batch)]
        words += ["--budget", f"{images} images", "--evaluations", "1", "--tracking.mode", "disabled"]
        subprocess.run(
            [sys.executable, "launch/train_cls.py", *words],
            cwd=CLONE,
            env={**os.environ, "PYTHONPATH": str(CLONE)},
            check=True,
            stdout=sys.stderr,
        )
        reported: dict[str, Any] = json.loads(Path(run, "cls", "summary.json").read_text())
    return reported


def main() -> None:
    options = parser(
        __doc__ or "", "python -m benchmarks.data.data_wait --json benchmarks/results/data_wait.json"
    )
    options.add_argument("--size", type=int, default=64, help="pixels; on a GPU take 256")
    options.add_argument("--set-images", type=int, default=1_000, help="images of the phantom set")
    options.add_argument("--images", type=int, default=12_800, help="images to train on")
    options.add_argument("--batch", type=int, default=64, help="global batch size")
    options.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "cxrdist-data-wait",
        help="where the sets are kept from run to run",
    )
    chosen = options.parse_args()
    rows: list[Row] = []
    loads = [load()]
    for encoding, shards in made(chosen.folder.resolve(), chosen.size, chosen.set_images).items():
        reported = trained(shards, chosen.batch, chosen.images)
        row: Row = {
            "encoding": encoding,
            "size": chosen.size,
            "device": reported["device"],
            "batch": chosen.batch,
        }
        row |= {
            "images": reported["images_seen"],
            "img_s": round(reported["images_seen"] / reported["seconds"]),
        }
        rows.append(row | {"data_wait": reported["data_wait"]})
        loads.append(load())
    result = {
        "device": device(),
        "versions": versions("cxrdist", "torch", "numpy", "pillow", "simplejpeg"),
        "load_1_min": loads,
        "rows": rows,
        "ratios": {f"data_wait, {row['encoding']}": row["data_wait"] for row in rows},
    }
    report(result, COLUMNS, chosen.json)


if __name__ == "__main__":
    main()
