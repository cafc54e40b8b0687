"""What no loader can beat: copying images from memory to batches, and decoding them from memory to nowhere."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import tarfile
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch

from benchmarks.data.loader_side import BATCH, MEASURED_S, WARM_S, Checksum, Epochs, Side

KEPT_BATCHES = 5
"""As many as a loader has in use that reads three ahead: those, the one that is worked on, the one being filled."""

Decode = Callable[[bytes], np.ndarray]


def memcpy(side: Side) -> Epochs:
    """A random permutation of the images, one by one into a batch: one of ``KEPT_BATCHES`` in turn (``ring``), or
    always the same one (``reused``), which stays in the processor's cache."""
    images = np.load(f"{side.folder}/pixels.npy")[:, None]  # [n, 1, H, W]
    draw = np.random.default_rng(0)
    kept = 1 if side.variant == "reused" else KEPT_BATCHES
    batches = itertools.cycle([np.zeros((BATCH, *images.shape[1:]), np.uint8) for _ in range(kept)])

    def epoch() -> Iterable[torch.Tensor]:
        order = draw.permutation(len(images)).tolist()
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            out = next(batches)[: len(some)]
            for j, i in enumerate(some):
                out[j] = images[i]
            yield torch.from_numpy(out)

    return (epoch() for _ in itertools.count())


def decode(side: Side) -> dict[str, float]:
    """``side.workers`` processes, each decoding its share of the images again and again with ``side.variant``."""
    encoded = encoded_images(Path(side.folder, side.encoding), side.encoding)
    function = DECODERS[side.variant]()
    if side.is_one_epoch:
        checksum = Checksum()
        for data in encoded:
            checksum.saw(function(data)[None])
        return dict(checksum.report())
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(side.workers)
    pipes = [context.Pipe(duplex=False) for _ in range(side.workers)]
    for i, (_, reported) in enumerate(pipes):
        context.Process(
            target=_decode, args=(encoded[i :: side.workers], function, barrier, reported)
        ).start()
    return {"img_s": sum(heard.recv() for heard, _ in pipes)}


def _decode(encoded: list[bytes], function: Decode, barrier: Barrier, reported: Connection) -> None:
    endless = itertools.cycle(encoded)
    barrier.wait()
    for seconds in (WARM_S, MEASURED_S):
        images, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            function(next(endless))
            images += 1
    reported.send(images / spent)


def encoded_images(folder: Path, encoding: str) -> list[bytes]:
    """The images of the train split's tars, as they are."""
    found = []
    for path in sorted(folder.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            members = (member for member in tar if member.name.endswith(f".{encoding}"))
            found += [file.read() for member in members if (file := tar.extractfile(member))]
    return found


def _numpy() -> Decode:
    """The header of a set's .npy has one length, 128 bytes, and the images are square."""

    def read(data: bytes) -> np.ndarray:
        pixels = np.frombuffer(data, np.uint8, offset=128)
        size = int(len(pixels) ** 0.5)
        return pixels.reshape(size, size)

    return read


def _pillow() -> Decode:
    from PIL import Image

    return lambda data: np.asarray(Image.open(io.BytesIO(data)))


def _opencv() -> Decode:
    import cv2

    cv2.setNumThreads(1)
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)


def _simplejpeg() -> Decode:
    import simplejpeg

    return lambda data: simplejpeg.decode_jpeg(data, colorspace="GRAY")[:, :, 0]


DECODERS: dict[str, Callable[[], Decode]] = {
    "numpy": _numpy,
    "pillow": _pillow,
    "opencv": _opencv,
    "simplejpeg": _simplejpeg,
}
