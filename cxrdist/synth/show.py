"""Make one image of a synthetic set again, from the generator, seed and number that its metadata name."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.imaging.radiograph import decode
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample
from cxrdist.errors import UserError
from cxrdist.models import MODEL_FILE, TrainedGenerator, load_generator
from cxrdist.synth.plan import CANDIDATE_BATCH

DESCRIBED = ("class", "generator_sha256", "seed", "shard", "candidate")


@dataclass(frozen=True)
class Shown:
    """A stored image and the one that was made again, [H, W] uint8, as the set's encoding keeps it."""

    sample: Sample
    generator: Path
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


def show(key: str, shards: ShardSet, gan: Path) -> Shown:
    """Find an image by its key, and make it again on the CPU. Raises UserError if the set has no such synthetic
    image, or no generator in ``gan`` is the one that made it."""
    sample, stored = find(key, shards)
    if lacking := [name for name in DESCRIBED if name not in sample.meta]:
        raise UserError(
            f"{key} of {shards}: its metadata lack {', '.join(lacking)}, so it cannot be made again"
        )
    folder, generator = generator_of(gan, sample.meta["generator_sha256"])
    if generator.image_size != shards.image_size:
        raise UserError(
            f"{shards} has images of {shards.image_size} px, and {folder} makes {generator.image_size} px: name the "
            "set that it was converted from"
        )
    class_name, number = sample.meta["class"], sample.meta["candidate"]
    # The whole block that the synthesis made it in: the last bits of a convolution may depend on the batch.
    first = number // CANDIDATE_BATCH * CANDIDATE_BATCH
    purpose = f"synthesis {class_name} {sample.meta['shard']}"
    z = generator.z(sample.meta["seed"], purpose, range(first, first + CANDIDATE_BATCH))
    image = generator.images(class_name, z)[number - first]
    encoding = shards.stratum("train", class_name, "synthetic").encoding
    return Shown(sample, folder, stored, decode(encode(image, encoding), encoding, shards.image_size))


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
    raise UserError(f"{shards} has no synthetic image {key}: the keys are in its indexes and tars")


def generator_of(gan: Path, weights_sha256: str) -> tuple[Path, TrainedGenerator]:
    """The generator of a run, or a folder with one, whose weights have a digest."""
    for path in [gan / MODEL_FILE, *sorted(gan.glob(f"*/{MODEL_FILE}"))]:
        if path.exists() and (generator := load_generator(path.parent)).weights_sha256 == weights_sha256:
            return path.parent, generator
    raise UserError(
        f"{gan} has no generator of digest {weights_sha256[:12]}, which made the image: give the run of train_gan.py "
        "that the set was made with; if it was trained on or evaluated since, its generator is another one"
    )
