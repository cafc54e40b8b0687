"""Speed of an import against webdataset's ShardWriter fed by a process pool, and its memory over 100,000 images."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from benchmarks.common import (
    CLONE,
    Row,
    device,
    load,
    median_ratio,
    parser,
    report,
    report_progress,
    versions,
)
from cxrdist.data.shards.schema import NORMAL
from cxrdist.phantom import render
from cxrdist.process import available_cores

SIDES = "benchmarks.data.import_sides"
DISTINCT = 24
CLASSES = (NORMAL, "Pneumothorax")
CHUNKS = (1, 8, 64)
MEMORY_IMAGES = (10_000, 30_000, 100_000)
COLUMNS = ("case", "system", "images", "img_s", "seconds", "cpu_s", "start_s", "parent_MiB", "worker_MiB")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A source of PNG or JPEG files, and what becomes of them."""

    source_px: int
    suffix: str
    size: int
    encoding: str
    images: int

    @property
    def name(self) -> str:
        return f"{self.source_px} px {self.suffix} -> {self.size} {self.encoding}"


def make_source(folder: Path, case: Case) -> Path:
    """``DISTINCT`` phantom films under many names (hard links), in two classes: as many files to open and decode as
    in a real source, and all in the page cache."""
    films = folder / f"films-{case.source_px}-{case.suffix}"
    if not films.is_dir():
        films.mkdir()
        for i in range(DISTINCT):
            study = render(seed=0, patient=i, study=0, label=NORMAL, size=case.source_px)
            Image.fromarray(study.pixels).save(films / f"{i}.{case.suffix}", quality=95)
    root = folder / f"{films.name}-{case.images}"
    if not root.is_dir():
        for name in CLASSES:
            (root / name).mkdir(parents=True)
        for i in range(case.images):
            name = CLASSES[i % 2]
            os.link(films / f"{i % DISTINCT}.{case.suffix}", root / name / f"{i:06d}.{case.suffix}")
        Path(f"{root}.salt").write_text("no secret: these are phantoms\n")
    return root


def run(side: str, folder: Path, **options: Any) -> dict[str, Any]:
    """One side, once, in a process of its own; what it wrote is removed."""
    out = folder / "out"
    done = subprocess.run(
        [sys.executable, "-m", SIDES, side, json.dumps({**options, "out": str(out)})],
        env={**os.environ, "PYTHONPATH": str(CLONE), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    shutil.rmtree(out)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def compare(folder: Path, case: Case, workers: int, repeats: int) -> tuple[list[Row], dict[str, float]]:
    """Rows of both sides, and the peer's time over ours: above 1, ours is the faster one."""
    options = {"size": case.size, "encoding": case.encoding, "workers": workers}
    few = {**options, "root": str(make_source(folder, replace(case, images=case.images // 4)))}
    tried = {chunk: run("peer", folder, **few, per_shard=100, chunk=chunk)["seconds"] for chunk in CHUNKS}
    chunk = min(tried, key=lambda c: tried[c])
    options["root"] = str(make_source(folder, case))
    pairs = []
    for i in range(repeats):
        # A shard of each class and split for each worker, so that none waits long for the last one to end.
        our = run("ours", folder, **options, min_shards=workers)
        per_shard = -(-case.images // our["shards"])
        pair = (our, run("peer", folder, **options, per_shard=per_shard, chunk=chunk))
        assert pair[0]["image_bytes"] == pair[1]["image_bytes"], "the two sides did not write the same images"
        pairs.append(pair)
        reported = (f"{side} {run['seconds']:.2f} s" for side, run in zip(("ours", "peer"), pair))
        report_progress(f"{case.name}: {i + 1}/{repeats}  {', '.join(reported)}")
    rows: list[Row] = []
    for system, runs in zip(("cxrdist", "webdataset"), zip(*pairs)):
        seconds = [round(run["seconds"], 3) for run in runs]
        row = {"case": case.name, "system": system, "images": case.images, "workers": workers}
        row |= {"img_s": round(case.images / median(seconds)), "seconds": median(seconds)}
        row |= {name: round(median(run[name] for run in runs), 3) for name in ("cpu_s", "start_s")}
        rows.append(row | {"all_seconds": seconds})
    rows[1]["chunksize"] = chunk
    total = [[run["seconds"] for run in runs] for runs in zip(*pairs)]
    started = [[run["seconds"] - run["start_s"] for run in runs] for runs in zip(*pairs)]
    cpu = [[run["cpu_s"] for run in runs] for runs in zip(*pairs)]
    return rows, {
        f"speed, {case.name}": median_ratio(total[1], total[0]),
        f"speed, {case.name}, once started": median_ratio(started[1], started[0]),
        f"cpu time, {case.name}": median_ratio(cpu[1], cpu[0]),
    }


def memory(folder: Path, workers: int) -> tuple[list[Row], dict[str, float]]:
    """Rows of ours over few and many images, and how much more memory the many take."""
    rows: list[Row] = []
    for images in MEMORY_IMAGES:
        case = Case(source_px=64, suffix="png", size=64, encoding="npy", images=images)
        root = str(make_source(folder, case))
        report_progress(f"memory: {images:,} images")
        options = {"size": 64, "encoding": "npy", "workers": workers, "min_shards": 1}
        done = run("ours", folder, root=root, watches_memory=True, **options)
        row = {"case": case.name, "system": "cxrdist", "images": images, "workers": workers}
        row |= {"img_s": round(images / done["seconds"]), "seconds": round(done["seconds"], 3)}
        row |= {f"{who}_MiB": round(done[f"{who}_peak_bytes"] / 2**20, 1) for who in ("parent", "worker")}
        rows.append(row)
    few, some, many = rows
    growth = (many["parent_MiB"] - few["parent_MiB"]) * 2**20 / (many["images"] - few["images"])
    return rows, {
        "rss_100k_vs_10k, worker": round(many["worker_MiB"] / few["worker_MiB"], 3),
        # Over 10,000 images each worker has one large shard to write: before the second, it keeps less.
        "rss_100k_vs_30k, worker": round(many["worker_MiB"] / some["worker_MiB"], 3),
        "rss_100k_vs_10k, parent": round(many["parent_MiB"] / few["parent_MiB"], 3),
        "parent bytes per image": round(growth),
    }


def main() -> None:
    options = parser(__doc__ or "", "python -m benchmarks.data.import --json benchmarks/results/import.json")
    options.add_argument("--images", type=int, default=3_000, help="radiographs of 1024 px per run")
    options.add_argument("--repeats", type=int, default=3, help="pairs of runs per case")
    options.add_argument(
        "--workers", type=int, default=available_cores(), help="processes that decode, on both sides"
    )
    chosen = options.parse_args()
    large = [
        Case(source_px=1024, suffix=suffix, size=256, encoding=encoding, images=chosen.images)
        for suffix, encoding in (("png", "npy"), ("png", "png"), ("jpg", "jpg"))
    ]
    small = Case(source_px=64, suffix="png", size=64, encoding="png", images=20_000)
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    loads = [load()]
    with tempfile.TemporaryDirectory(prefix="cxrdist-import-") as folder:
        report_progress(f"making {DISTINCT} films")
        for case in (*large, small):
            more_rows, more_ratios = compare(Path(folder), case, chosen.workers, chosen.repeats)
            rows, ratios = rows + more_rows, ratios | more_ratios
            loads.append(load())
        more_rows, more_ratios = memory(Path(folder), chosen.workers)
    result = {
        "device": device(),
        "versions": versions("cxrdist", "webdataset", "pillow", "numpy"),
        "load_1_min": loads,
        "rows": rows + more_rows,
        "ratios": ratios | more_ratios,
    }
    report(result, COLUMNS, chosen.json)


if __name__ == "__main__":
    main()
