"""What an import needs to know beside its source."""

from __future__ import annotations

from dataclasses import dataclass

from cxrdist.data.imaging.codecs import ENCODINGS
from cxrdist.data.imaging.radiograph import FITS
from cxrdist.errors import OptionError, check_choice

SPLIT_WAYS = ("drawn", "official")


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """What an import needs to know beside its source; see the options of ``cxrdist import``."""

    out: str
    """Folder of the new set, or its URL (s3://bucket/set, gs://...)."""
    size: int = 64
    """Side of the square images, in pixels; resized with anti-aliasing, and the aspect is kept."""
    fit: str = "pad"
    """What becomes of an image that is not square: pad (black bars around all of it) or crop (its centre)."""
    encoding: str = "png"
    """png (lossless, small), npy (lossless, fastest) or jpg (quality 95, smallest)."""
    label_rule: str = "one-target"
    """strict: exactly this one finding; one-target: exactly one of the targets, other findings allowed; rarest:
    the rarest of several targets. Unused where the source itself names the class."""
    split: str | None = None
    """drawn (by patient, from --val, --test and --seed) or official (as the source's own lists or column say; where
    they only tell test apart, val is drawn from the rest). By default official where you wrote it yourself."""
    val: float | int = 0.15
    """Validation images of each class: a fraction, or a number such as the paper's 1000."""
    test: float | int = 0.15
    """Test images of each class, likewise."""
    seed: int = 0
    """Seed of the split by patient."""
    classes: tuple[str, ...] = ()
    """Classes to keep, such as 'Normal,Pneumothorax'; by default all."""
    find_duplicates: bool = True
    """Look for near-duplicate films, and tell: a minute or two for 100,000 images, 16 times that for four times as
    many."""
    dedup: bool | None = None
    """Keep near-duplicate films on one side of the split: they are looked for before it is drawn, which decodes
    every image twice. By default only where images name no patient."""
    min_shards: int = 1
    """Shards of every class in every split, where it has so many images: ranks times loader workers, so that each
    has something to read. Shards are about 64 MiB otherwise."""
    salt_file: str | None = None
    """File with the secret that patients and images are hashed with; by default your own, made once."""
    workers: int = 0
    """Processes that decode and write; 0: one per core."""

    def __post_init__(self) -> None:
        check_choice("encoding", self.encoding, ENCODINGS)
        check_choice("fit", self.fit, FITS)
        if self.split is not None:
            check_choice("split", self.split, SPLIT_WAYS)
        if self.dedup and not self.find_duplicates:
            raise OptionError("dedup", "needs the near-duplicates: remove --no-find-duplicates")
        if self.min_shards < 1:
            raise OptionError("min_shards", f"must be 1 or more, not {self.min_shards}")
        if not 16 <= self.size <= 2048:
            raise OptionError("size", f"must be from 16 to 2048 pixels, not {self.size}")
        if self.workers < 0:
            raise OptionError("workers", f"must be 0 (one per core) or more, not {self.workers}")
