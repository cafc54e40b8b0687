"""Patients to train, val and test: disjoint by patient, stratified by class, independent of their order."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import xxhash

from cxrdist.data.shards.schema import SPLITS
from cxrdist.errors import OptionError, UserError

Images = Mapping[str, Counter[str]]
"""Patient -> class -> images."""

_COVER_ATTEMPTS = 64


def split_patients(
    patients: Sequence[str], labels: Sequence[str], *, val: float | int, test: float | int | None, seed: int
) -> list[str]:
    """The split ("train", "val" or "test") of each image, given its patient and its class.

    ``val`` and ``test`` are each a fraction of every class's images (0 < x < 1; at least one image) or a number of
    images per class (>= 1). All images of a patient are in one split, and every class has a patient in each split. If
    every patient has one image the targets are met exactly, otherwise as closely as whole patients allow. A pure
    function of the seed and the set of images, independent of their order. ``test=None`` draws no test split. Raises
    UserError, naming the class, if there is no such split.
    """
    assert len(patients) == len(labels)
    # Most patients have one image: they share the counts of its class, since a Counter takes 300 bytes.
    one_image = {label: Counter((label,)) for label in labels}
    images: dict[str, Counter[str]] = {}
    for patient, label in zip(patients, labels):
        images[patient] = images[patient] + one_image[label] if patient in images else one_image[label]
    patients_of: dict[str, list[str]] = defaultdict(list)
    for patient, counts in images.items():
        for label in counts:
            patients_of[label].append(patient)

    targets = _targets(images, patients_of, {"val": val} if test is None else {"val": val, "test": test})
    home = _cover(images, patients_of, [*targets], seed)
    _fill(images, home, targets, seed)
    return [home[patient] for patient in patients]


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


def _targets(
    images: Images, patients_of: Mapping[str, Sequence[str]], requested: Mapping[str, float]
) -> dict[str, dict[str, int]]:
    """Split -> class -> images wanted, each >= 1."""
    asked = " and ".join(f"{name} {wanted}" for name, wanted in requested.items())
    if sum(wanted for wanted in requested.values() if wanted < 1) >= 1:
        raise OptionError("val", f"{asked} leave no images for train: their sum must be below 1")

    # The order in which the splits get the patients of a class that has few.
    targets: dict[str, dict[str, int]] = {name: {} for name in (*requested, "train")}
    for label in sorted(patients_of):
        have = sum(images[patient][label] for patient in patients_of[label])
        if len(patients_of[label]) < len(targets):
            raise _too_few_patients(label, len(patients_of[label]), [*targets])
        for name, wanted in requested.items():
            targets[name][label] = max(1, round(wanted * have)) if wanted < 1 else int(wanted)
        rest = have - sum(targets[name][label] for name in requested)
        if rest < 1 and any(wanted >= 1 for wanted in requested.values()):
            raise UserError(
                f"{label} has {have} images: {asked} leave none of them for train; ask for fewer, or leave the "
                "class out with --classes"
            )
        # Fractions of a tiny class, both rounded up, may leave nothing for train. Then train takes one back.
        targets["train"][label] = max(1, rest)
    return targets


def _too_few_patients(label: str, count: int, splits: Sequence[str]) -> UserError:
    names = [name for name in SPLITS if name in splits]
    return UserError(
        f"{label} has {count} patient{'' if count == 1 else 's'}, too few to give each of "
        f"{', '.join(names[:-1])} and {names[-1]} one of its own: leave the class out with --classes, or merge "
        "sources"
    )


def _cover(
    images: Images, patients_of: Mapping[str, Sequence[str]], splits: Sequence[str], seed: int
) -> dict[str, str]:
    """Patient -> split for a few patients, so that every class has one in each split.

    Classes with few patients are assigned first. If a class has too few left, because others have its patients, all
    are assigned again in random order, by which any solution can be reached.
    """
    labels = sorted(patients_of, key=lambda label: (len(patients_of[label]), label))
    stuck: list[str] = []
    for attempt in range(_COVER_ATTEMPTS):
        home: dict[str, str] = {}

        def choice(patient: str, attempt: int = attempt) -> tuple[int, int, int, str]:
            # Patients with few images first: one with many would exceed the val and test targets of its classes.
            size = (images[patient].total(), len(images[patient])) if attempt == 0 else (0, 0)
            return (*size, _draw(seed, f"cover {attempt}", patient), patient)

        for label in labels:
            covered = {home[patient] for patient in patients_of[label] if patient in home}
            lacking = [name for name in splits if name not in covered]
            free = [patient for patient in patients_of[label] if patient not in home]
            if len(free) < len(lacking):
                stuck.append(label)
                break
            home.update(zip(sorted(free, key=choice), lacking))
        else:
            return home
    raise _too_few_patients(stuck[0], len(patients_of[stuck[0]]), splits)


def _fill(images: Images, home: dict[str, str], targets: Mapping[str, Mapping[str, int]], seed: int) -> None:
    """Assign every other patient to the split that lacks most of the classes of its images. Changes ``home``."""
    left = {name: dict(targets[name]) for name in SPLITS if name in targets}
    for patient, name in home.items():
        for label, count in images[patient].items():
            left[name][label] -= count

    # Patients with many images first, while there is room; those with few then even out the rest.
    order = sorted(
        (patient for patient in images if patient not in home),
        key=lambda patient: (-images[patient].total(), _draw(seed, "order", patient), patient),
    )
    for patient in order:
        counts = images[patient].items()
        scores = {
            # fsum: the sum must not depend on the order of the patient's images.
            name: math.fsum(count * left[name][label] / targets[name][label] for label, count in counts)
            for name in left
            if name == "train" or all(count <= left[name][label] for label, count in counts)
        }
        best = max(scores.values())
        tied = [name for name in scores if scores[name] == best]
        home[patient] = tied[_draw(seed, "tie", patient) % len(tied)]
        for label, count in counts:
            left[home[patient]][label] -= count


def _draw(seed: int, purpose: str, patient: str) -> int:
    """A random 64-bit number of the patient, independent of all other patients."""
    return xxhash.xxh3_64_intdigest(f"{seed}/{purpose}/{patient}".encode())
