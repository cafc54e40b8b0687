"""Images per second of our stream, webdataset, litdata and mosaicml-streaming, and of what no loader can beat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

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
from benchmarks.data.loader_sets import Images, made
from benchmarks.data.loader_side import Side
from benchmarks.peers import peers_python, pins
from cxrdist.process import available_cores

SYSTEMS = "benchmarks.data.loader_systems"
IMAGES = Images(images=20_000, size=256, encodings=("npy", "png", "jpg"))
# Small ones: what the first batch costs depends on how many there are.
MANY_IMAGES = Images(images=100_000, size=64, encodings=("npy",))
WORKERS = (0, 1, 2)
OUR_DECODERS = {"png": "pillow", "jpg": "simplejpeg"}
PEERS = ("litdata", "mosaicml-streaming")
PINNED = ("webdataset", *PEERS, "opencv-python-headless", "simplejpeg", "pillow", "numpy", "torch")
COLUMNS = ("case", "system", "variant", "encoding", "mean_bytes", "workers", "img_s", "first_batch_s", "runs")

Reported = dict[str, Any]


@dataclass
class Bench:
    """Runs, and what each of them said, in the order in which they were made."""

    folder: Path
    images: Images
    reported: dict[str, Reported]
    """By encoding; see ``loader_sets.made``."""
    runs: dict[Side, list[Reported]] = field(default_factory=dict)

    def side(self, system: str, variant: str, encoding: str, workers: int, measure: str = "speed") -> Side:
        return Side(
            system=system,
            variant=variant,
            folder=str(self.folder),
            encoding=encoding,
            images=self.images.images,
            size=self.images.size,
            workers=workers,
            measure=measure,
        )

    def run(self, side: Side) -> Reported:
        """In a process of its own."""
        python = sys.executable if side.system == "cxrdist" else str(peers_python())
        # webdataset asks for warnings, and the peers' own would drown the progress.
        done = subprocess.run(
            [python, "-W", "ignore", "-m", SYSTEMS, json.dumps(asdict(side))],
            env={**os.environ, "PYTHONPATH": str(CLONE), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{done.stderr}\nerror: {side} failed")
        reported: Reported = json.loads(done.stdout.splitlines()[-1])
        self.runs.setdefault(side, []).append(reported)
        figures = ", ".join(f"{name} {value:,.2f}" for name, value in reported.items() if name != "xxh3_sum")
        report_progress(
            f"{self.images.name} {side.encoding}: {side.system} {side.variant} x{side.workers}: {figures}"
        )
        return reported

    def check(self, side: Side) -> None:
        """One epoch, unhurried: every image once, every pixel right; else the benchmark ends."""
        side = replace(side, measure="epoch", workers=0 if side.system == "decode" else side.workers)
        if side in self.runs:
            return
        expected = {name: self.reported[side.encoding][name] for name in ("images", "xxh3_sum")}
        if (delivered := self.run(side)) != expected:
            sys.exit(f"error: {side} delivered {delivered}, not {expected}: its figures would mean nothing")

    def rate(self, side: Side) -> float:
        return median(reported["img_s"] for reported in self.runs[side])

    def fastest(self, sides: Iterable[Side]) -> Side:
        return max(sides, key=self.rate)

    def rows(self) -> list[Row]:
        rows = []
        for side, runs in self.runs.items():
            if side.is_one_epoch:
                continue
            row: Row = {"case": self.images.name, "system": side.system, "variant": side.variant or None}
            row |= {"encoding": side.encoding, "mean_bytes": self.reported[side.encoding]["mean_bytes"]}
            row |= {"workers": side.workers, "runs": len(runs)}
            if "img_s" in runs[0]:
                row |= {"img_s": round(self.rate(side)), "all_img_s": [round(run["img_s"]) for run in runs]}
            # What memcpy does first is to read all images.
            if "first_batch_s" in runs[0] and side.system != "memcpy":
                row["first_batch_s"] = round(median(run["first_batch_s"] for run in runs), 3)
            rows.append(row)
        return rows


@dataclass(frozen=True)
class Ratio:
    """``over`` / ``under``, both of which are run once in each repeat, one soon after the other."""

    name: str
    over: Side
    under: Side


def swept(bench: Bench, encoding: str) -> dict[str, list[Side]]:
    """Each system's ways and numbers of workers, each run once; the fastest number for each way is checked."""
    ways: dict[str, list[tuple[str, Iterable[int]]]] = {
        "cxrdist": [("", WORKERS)],
        "webdataset": [("tuned", WORKERS), ("labelled", WORKERS)],
    }
    if encoding == "npy":
        ways["litdata"] = [("arrays", WORKERS), ("labelled", WORKERS), ("tokens", WORKERS)]
        ways["mosaicml-streaming"] = [("arrays", WORKERS), ("labelled", WORKERS)]
        ways["memcpy"] = [("ring", (0,)), ("reused", (0,))]
    else:
        others = ("pillow", "opencv") if encoding == "png" else ("pillow", "opencv", "simplejpeg")
        ways["decode"] = [(decoder, (1,)) for decoder in others]
    sides = {
        system: [bench.side(system, variant, encoding, n) for variant, workers in said for n in workers]
        for system, said in ways.items()
    }
    for of_system in sides.values():
        for side in of_system:
            bench.run(side)
        for variant in {side.variant for side in of_system}:
            bench.check(bench.fastest(side for side in of_system if side.variant == variant))
    return sides


def ratios_of(bench: Bench, encoding: str, sides: dict[str, list[Side]]) -> list[list[Ratio]]:
    """In groups: the runs of a group come one after the other."""
    our = bench.fastest(sides["cxrdist"])
    tuned = bench.fastest(sides["webdataset"])
    webdataset = bench.fastest(side for side in sides["webdataset"] if side.variant == "labelled")
    if encoding == "npy":
        peers = [side for peer in PEERS for side in sides[peer]]
        memcpy = {side.variant: side for side in sides["memcpy"]}
        arrays = [side for side in peers if side.variant == "arrays"]
        return [
            [
                Ratio("npy_vs_memcpy", our, memcpy["ring"]),
                Ratio("npy_vs_memcpy, always into the same batch", our, memcpy["reused"]),
                Ratio("npy_vs_memcpy, no workers", sides["cxrdist"][0], memcpy["ring"]),
            ],
            [
                Ratio("npy_vs_webdataset", our, webdataset),
                Ratio("npy_vs_webdataset, tuned", our, tuned),
                Ratio("npy_vs_best_peer", our, bench.fastest(arrays)),
                Ratio("npy_vs_best_peer, tuned", our, bench.fastest(peers)),
            ],
        ]
    decoder = next(side for side in sides["decode"] if side.variant == OUR_DECODERS[encoding])
    most = min(available_cores(), max(WORKERS))
    by_workers = []
    for side in sides["cxrdist"]:
        if 0 < side.workers <= most:
            name = f"{encoding}_vs_bare_decode" + (
                "" if side.workers == most else f", workers {side.workers}"
            )
            by_workers.append([Ratio(name, side, replace(decoder, workers=side.workers))])
    vs_webdataset = [
        Ratio(f"{encoding}_vs_webdataset", our, webdataset),
        Ratio(f"{encoding}_vs_webdataset, tuned", our, tuned),
    ]
    return [*by_workers, vs_webdataset]


def paired(bench: Bench, groups: list[list[Ratio]], repeats: int) -> dict[str, float]:
    """The ratios, each the median over the repeats; what takes part is checked."""
    found: dict[str, float] = {}
    for group in groups:
        sides = list(dict.fromkeys(side for ratio in group for side in (ratio.under, ratio.over)))
        reported: dict[Side, list[float]] = {side: [] for side in sides}
        for side in sides:
            bench.check(side)
        for _ in range(repeats):
            for side in sides:
                reported[side].append(bench.run(side)["img_s"])
        found |= {ratio.name: median_ratio(reported[ratio.over], reported[ratio.under]) for ratio in group}
    return found


def first_batches(bench: Bench, repeats: int) -> None:
    """From a large set, with and without workers."""
    ways = {"cxrdist": "", "webdataset": "tuned", "litdata": "tokens", "mosaicml-streaming": "labelled"}
    for _ in range(repeats):
        for system, variant in ways.items():
            for workers in (0, 2):
                bench.run(bench.side(system, variant, "npy", workers, "first_batch"))


def main() -> None:
    options = parser(__doc__ or "", "python -m benchmarks.data.loader --json benchmarks/results/loader.json")
    options.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "cxrdist-loader",
        help="where the images are kept from run to run, 10 GB",
    )
    options.add_argument("--repeats", type=int, default=3, help="runs of each side of a ratio")
    chosen = options.parse_args()
    folder = chosen.folder.resolve()
    peers_python()
    benches = [
        Bench(place, images, made(place, images))
        for images in (IMAGES, MANY_IMAGES)
        for place in [folder / f"{images.images}x{images.size}"]
    ]
    bench, many = benches
    loads = [load()]
    ratios: dict[str, float] = {}
    for encoding in IMAGES.encodings:
        groups = ratios_of(bench, encoding, swept(bench, encoding))
        ratios |= paired(bench, groups, chosen.repeats)
        loads.append(load())
    first_batches(many, chosen.repeats)
    loads.append(load())
    result = {
        "device": device(),
        "versions": versions("cxrdist", "torch", "numpy")
        | {f"peers' {name}": v for name, v in pins(PINNED).items()},
        "load_1_min": loads,
        "rows": bench.rows() + many.rows(),
        "ratios": ratios,
    }
    report(result, COLUMNS, chosen.json)


if __name__ == "__main__":
    main()
