"""A small real set of noise images, and synthetic sets with planted copies and duplicates of known number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.shards.index import write_table
from cxrdist.data.shards.manifest import Manifest, Stratum
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from cxrdist.files import canonical_json
from cxrdist.models import export_classifier
from cxrdist.nets.classifiers import build_network, dcnn_config, init_network
from cxrdist.nets.dcnn import DCNNConfig
from tests.helpers.shard_sets import write_set, write_shard

SIZE = 32
CLASSES = ("Normal", "Pneumothorax")
TRAIN, VAL, MADE = 30, 20, 40
"""Real images of each class, and synthetic ones."""
GENERATOR = "9" * 64


def noise(seed: int, count: int) -> list[np.ndarray]:
    """Images [32, 32] uint8 of random blobs, no two of which are alike."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 8, 8), np.uint8)
    return [np.asarray(Image.fromarray(one).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for one in small]


def copy_of(image: np.ndarray) -> np.ndarray:
    """The image, shifted by a pixel and darker."""
    return np.roll(image, 1, axis=1) // 2 + 10


def real_images(class_name: str, split: str) -> list[np.ndarray]:
    place = CLASSES.index(class_name) * 2 + (split == "val")
    return noise(place, TRAIN if split == "train" else VAL)


def write_real(folder: Path, *, val: int = VAL) -> Manifest:
    """``val``: validation images of each class."""
    images = {
        (split, name): real_images(name, split)[: val if split == "val" else None]
        for split in ("train", "val")
        for name in CLASSES
    }
    return _write(folder, "real", images)


def write_synthetic(
    folder: Path,
    real: Manifest,
    images: Mapping[str, Sequence[np.ndarray]],
    *,
    provenance: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> Manifest:
    """``images`` by class. ``provenance`` and ``lineage``: changes to those of a set of an earlier version."""
    made = {"importer": "synthesis", "generators": dict.fromkeys(images, GENERATOR), **(provenance or {})}
    descends = {"kind": "synthetic", "real_digest": real.digest, "split": "train", **(lineage or {})}
    by_stratum = {("train", name): list(of) for name, of in images.items()}
    return _write(folder, "synthetic", by_stratum, made, descends)


def write_classifier(folder: Path, real: Manifest, *, always: str) -> None:
    """A finished classifier run on a real set, of an untrained network that gives every image the same class."""
    config = dcnn_config(DCNNConfig(size=SIZE, classes=len(CLASSES), widths=(4, 6), hidden=8))
    network = build_network(config)
    init_network(network, config, 3)
    bias = dict(network.named_parameters())["mlp.2.bias"].data
    bias[CLASSES.index(always)] += 100
    lineage: dict[str, Any] = {"real_digest": real.digest, "split": "train"}
    lineage |= {"synthetic_digest": None, "other_lineage_allowed": False}
    export_classifier(folder, network, config=config, classes=CLASSES, lineage=lineage, metrics={})
    (folder / "summary.json").write_bytes(canonical_json({"job": "cls", "status": "finished"}))


def key_of(class_name: str, number: int) -> str:
    """Of a synthetic image."""
    return f"{CLASSES.index(class_name):016x}-{number:010d}"


def _write(
    folder: Path,
    origin: str,
    images: Mapping[tuple[str, str], Sequence[np.ndarray]],
    provenance: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> Manifest:
    store, entries = LocalStore(folder), []
    for (split, name), of in images.items():
        if not of:
            continue
        stratum, label, samples = Stratum(split, name, origin), CLASSES.index(name), []
        for number, pixels in enumerate(of):
            patient = f"{split}{label}{number}" if origin == "real" else None
            key = key_of(name, number) if origin == "synthetic" else f"{split}{label}-{number}"
            meta = {"patient": patient, "origin": origin, "class": name}
            samples.append(Sample(key, encode(pixels, "npy"), meta))
        entries.append(write_table(store, stratum, [write_shard(store, 0, stratum, label, "npy", samples)]))
    return write_set(store, CLASSES, SIZE, "npy", entries, provenance=provenance, lineage=lineage)
