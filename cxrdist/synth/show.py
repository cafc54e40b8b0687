"""Make one image of a synthetic set again, from the generator, seed and index that its metadata name."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.imaging.radiograph import decode
from cxrdist.data.shards.removed import read_removed
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample
from cxrdist.errors import UserError
from cxrdist.models import load_generator
from cxrdist.models.description import GENERATOR
from cxrdist.synth.generators.own import load_own
from cxrdist.synth.generators.sources import BLOCK, GanSource, ImageSource

DEFAULT_RUN = "runs/gan"
WEIGHTS = GENERATOR.weights_file
DESCRIBED = ("class", "generator_sha256", "seed", "index")


@dataclass(frozen=True)
class Shown:
    """A stored image and the one that was made again, [H, W] uint8, as the set's encoding keeps it."""

    sample: Sample
    generator: str
    stored: np.ndarray
    again: np.ndarray

    @property
    def differing(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.stored != self.again))

    @property
    def largest(self) -> int:
        """Difference, in grey values."""
        return int(np.abs(self.stored.astype(int) - self.again).max())


def show(key: str, shards: ShardSet, gan: Path | None, own: str | None = None) -> Shown:
    """Find an image by its key, and make it again on the CPU. ``own``: the user's generator, ``package.module:load``;
    otherwise one of the run ``gan``.

    Raises UserError if the set has no such synthetic image, or if no generator there is the one that made it.
    """
    sample, stored = find(key, shards)
    if lacking := [name for name in DESCRIBED if name not in sample.meta]:
        raise UserError(
            f"{key} of {shards}: its metadata lack {', '.join(lacking)}, so it cannot be made again"
        )
    digest = sample.meta["generator_sha256"]
    where, source = _own(own, digest) if own is not None else _of_run(gan or Path(DEFAULT_RUN), digest)
    if source.image_size != shards.image_size:
        raise UserError(
            f"{shards} has images of {shards.image_size} px, and {where} makes {source.image_size} px: name the "
            "set that it was converted from"
        )
    class_name, index = sample.meta["class"], sample.meta["index"]
    image = source.block(class_name, sample.meta["seed"], index // BLOCK)[index % BLOCK]
    encoding = shards.stratum("train", class_name, "synthetic").encoding
    return Shown(sample, where, stored, decode(encode(image, encoding), encoding, shards.image_size))


def find(key: str, shards: ShardSet) -> tuple[Sample, np.ndarray]:
    """The sample with a key, and its pixels [H, W] uint8."""
    for stratum in shards.strata:
        if stratum.origin != "synthetic":
            continue
        reader = shards.stratum(stratum.split, stratum.class_name, stratum.origin)
        for shard in range(len(reader.shards)):
            found = np.flatnonzero(reader.index(shard)["key"] == key.encode())
            if len(found):
                sample = next(itertools.islice(reader.whole(shard), int(found[0]), None))
                return sample, reader.decoded(sample, reader.shards[shard].name)
    for entry in shards.manifest.strata:
        if removal := next((one for one in read_removed(shards.store, entry) if one.key == key), None):
            raise UserError(
                f"{shards}: the image {key} was removed by {removal.by} ({removal.reason or 'no reason'})"
            )
    raise UserError(f"{shards} has no synthetic image {key}: the keys are in its indexes and tars")


def _of_run(run: Path, digest: str) -> tuple[str, ImageSource]:
    """The generator of a run, or a folder with one, whose weights have a digest; of several runs, separated by
    commas as for a synthesis, any of them."""
    runs = [Path(name.strip()) for name in str(run).split(",")]
    for one in runs:
        # By their weights: the classifiers that the gates trained lie beside the generators.
        for path in [one / WEIGHTS, *sorted(one.glob(f"*/{WEIGHTS}"))]:
            if path.exists() and (generator := load_generator(path.parent)).weights_sha256 == digest:
                return str(path.parent), GanSource(generator)
    raise UserError(
        f"{run} has no generator of digest {digest[:12]}, which made the image: give the run of train_gan.py "
        "that the set was made with; if it was trained on or evaluated since, its generator is another one"
    )


def _own(name: str, digest: str) -> tuple[str, ImageSource]:
    source = load_own(name)
    if source.digest != digest:
        raise UserError(
            f"{name} has digest {source.digest[:12]}, and the image was made by {digest[:12]}: another version of "
            "the generator, or another one"
        )
    return name, source
