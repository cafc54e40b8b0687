"""Patients to train, val and test: disjoint by patient, stratified by class, independent of their order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cxrdist.data.ingest.splits.cover import Images, NoCoverError, counted, cover, draw
from cxrdist.data.shards.schema import SPLITS
from cxrdist.errors import OptionError, UserError


def split_patients(
    patients: Sequence[str],
    labels: Sequence[str],
    *,
    val: float | int,
    test: float | int | None,
    seed: int,
    kept: Mapping[str, str] | None = None,
) -> list[str]:
    """The split ("train", "val" or "test") of each image, given its patient and its class.

    ``val`` and ``test`` are each a fraction of every class's images (0 < x < 1; at least one image) or a number of
    images per class (>= 1). All images of a patient are in one split, and every class has a patient in each split. If
    every patient has one image the targets are met exactly, otherwise as closely as whole patients allow. A pure
    function of the seed and the set of images, independent of their order. ``test=None`` draws no test split.
    ``kept`` is patient -> split for patients whose split is known; the others fill what is missing. Raises UserError,
    naming the class, if there is no such split.
    """
    images, patients_of = counted(patients, labels)
    targets = _targets(images, patients_of, {"val": val} if test is None else {"val": val, "test": test})
    home = {patient: split for patient, split in (kept or {}).items() if patient in images}
    # Classes that are not in every split yet get new patients there.
    open_labels = {
        label
        for label, those in patients_of.items()
        if {home[patient] for patient in those if patient in home} < {*targets}
    }
    new_of = {
        label: [patient for patient in patients_of[label] if patient not in home] for label in open_labels
    }
    try:
        home |= cover(images, new_of, [*targets], seed)
    except NoCoverError as error:
        raise _too_few_patients(error.label, len(new_of[error.label]), [*targets]) from None
    _fill(images, home, targets, seed)
    return [home[patient] for patient in patients]


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


def _fill(images: Images, home: dict[str, str], targets: Mapping[str, Mapping[str, int]], seed: int) -> None:
    """Assign every other patient to the split that lacks most of the classes of its images. Changes ``home``."""
    left = {name: dict(targets[name]) for name in SPLITS if name in targets}
    for patient, name in home.items():
        for label, count in images[patient].items():
            left[name][label] -= count

    # Patients with many images first, while there is room; those with few then even out the rest.
    order = sorted(
        (patient for patient in images if patient not in home),
        key=lambda patient: (-images[patient].total(), draw(seed, "order", patient), patient),
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
        home[patient] = tied[draw(seed, "tie", patient) % len(tied)]
        for label, count in counts:
            left[home[patient]][label] -= count
