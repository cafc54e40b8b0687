"""The options of every import, whatever its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cxrdist.data.imaging.codecs import ENCODINGS, EncodingName
from cxrdist.data.imaging.radiograph import FITS, Fit
from cxrdist.data.ingest.labels import LabelRule
from cxrdist.data.ingest.splits.folds import FEWEST_FOLDS
from cxrdist.errors import OptionError, check_choice

SplitWay = Literal["drawn", "official"]
SPLIT_WAYS = get_args(SplitWay)
Missing = Literal["stop", "skip"]
MISSING = get_args(Missing)


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """The options of every import. Raises UserError for an invalid value."""

    out: str
    """Folder of the new set, or its URL (s3://bucket/set, gs://...)."""
    size: int = 64
    """Side of the square images, in pixels; resized with anti-aliasing, and the aspect is kept."""
    fit: Fit = "pad"
    """How an image that is not square becomes square: pad (black bars) or crop (its largest centred square)."""
    encoding: EncodingName = "png"
    """png (lossless, small), npy (lossless, fastest) or jpg (quality 95, smallest)."""
    label_rule: LabelRule = "one-target"
    """strict: exactly one finding, a target; one-target: exactly one target, other findings allowed; rarest: the
    rarest of the targets. Not used if the source names the class itself."""
    split: SplitWay | None = None
    """drawn (by patient, from --val, --test and --seed) or official (the source's own lists or column; if they only
    separate test images, val is drawn from the others). By default official if you wrote the split yourself (a
    column, a .json), otherwise drawn."""
    val: float | int = 0.15
    """Validation images of each class: a fraction, or a number such as the paper's 1000."""
    test: float | int = 0.15
    """Test images of each class: a fraction or a number."""
    keep_split: str | None = None
    """An earlier, smaller set of the same source and salt: all its patients keep their splits, and new patients are
    spread so that --val and --test hold for all."""
    folds: int | None = None
    """Cross-validation: deal all patients into this many folds, 3 or more, stratified by class and drawn from --seed.
    Each --fold makes a set of its own. Excludes --val, --test and --split official."""
    fold: int | None = None
    """The fold (0 to folds - 1) that is test in this set; the next one is val, all others are train."""
    seed: int = 0
    """Seed of the split by patient."""
    classes: tuple[str, ...] = ()
    """Classes to keep, such as 'Normal,Pneumothorax'; by default all."""
    class_map: tuple[str, ...] = ()
    """Other names for classes of the source, such as 'PTX=Pneumothorax,normal=Normal'; several may get one name."""
    source_name: str = ""
    """Name of the hospital or source, which is hashed with its names of images and patients: give one to each of
    several sources whose names may coincide (img001.png, patient 17)."""
    keep_unlabelled: bool = False
    """Keep usable images that get no class, if no image of their patient is in val or test: in a stratum of their
    own in the train split, for train_gan.py --use-unlabelled."""
    find_duplicates: bool = True
    """Look for near-duplicate films, and report them. Takes one to two minutes for 100,000 images, and 16 times as
    long for four times as many."""
    dedup: bool | None = None
    """Keep near-duplicate films in one split. They are looked for before the split is drawn, so every image is
    decoded twice. By default only if some images name no patient."""
    min_shards: int = 1
    """Least number of shards of each class in each split: ranks times loader workers, so that each has a shard to
    read. Otherwise shards have about 64 MiB."""
    salt_file: str | None = None
    """File with the secret salt for the hashes of patients and images; by default your own, created on first use."""
    missing: Missing = "stop"
    """If a table lists images that are not there: stop (if they are more than 1 %) or skip (import what is there)."""
    strict: bool = False
    """Refuse a source with an image that has to be repaired to be read, such as a DICOM file with an impossible
    window; otherwise it is repaired, counted and named."""
    workers: int = 0
    """Processes that decode and write; 0 for one per core."""

    def __post_init__(self) -> None:
        check_choice("encoding", self.encoding, ENCODINGS)
        check_choice("fit", self.fit, FITS)
        check_choice("missing", self.missing, MISSING)
        if self.split is not None:
            check_choice("split", self.split, SPLIT_WAYS)
        for name in ("val", "test"):
            wanted = getattr(self, name)
            if isinstance(wanted, bool) or not (0 < wanted < 1 or (wanted >= 1 and wanted % 1 == 0)):
                raise OptionError(
                    name,
                    "must be a fraction of the images (0 < x < 1) or a whole number of images per class, "
                    f"not {wanted}",
                )
        self._check_folds()
        if self.keep_split is not None and (self.folds is not None or self.split == "official"):
            other = "folds" if self.folds is not None else "split"
            raise OptionError("keep_split", f"does not go with --{other}, which sets the splits; remove one")
        if self.dedup and not self.find_duplicates:
            raise OptionError("dedup", "needs the near-duplicates: remove --no-find-duplicates")
        if self.min_shards < 1:
            raise OptionError("min_shards", f"must be 1 or more, not {self.min_shards}")
        if not 16 <= self.size <= 2048:
            raise OptionError("size", f"must be from 16 to 2048 pixels, not {self.size}")
        if self.workers < 0:
            raise OptionError("workers", f"must be 0 (one per core) or more, not {self.workers}")

    def _check_folds(self) -> None:
        if self.folds is None and self.fold is None:
            return
        if self.folds is None:
            raise OptionError("fold", "needs the number of folds: add --folds")
        if self.folds < FEWEST_FOLDS:
            raise OptionError(
                "folds", f"must be {FEWEST_FOLDS} or more (test, val and train), not {self.folds}"
            )
        if self.fold is None:
            raise OptionError("folds", f"needs the fold that is test: add --fold, 0 to {self.folds - 1}")
        if not 0 <= self.fold < self.folds:
            raise OptionError(
                "fold", f"must be from 0 to {self.folds - 1} with --folds {self.folds}, not {self.fold}"
            )
        if self.split == "official":
            raise OptionError(
                "split", "official, but --folds draws the splits; remove one of the two options"
            )
        for name in ("val", "test"):
            if getattr(self, name) != getattr(IngestOptions, name):
                raise OptionError(
                    name, f"--folds makes {name} one of the folds; remove one of the two options"
                )
