"""Training throughput of the classifier: this project beside webdataset's pipeline and a plain PyTorch loop, with the
same network, batch, precision and optimizer, on the same shards, in alternating runs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.common import CLONE, Row, device, load, median_ratio, parser, python_path, report, versions

COLUMNS = ("side", "size", "batch", "precision", "threads", "img_s", "data_wait")
SIDES = ("ours", "peer")
SHUFFLE_BUFFER = 1000
WARM_UP_STEPS = 10


def make_set(folder: Path, size: int, encoding: str) -> Path:
    """Phantoms of this size, computed once."""
    from cxrdist.data.importers.phantom import Phantom
    from cxrdist.data.ingest.ingest import IngestOptions, ingest

    place = folder / f"phantom-{size}-{encoding}"
    options: dict[str, Any] = {"encoding": encoding}
    ingest(Phantom(), IngestOptions(out=str(place), size=size, **options))
    return place


def ours(place: Path, batch: int, steps: int) -> Row:
    """train_cls.py's own loop, without validation."""
    from cxrdist.cls.config import ClsConfig
    from cxrdist.cls.training.networks import config_for
    from cxrdist.cls.training.stages import plan_stages
    from cxrdist.cls.training.step import ClsStep
    from cxrdist.cls.training.trainer import ENGINE
    from cxrdist.data.loading.prefetch import read_ahead
    from cxrdist.data.mix.rules import rule_from
    from cxrdist.data.shards.shard_set import ShardSet
    from cxrdist.distributed.dist import Dist
    from cxrdist.nets.classifiers import build_network, init_network

    real, dist = ShardSet(place), Dist(engines=(ENGINE,))
    config = ClsConfig(
        shards=str(place), batch=batch, budget=f"{batch * steps} images", **shape(real.image_size)
    )
    network_shape = config_for(config, real)
    network = build_network(network_shape)
    init_network(network, network_shape, 0)
    engine = dist.engine(ENGINE, network, learning_rate=1e-3, betas=(0.5, 0.999), l2=1e-4)
    (stage,) = plan_stages(config, [rule_from({"name": "DS1", "images_per_class": "own"})], real, None, dist)
    step = ClsStep(config, engine, dist, stage, None)
    with read_ahead(stage.stream, 0, steps, peers=dist, device=dist.device) as batches:
        numbers = iter(range(steps))

        def one() -> Tensor:
            return step(next(numbers), next(batches))

        return timed(one, batch, steps, dist.device, lambda: batches.waited_s) | {
            "size": real.image_size,
            "precision": dist.precision,
            "threads": torch.get_num_threads(),
        }


def peer(place: Path, batch: int, steps: int) -> Row:
    """webdataset's own way: decode, shuffle, batch in worker processes; a plain loop with Adam."""
    import webdataset as wds

    from cxrdist.data.shards.shard_set import ShardSet
    from cxrdist.distributed.machine import resolve_precision
    from cxrdist.nets.dcnn import DCNN, DCNNConfig

    real = ShardSet(place)
    tars = [
        str(place / row.name) for name in real.classes for row in real.stratum("train", name, "real").shards
    ]
    on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = resolve_precision("auto", on.type == "cpu")
    network: nn.Module = DCNN(
        DCNNConfig(size=real.image_size, classes=len(real.classes), **shape(real.image_size))
    ).to(on)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, (0.5, 0.999), weight_decay=1e-4)
    extension = real.manifest.encoding
    decoded = (
        wds.WebDataset(tars, shardshuffle=100, resampled=True)
        .shuffle(SHUFFLE_BUFFER)
        .decode("l" if extension == "png" else None)
        .to_tuple(extension, "cls")
        .batched(batch)
    )
    workers = max(1, min(len(tars), (os.cpu_count() or 1) // 2))
    loader: Iterator[tuple[Any, Any]] = iter(wds.WebLoader(decoded, batch_size=None, num_workers=workers))
    waited = [0.0]

    def one() -> Tensor:
        began_s = time.perf_counter()
        pixels, labels = next(loader)
        waited[0] += time.perf_counter() - began_s
        images = torch.as_tensor(pixels).float()
        images = (images * 2 - 1 if extension == "png" else images / 127.5 - 1)[:, None].to(on)
        with torch.autocast(on.type, torch.bfloat16) if precision == "bf16" else nullcontext():
            logits = network(images)
        loss = cross_entropy(logits.float(), torch.as_tensor(labels).to(on))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return timed(one, batch, steps, on, lambda: waited[0]) | {
        "size": real.image_size,
        "precision": precision,
        "threads": torch.get_num_threads(),
    }


def shape(size: int) -> dict[str, Any]:
    """The preset's network for an image size."""
    import yaml

    from cxrdist.config.presets import preset_of

    preset = yaml.safe_load((CLONE / preset_of("cls", size)).read_text())
    return {"widths": tuple(preset["widths"]), "hidden": preset["hidden"]}


def timed(
    one: Callable[[], Tensor], batch: int, steps: int, on: torch.device, waited_s: Callable[[], float]
) -> Row:
    for _ in range(WARM_UP_STEPS):
        one()
    loss, before_s, began_s = torch.zeros(()), waited_s(), time.perf_counter()
    for _ in range(steps - WARM_UP_STEPS):
        loss = one()
    if on.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began_s
    assert torch.isfinite(loss).item()
    images = (steps - WARM_UP_STEPS) * batch
    waited = (waited_s() - before_s) / seconds
    return {"batch": batch, "img_s": round(images / seconds, 1), "data_wait": round(waited, 4)}


def run_side(side: str, place: Path, options: argparse.Namespace) -> Row:
    words = [
        "--side",
        side,
        "--set",
        str(place),
        "--batch",
        str(options.batch),
        "--steps",
        str(options.steps),
    ]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), *words],
        env={**os.environ, "PYTHONPATH": python_path()},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return {"side": side, **found}


def main() -> None:
    made = parser(__doc__ or "", "python benchmarks/cls/step.py --json benchmarks/results/cls_step.json")
    made.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    made.add_argument("--encoding", default="png", choices=("png", "npy"))
    made.add_argument("--batch", type=int, default=64)
    made.add_argument("--steps", type=int, default=300)
    made.add_argument("--repeats", type=int, default=3, help="pairs of runs")
    made.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    made.add_argument("--set", type=Path, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.side:
        print(
            json.dumps({"ours": ours, "peer": peer}[options.side](options.set, options.batch, options.steps))
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        place = make_set(Path(folder), options.size, options.encoding)
        began = load()
        rows = [run_side(side, place, options) for _ in range(options.repeats) for side in SIDES]
    of = {side: [row["img_s"] for row in rows if row["side"] == side] for side in SIDES}
    result = {
        "device": device(),
        "versions": versions("torch", "webdataset"),
        "load": began,
        "encoding": options.encoding,
        "rows": rows,
        "ratios": {"img_s, ours / peer": median_ratio(of["ours"], of["peer"])},
    }
    report(result, COLUMNS, options.json)


if __name__ == "__main__":
    main()
