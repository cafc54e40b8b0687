"""Speed of a synthesis against generator and encoder in one plain loop, the cost of each gate, and memory.

Untrained networks of a preset's size draw and judge images: speed does not depend on what they learned. The job and
the loop run in turn, in one process, on the same cores. On a GPU the peer is the generator alone, since the job
encodes while the next images are drawn.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Row, device, load, median_ratio, parser, report, report_progress, versions
from cxrdist.cls.config import ClsConfig
from cxrdist.cls.training.networks import config_for
from cxrdist.config.parser import parse
from cxrdist.config.presets import preset_of
from cxrdist.config.yaml_files import find, load_yaml
from cxrdist.data.imaging.codecs import encode
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.ingest.ingest import ingest
from cxrdist.data.ingest.options import IngestOptions
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage.store import LocalStore
from cxrdist.distributed.dist import Dist
from cxrdist.models import (
    TrainedClassifier,
    export_classifier,
    export_generator,
    load_classifier,
    load_generator,
)
from cxrdist.nets import conditional
from cxrdist.nets.classifiers import build_network
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.gates.config import GatesConfig, read_gates
from cxrdist.synth.gates.fit import fit
from cxrdist.synth.gates.judge import Judge, see
from cxrdist.synth.generators.sources import BLOCK, GanSource
from cxrdist.synth.plan import ClassProgress
from cxrdist.synth.rounds import ClassShards, Job, write_rounds

COLUMNS = ("case", "images", "seconds", "img_s", "ms_per_image", "peak_MiB")
PAPER_IMAGES = 5 * 20_912
"""The synthetic images of the paper's DS3: five classes filled to that number, as if none were real."""
NAME = "Normal"


def networks(folder: Path, real: ShardSet, size: int) -> tuple[GanSource, TrainedClassifier]:
    """An untrained generator and classifier of the presets for this size, exported and loaded."""
    preset = load_yaml(find(preset_of("gan", size)))
    wanted = ("z_dim", "embed_dim", "widths", "d_widths", "norm")
    options = {name: preset[name] for name in wanted if name in preset}
    stages = size.bit_length() - 3  # a width for each side from 4 px to half the image's
    options = {
        name: tuple(value[:stages]) if isinstance(value, list) else value for name, value in options.items()
    }
    cfg = conditional.ConditionalConfig(size=size, classes=len(real.classes), **options)
    generator = conditional.ConditionalGenerator(cfg)
    conditional.init_weights(generator, 0)
    lineage = made_from(real)
    export_generator(
        folder / "gan", generator, preset="benchmark", classes=real.classes, lineage=lineage, metrics={}
    )
    preset_file = str(find(preset_of("cls", size)))
    training = parse(ClsConfig, ["--config", preset_file], prog="train_cls.py", example="")
    shape = config_for(training, real)
    export_classifier(
        folder / "cls",
        build_network(shape),
        config=shape,
        classes=real.classes,
        lineage=lineage | {"synthetic_digest": None, "other_lineage_allowed": False, "fit": "pad"},
        metrics={},
    )
    return GanSource(load_generator(folder / "gan")), load_classifier(folder / "cls")


def written(folder: Path, real: ShardSet, source: GanSource, judge: Judge, images: int, dist: Dist) -> float:
    """Seconds in which the job writes ``images`` images that all are admitted."""
    config = SynthConfig(gates="none", run=str(folder / "run"))
    store = LocalStore(folder / "set")
    job = Job(config, store, real, {NAME: [source]}, judge, dist)
    began_s = time.perf_counter()
    write_rounds(job, {NAME: ClassShards(images, ClassProgress(0, {}))})
    return time.perf_counter() - began_s


def plain_loop(source: GanSource, images: int, *, encodes: bool) -> float:
    """Seconds of drawing, and of encoding if asked, without anything else."""
    began_s = time.perf_counter()
    for block in range(images // BLOCK):
        for image in source.block(NAME, 0, block):
            if encodes:
                encode(image, "png")
    return time.perf_counter() - began_s


def per_image_ms(function: Callable[[], object], synchronize: Callable[[], None]) -> float:
    """Of a function of one block."""
    function()
    synchronize()
    began_s, rounds = time.perf_counter(), 20
    for _ in range(rounds):
        function()
    synchronize()
    return (time.perf_counter() - began_s) / rounds / BLOCK * 1e3


def gate_costs(judge: Judge, images: np.ndarray) -> dict[str, float]:
    """Milliseconds per image of each feature space and of each gate, which uses what they see."""

    def wait() -> None:
        if judge.device.type == "cuda":
            torch.cuda.synchronize()

    pixels = torch.from_numpy(images[:BLOCK, None]).to(judge.device)
    costs = {}
    with torch.no_grad():
        for space in judge.spaces:
            costs[f"space {space.name}"] = per_image_ms(lambda s=space: s.embed(pixels), wait)  # type: ignore[misc]
        seen = see({space: space.embed(pixels).float() for space in judge.spaces})
        for gate, _ in judge.gates:
            costs[f"gate {gate.name}"] = per_image_ms(lambda g=gate: g.scores(NAME, seen), wait)  # type: ignore[misc]
    return costs


def timed(case: str, images: int, seconds: float) -> Row:
    return {"case": case, "images": images, "seconds": seconds, "img_s": images / seconds}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    options = parser(
        __doc__ or "", "python -m benchmarks.synthesize --json benchmarks/results/synthesize.json"
    )
    options.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    options.add_argument("--images", type=int, default=4_096, help="images of a run")
    options.add_argument("--rounds", type=int, default=3, help="runs of the job and of the loop")
    options.add_argument("--threads", type=int, default=None, help="threads on CPU")
    options.add_argument(
        "--memory", type=int, nargs=2, default=[10_000, 100_000], help="images to compare memory at"
    )
    options.add_argument("--paper", action="store_true", help=f"then {PAPER_IMAGES:,} images, timed once")
    chosen = options.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, Dist("fp32", threads=chosen.threads) as dist:
        folder = Path(name)
        ingest(
            Phantom(images=400), IngestOptions(out=str(folder / "real"), size=chosen.size, val=0.3, test=0.1)
        )
        real = ShardSet(folder / "real")
        source, classifier = networks(folder, real, chosen.size)
        source.to(dist.device)
        off = Judge(GatesConfig(), device=dist.device)
        encodes = dist.device.type == "cpu"
        ours, peer = [], []
        written(folder / "warm", real, source, off, 8 * BLOCK, dist)
        for turn in range(chosen.rounds):
            report_progress(f"round {turn + 1} of {chosen.rounds}")
            ours.append(written(folder / f"off{turn}", real, source, off, chosen.images, dist))
            peer.append(plain_loop(source, chosen.images, encodes=encodes))
        for case, runs in (("job, gates off", ours), ("plain loop", peer)):
            rows.append(timed(case, chosen.images, min(runs)))
        judge = fit(read_gates("default"), real, real.classes, [classifier], dist)
        costs = gate_costs(judge, source.block(NAME, 0, 0))
        rows += [{"case": case, "ms_per_image": cost} for case, cost in costs.items()]
        ratios = {
            "speed, gates off, over the plain loop": median_ratio(peer, ours),
            "copy search over a pass of the classifier": costs["gate copy"] / costs["space classifier"],
        }
        small, large = chosen.memory
        peaks = []
        for images in (small, large):
            report_progress(f"memory: {images:,} images")
            seconds = written(folder / f"memory{images}", real, source, off, images, dist)
            peaks.append(peak_mib())
            rows.append(timed("memory", images, seconds) | {"peak_MiB": peaks[-1]})
        ratios[f"peak memory, {large:,} over {small:,} images"] = round(peaks[1] / peaks[0], 3)
        if chosen.paper:
            seconds = written(folder / "paper", real, source, off, PAPER_IMAGES, dist)
            rows.append(timed("the paper's", PAPER_IMAGES, seconds))
        where = device() if encodes else torch.cuda.get_device_name()
    result: dict[str, Any] = {
        "device": where,
        "versions": versions("cxrdist", "torch", "pillow"),
        "size": chosen.size,
        "load_1_min": load(),
        "rows": rows,
        "ratios": {key: round(value, 3) for key, value in ratios.items()},
    }
    report(result, COLUMNS, chosen.json)


if __name__ == "__main__":
    main()
