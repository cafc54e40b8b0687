"""The images of ``loader.py``, kept in a folder from run to run: the same pixels in the form that each system reads.

FOLDER/
  recipe.json          what all this was made from; another recipe makes it again
  npy/ png/ jpg/       shard sets; webdataset reads their tars
  pixels.npy           the train split [n, H, W] uint8, and
  labels.npy           its labels, which the peers' own formats are written from
  litdata-*/ mosaic-*/
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import CLONE, report_progress, versions
from benchmarks.data.loader_side import Checksum
from benchmarks.peers import peers_python, pins
from cxrdist.data.imaging.radiograph import decode
from cxrdist.data.shards.schema import FORMAT, NORMAL
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.phantom import render
from cxrdist.process import available_cores

WRITER = "benchmarks.data.loader_peer_sets"
WRITERS = ("litdata", "mosaicml-streaming")
PEER_FORMATS = 2
CLASSES = (NORMAL, "Pneumothorax")


@dataclass(frozen=True, kw_only=True)
class Images:
    """Phantom films, each shifted and with noise of its own."""

    images: int
    size: int
    encodings: tuple[str, ...]
    distinct: int = 48
    # The PNGs of 256 px are then as large as those of real films, 30 to 35 KiB.
    noise_grey_levels: float = 1.0
    shift_pixels: int = 8

    @property
    def name(self) -> str:
        return f"{self.images:,} of {self.size} px"


def made(folder: Path, images: Images) -> dict[str, Any]:
    """What ``folder`` holds, made where it is not there: {encoding: {"mean_bytes", "images", "xxh3_sum"}}."""
    recipe = folder / "recipe.json"
    made_by = {"format": FORMAT, "peer_formats": PEER_FORMATS, **versions("numpy", "pillow"), **pins(WRITERS)}
    wanted = json.loads(json.dumps({**asdict(images), **made_by}))
    if recipe.is_file() and (reported := json.loads(recipe.read_text()))["recipe"] == wanted:
        _into_page_cache(folder)
        return reported["reported"]
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    _make_sources(folder / "source", images)
    (folder / "salt").write_text("no secret: these are phantoms\n")
    words = f"--val 1 --test 1 --size {images.size} --encoding npy --no-find-duplicates --no-dedup"
    _cxrdist(f"import folder --root {folder}/source --out {folder}/npy --salt-file {folder}/salt {words}")
    shutil.rmtree(folder / "source")
    for encoding in images.encodings:
        if encoding != "npy":
            _cxrdist(f"shards convert {folder}/npy --out {folder}/{encoding} --encoding {encoding}")
    reported = {
        encoding: _told(ShardSet(folder / encoding), folder if encoding == "npy" else None)
        for encoding in images.encodings
    }
    report_progress(f"{images.name}: writing the peers' own formats")
    command = [str(peers_python()), "-m", WRITER, str(folder)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(CLONE)}, check=True, stdout=sys.stderr)
    recipe.write_text(json.dumps({"recipe": wanted, "reported": reported}, indent=1) + "\n")
    return reported


def _into_page_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(2**24):
                    pass


def _make_sources(folder: Path, images: Images) -> None:
    report_progress(f"{images.name}: drawing")
    films = [
        render(seed=0, patient=i, study=0, label=CLASSES[i % 2], size=images.size).pixels
        for i in range(images.distinct)
    ]
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    # Each class gives one image to val and one to test.
    count = images.images + 2 * len(CLASSES)
    with ProcessPoolExecutor(available_cores()) as pool:
        for done, _ in enumerate(pool.map(partial(_draw, folder, images, films), range(count), chunksize=64)):
            if (done + 1) % 20_000 == 0:
                report_progress(f"{images.name}: {done + 1:,} drawn")


def _draw(folder: Path, images: Images, films: list[np.ndarray], i: int) -> None:
    draw = np.random.default_rng((0, i))
    shift = tuple(draw.integers(-images.shift_pixels, images.shift_pixels + 1, 2).tolist())
    film = np.roll(films[i % len(films)], shift, (0, 1))
    noisy = film + images.noise_grey_levels * draw.standard_normal(film.shape, np.float32)
    pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    # Stored, not compressed: these are read once.
    Image.fromarray(pixels).save(folder / CLASSES[i % 2] / f"{i:06d}.png", compress_level=0)


def _cxrdist(words: str) -> None:
    report_progress(f"cxrdist {words}")
    subprocess.run(
        [sys.executable, "-m", "cxrdist", *words.split()], cwd=CLONE, check=True, stdout=sys.stderr
    )


def _told(real: ShardSet, copy: Path | None) -> dict[str, Any]:
    """Mean bytes of an encoded image, and what an epoch of the train split must hold; its pixels and labels
    go into ``copy``."""
    readers = [real.stratum("train", name, "real") for name in real.classes]
    images = sum(reader.samples for reader in readers)
    size = real.image_size
    pixels = None
    if copy:
        pixels = np.lib.format.open_memmap(copy / "pixels.npy", "w+", np.uint8, (images, size, size))
        np.save(copy / "labels.npy", np.repeat(np.arange(len(readers)), [r.samples for r in readers]))
    encoded_bytes = 0
    checksum = Checksum()
    for i, (reader, number) in enumerate((r, n) for r in readers for n in range(r.samples)):
        data = reader.image_bytes(number)
        encoded_bytes += len(data)
        image = decode(data, reader.encoding, size)
        checksum.saw(image[None])
        if pixels is not None:
            pixels[i] = image
    return {"mean_bytes": round(encoded_bytes / images), **checksum.report()}
