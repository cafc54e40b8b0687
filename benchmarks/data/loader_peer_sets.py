"""The peers' own formats of the images of ``loader.py``: run in their environment, as
``python -m benchmarks.data.loader_peer_sets FOLDER``.

Arrays and labels, as their manuals write images; and raw pixels without compression, which each reads fastest.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data.loader_systems import import_streaming

CHUNK_BYTES = 2**26


@cache
def _arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """[n, H, W] uint8 and [n] int64."""
    return np.load(folder / "pixels.npy", mmap_mode="r"), np.load(folder / "labels.npy")


def _tokens(folder: Path, i: int) -> torch.Tensor:
    return torch.from_numpy(_arrays(folder)[0][i].reshape(-1).copy())


def _labelled(folder: Path, i: int) -> dict[str, Any]:
    images, labels = _arrays(folder)
    return {"image": images[i].tobytes(), "label": int(labels[i])}


def _arrays_labelled(folder: Path, i: int) -> dict[str, Any]:
    images, labels = _arrays(folder)
    return {"image": images[i], "label": int(labels[i])}


def write_litdata(folder: Path) -> None:
    from litdata import TokensLoader, optimize

    images, _ = _arrays(folder)
    common: dict[str, Any] = {"inputs": list(range(len(images))), "num_workers": 1}
    loader = TokensLoader(block_size=images[0].size)
    optimize(
        fn=partial(_tokens, folder),
        output_dir=f"{folder}/litdata-tokens",
        item_loader=loader,
        chunk_size=CHUNK_BYTES,
        **common,
    )
    for variant, sample in (("labelled", _labelled), ("arrays", _arrays_labelled)):
        optimize(
            fn=partial(sample, folder),
            output_dir=f"{folder}/litdata-{variant}",
            chunk_bytes=CHUNK_BYTES,
            **common,
        )


def write_mosaic(folder: Path) -> None:
    import_streaming()
    from streaming import MDSWriter

    images, _ = _arrays(folder)
    array = f"ndarray:uint8:{images.shape[1]},{images.shape[2]}"
    for variant, kind, sample in (("labelled", "bytes", _labelled), ("arrays", array, _arrays_labelled)):
        columns = {"image": kind, "label": "int"}
        with MDSWriter(out=f"{folder}/mosaic-{variant}", columns=columns, size_limit=CHUNK_BYTES) as writer:
            for i in range(len(images)):
                writer.write(sample(folder, i))


if __name__ == "__main__":
    write_litdata(Path(sys.argv[1]))
    write_mosaic(Path(sys.argv[1]))
