"""The systems that ``loader.py`` compares: each a function from a ``Side`` to epochs of batches.

Run as ``python -m benchmarks.data.loader_systems JSON``, with the fields of a ``Side``; the last line printed is
JSON. Interpreter and imports count for none. The peers are at their best, as far as that was found by trial: raw
pixels where they choose the format, the fastest decoders, collation straight into shared memory (torch's
``default_collate``), images alone where that is faster.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.data import DataLoader, default_collate

from benchmarks.data import loader_limits
from benchmarks.data.loader_limits import DECODERS
from benchmarks.data.loader_side import BATCH, Epochs, Side, endlessly, measured


def ours(side: Side) -> Epochs:
    """Pixels, labels and keys; every image's hash is checked."""
    from cxrdist.data.loading.config import LoaderConfig
    from cxrdist.data.loading.prefetch import read_ahead
    from cxrdist.data.loading.stream import Stream, StreamOptions
    from cxrdist.data.shards.shard_set import ShardSet

    real = ShardSet(f"{side.folder}/{side.encoding}")
    quotas = {name: {"real": real.samples("train", name, "real")} for name in real.classes}
    stream = Stream(real, None, quotas, StreamOptions(batch=BATCH, seed=0))
    batches = read_ahead(stream, 0, 2**40, LoaderConfig(workers=side.workers))
    if not side.is_one_epoch:
        return iter([(batch.pixels for batch in batches)])
    # An epoch may end inside a batch.
    return iter([(next(batches).pixels[: side.images - i] for i in range(0, side.images, BATCH))])


def webdataset(side: Side) -> Epochs:
    """Reading, shuffling, decoding and batching in the workers. ``labelled``: its own decoders, and labels;
    ``tuned``: images alone, the tars' other members left out, with the fastest decoder."""
    import webdataset as wds

    urls = sorted(str(path) for path in Path(side.folder, side.encoding).glob("train-*.tar"))
    is_tuned, name = side.variant == "tuned", side.encoding
    options = {"select_files": lambda member: member.endswith(name)} if is_tuned else {}
    data = wds.WebDataset(urls, shardshuffle=len(urls), empty_check=False, **options)
    # Endless, so that neither workers nor the shuffle buffer start again with an epoch.
    data = (data if side.is_one_epoch else data.repeat()).shuffle(1000)
    if is_tuned:
        fastest = {"npy": "numpy", "png": "opencv", "jpg": "simplejpeg"}[name]
        data = data.map_dict(**{name: DECODERS[fastest]()}).to_tuple(name)
    else:
        data = (data.decode() if name == "npy" else data.decode("l8")).to_tuple(name, "cls")
    data = data.batched(BATCH, collation_fn=_collate_first)
    return endlessly(wds.WebLoader(data, batch_size=None, num_workers=side.workers))


def _collate_first(samples: list[tuple[Any, ...]]) -> torch.Tensor:
    images, *others = zip(*samples)
    for other in others:
        torch.tensor(other)
    return default_collate([torch.from_numpy(image)[None] for image in images])


def litdata(side: Side) -> Epochs:
    """``arrays``: each sample an array and its label; ``labelled``: raw bytes instead; ``tokens``: images alone, as
    blocks of a long row of numbers, which is how it reads language."""
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    is_tokens = side.variant == "tokens"
    loader = TokensLoader(block_size=side.size**2) if is_tokens else None
    data = StreamingDataset(f"{side.folder}/litdata-{side.variant}", item_loader=loader, shuffle=True)
    shape = (-1, 1, side.size, side.size)

    def collate(samples: list[Any]) -> torch.Tensor:
        return default_collate(samples).view(shape) if is_tokens else _collate(side, samples)

    return endlessly(
        StreamingDataLoader(
            data,
            batch_size=BATCH,
            num_workers=side.workers,
            collate_fn=collate,
            persistent_workers=side.workers > 0,
        )
    )


def mosaic(side: Side) -> Epochs:
    """``arrays`` and labels, or raw bytes and labels (``labelled``); the whole epoch may be prepared ahead, since its
    threads sleep where it may not."""
    import_streaming()
    from streaming import StreamingDataset

    data = StreamingDataset(
        local=f"{side.folder}/mosaic-{side.variant}", shuffle=True, batch_size=BATCH, predownload=side.images
    )
    return endlessly(
        DataLoader(
            data,
            batch_size=BATCH,
            num_workers=side.workers,
            collate_fn=lambda samples: _collate(side, samples),
            persistent_workers=side.workers > 0,
        )
    )


def _collate(side: Side, samples: list[dict[str, Any]]) -> torch.Tensor:
    """[b, 1, H, W] from samples {"image": bytes or [H, W] uint8, "label": int}."""
    shape = (-1, 1, side.size, side.size)
    if side.variant == "arrays":
        return default_collate(samples)["image"].view(shape)
    torch.tensor([sample["label"] for sample in samples])
    return default_collate([torch.frombuffer(s["image"], dtype=torch.uint8) for s in samples]).view(shape)


def import_streaming() -> None:
    """mosaicml-streaming imports torchvision, whose operators do not load beside a CPU build of torch; it needs none
    of them to read."""
    with patch("torch.library.register_fake", lambda name: lambda function: function):
        importlib.import_module("streaming")


SYSTEMS: dict[str, tuple[tuple[str, ...], Callable[[Side], Epochs]]] = {
    "cxrdist": (("cxrdist.data.shards.shard_set", "cxrdist.data.loading.stream"), ours),
    "webdataset": (("webdataset",), webdataset),
    "litdata": (("litdata",), litdata),
    "mosaicml-streaming": ((), mosaic),
    "memcpy": ((), loader_limits.memcpy),
}


def run(side: Side) -> dict[str, float]:
    torch.set_num_threads(1)
    if side.system == "decode":
        return loader_limits.decode(side)
    modules, system = SYSTEMS[side.system]
    for module in modules:
        importlib.import_module(module)
    if side.system == "mosaicml-streaming":
        import_streaming()
    began = time.perf_counter()
    return measured(side, system(side), began)


if __name__ == "__main__":
    print(json.dumps(run(Side(**json.loads(sys.argv[1])))), flush=True)
    # An endless loader has no end to wait for, and its workers must not disturb the next run.
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(0)
