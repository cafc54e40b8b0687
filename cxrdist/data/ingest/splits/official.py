"""The source's own split, of which a part may be drawn."""

from __future__ import annotations

from collections.abc import Sequence

from cxrdist.data.importers.common.base import Record
from cxrdist.data.ingest.splits.drawn import split_patients
from cxrdist.data.shards.schema import SPLITS
from cxrdist.errors import UserError

TRAIN_VAL = "train-val"
"""The split of images in a source that only separates its test images."""


def official_split(
    patients: Sequence[str],
    labels: Sequence[str],
    official: Sequence[str],
    together: Sequence[str],
    *,
    val: float | int,
    seed: int,
) -> list[str]:
    """The split of each image, from the source's own: train, val, test, or train-val, which is drawn into train and
    val as ``split_patients`` does it.

    ``together`` names for each image the group that is drawn into one split: its patient, or several patients. Raises
    UserError if the source divides a patient, or if a class has no image in a split.
    """
    home: dict[str, str] = {}
    divided = {
        patient for patient, split in zip(patients, official) if home.setdefault(patient, split) != split
    }
    if divided:
        raise UserError(
            f"the source's own split divides {len(divided)} patients among train, val and test: use "
            "--split drawn, which never does"
        )
    undivided = [i for i, split in enumerate(official) if split == TRAIN_VAL]
    drawn = split_patients(
        [together[i] for i in undivided], [labels[i] for i in undivided], val=val, test=None, seed=seed
    )
    splits = list(official)
    for i, split in zip(undivided, drawn):
        splits[i] = split
    has = set(zip(labels, splits))
    for label in sorted(set(labels)):
        for split in SPLITS:
            if (label, split) not in has:
                raise UserError(
                    f"the source's own split has no {split} image of {label}: use --split drawn, or leave the "
                    "class out with --classes"
                )
    return splits


def official_splits(records: list[Record]) -> list[str]:
    """The source's own split of each image; a source that only separates test has train-val for all others."""
    splits = [record.split or "" for record in records]
    if "val" in splits:
        return splits
    return [TRAIN_VAL if split == "train" else split for split in splits]
