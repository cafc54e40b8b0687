"""Patients to train, val and test: disjoint by patient, stratified by class, the same whatever the order."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import xxhash

from cxrdist.data.manifest import SPLITS
from cxrdist.errors import UserError

Images = Mapping[str, Counter[str]]
"""Patient -> class -> images."""

_COVER_ATTEMPTS = 64


def split_patients(
    patients: Sequence[str], labels: Sequence[str], *, val: float | int, test: float | int, seed: int
) -> list[str]:
    """The split ("train", "val" or "test") of each image, given its patient and its class.

    ``val`` and ``test`` are each a share of every class's images (0 < x < 1; at least one image) or a number
    of images per class (>= 1). All images of a patient share one split, and every class has a patient in each
    split. Where every patient has one image the targets are met exactly, otherwise as nearly as whole
    patients allow. A pure function of the seed and of the set of images: neither their order nor the process
    matters. Raises UserError, naming the class, where this cannot be done.
    """
    assert len(patients) == len(labels)
    images: dict[str, Counter[str]] = defaultdict(Counter)
    for patient, label in zip(patients, labels):
        images[patient][label] += 1
    patients_of: dict[str, list[str]] = defaultdict(list)
    for patient, counts in images.items():
        for label in counts:
            patients_of[label].append(patient)

    targets = _targets(images, patients_of, val, test)
    home = _cover(images, patients_of, seed)
    _fill(images, home, targets, seed)
    return [home[patient] for patient in patients]


def _targets(
    images: Images, patients_of: Mapping[str, Sequence[str]], val: float, test: float
) -> dict[str, dict[str, int]]:
    """Split -> class -> images wanted, each >= 1."""
    for name, wanted in (("val", val), ("test", test)):
        is_number = isinstance(wanted, int | float) and not isinstance(wanted, bool)
        if not is_number or not (0 < wanted < 1 or (wanted >= 1 and wanted % 1 == 0)):
            raise UserError(
                f"--{name} {wanted} is neither a share of the images (0 < x < 1) nor a whole number of images "
                "per class"
            )
    if val < 1 and test < 1 and val + test >= 1:
        raise UserError(f"--val {val} and --test {test} leave no share for train: their sum must be below 1")

    targets: dict[str, dict[str, int]] = {name: {} for name in SPLITS}
    for label in sorted(patients_of):
        have = sum(images[patient][label] for patient in patients_of[label])
        if len(patients_of[label]) < len(SPLITS):
            raise _too_few_patients(label, len(patients_of[label]))
        for name, wanted in (("val", val), ("test", test)):
            targets[name][label] = max(1, round(wanted * have)) if wanted < 1 else int(wanted)
        rest = have - targets["val"][label] - targets["test"][label]
        if rest < 1 and (val >= 1 or test >= 1):
            raise UserError(
                f"{label} has {have} images: --val {val} and --test {test} leave none of them for train; "
                "ask for fewer, or leave the class out with --classes"
            )
        # Shares of a tiny class, both rounded up, may leave nothing; they give way, a count does not.
        targets["train"][label] = max(1, rest)
    return targets


def _too_few_patients(label: str, count: int) -> UserError:
    return UserError(
        f"{label} has {count} patient{'' if count == 1 else 's'}, too few to give each of train, val and "
        "test one of its own: leave the class out with --classes, or merge sources"
    )


def _cover(images: Images, patients_of: Mapping[str, Sequence[str]], seed: int) -> dict[str, str]:
    """Patient -> split for a few patients, so that every class has one in each split.

    Classes with few patients choose first. Where one is stuck, because others took its patients, all choose
    again, now in random order: any solution can be reached that way.
    """
    labels = sorted(patients_of, key=lambda label: (len(patients_of[label]), label))
    stuck: list[str] = []
    for attempt in range(_COVER_ATTEMPTS):
        home: dict[str, str] = {}

        def choice(patient: str, attempt: int = attempt) -> tuple[int, int, int, str]:
            # Small patients first: a large one would overshoot the val and test targets of its classes.
            size = (images[patient].total(), len(images[patient])) if attempt == 0 else (0, 0)
            return (*size, _draw(seed, f"cover {attempt}", patient), patient)

        for label in labels:
            covered = {home[patient] for patient in patients_of[label] if patient in home}
            lacking = [name for name in ("val", "test", "train") if name not in covered]
            free = [patient for patient in patients_of[label] if patient not in home]
            if len(free) < len(lacking):
                stuck.append(label)
                break
            home.update(zip(sorted(free, key=choice), lacking))
        else:
            return home
    raise _too_few_patients(stuck[0], len(patients_of[stuck[0]]))


def _fill(images: Images, home: dict[str, str], targets: Mapping[str, Mapping[str, int]], seed: int) -> None:
    """Give every other patient a split: the one that lacks most of what the patient has."""
    left = {name: dict(targets[name]) for name in SPLITS}
    for patient, name in home.items():
        for label, count in images[patient].items():
            left[name][label] -= count

    # Large patients first, while there is room for them; the small ones then even things out.
    order = sorted(
        (patient for patient in images if patient not in home),
        key=lambda patient: (-images[patient].total(), _draw(seed, "order", patient), patient),
    )
    for patient in order:
        counts = images[patient].items()
        scores = {
            # fsum: the sum must not depend on the order in which the patient's images came.
            name: math.fsum(count * left[name][label] / targets[name][label] for label, count in counts)
            for name in SPLITS
            if name == "train" or all(count <= left[name][label] for label, count in counts)
        }
        best = max(scores.values())
        tied = [name for name in scores if scores[name] == best]
        home[patient] = tied[_draw(seed, "tie", patient) % len(tied)]
        for label, count in counts:
            left[home[patient]][label] -= count


def _draw(seed: int, purpose: str, patient: str) -> int:
    """A random 64-bit number that is the patient's own, so that no other patient changes it."""
    return xxhash.xxh3_64_intdigest(f"{seed}/{purpose}/{patient}".encode())
