"""Patients to the folds of a cross-validation: disjoint, stratified by class, independent of their order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from cxrdist.data.ingest.splits.cover import Images, NoCoverError, counted, cover, draw
from cxrdist.errors import UserError

FEWEST_FOLDS = 3
"""One each for test, val and train."""


def fold_split(
    patients: Sequence[str], labels: Sequence[str], *, folds: int, fold: int, seed: int
) -> list[str]:
    """The split of each image in one round of a cross-validation: ``fold`` is test, the next one val, all others are
    train.

    See ``deal_folds``; ``folds`` rounds of one seed have disjoint tests, which together are all images.
    """
    assert folds >= FEWEST_FOLDS and 0 <= fold < folds
    names = {fold: "test", (fold + 1) % folds: "val"}
    return [names.get(dealt, "train") for dealt in deal_folds(patients, labels, folds=folds, seed=seed)]


def deal_folds(patients: Sequence[str], labels: Sequence[str], *, folds: int, seed: int) -> list[int]:
    """The fold (0 to ``folds`` - 1) of each image, given its patient and its class.

    All images of a patient are in one fold, and every fold has a patient of each class. Patients and images of each
    class are spread evenly: with one image each, two folds differ by at most one patient of a class; otherwise both
    are as even as a greedy choice makes them, the heaviest patients of the rarest classes first (in the spirit of
    iterative stratification: Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011). A pure function of the seed and the
    set of images, independent of their order. Raises UserError, naming the class, if there is no such dealing.
    """
    images, patients_of = counted(patients, labels)
    home = _deal(images, patients_of, {}, folds, seed)
    if any(len({home[patient] for patient in patients_of[label]}) < folds for label in patients_of):
        try:
            start = cover(images, patients_of, range(folds), seed)
        except NoCoverError as error:
            raise _too_many_folds(images, patients_of, folds, seed, error.label) from None
        home = _deal(images, patients_of, start, folds, seed)
    return [home[patient] for patient in patients]


def _too_many_folds(
    images: Images, patients_of: Mapping[str, Sequence[str]], folds: int, seed: int, stuck: str
) -> UserError:
    """The error of a class that cannot give each fold a patient, with the largest number of folds that works."""
    rarest = min(patients_of, key=lambda label: (len(patients_of[label]), label))
    fewest = len(patients_of[rarest])
    label, why = (rarest, "") if fewest < folds else (stuck, ", some of whom other classes need")
    works = "no number of folds works"
    for fewer in range(min(fewest, folds - 1), FEWEST_FOLDS - 1, -1):
        try:
            cover(images, patients_of, range(fewer), seed)
        except NoCoverError:
            continue
        works = f"at most --folds {fewer} works"
        break
    count = len(patients_of[label])
    return UserError(
        f"{label} has {count} patient{'' if count == 1 else 's'}{why}, too few to give each of {folds} folds one: "
        f"{works}; or leave the class out with --classes, or merge sources"
    )


def _deal(
    images: Images,
    patients_of: Mapping[str, Sequence[str]],
    start: Mapping[str, int],
    folds: int,
    seed: int,
) -> dict[str, int]:
    """Patient -> fold for all patients, those of ``start`` as they are there.

    Each patient goes where the shares of its classes grow least uneven: to the fold with the smallest increase of the
    sum of squares of (patients in the fold / patients of the class) and of the same for images.
    """
    images_of = Counter[str]()
    for counts in images.values():
        images_of.update(counts)
    home: dict[str, int] = {}
    has_patients = [Counter[str]() for _ in range(folds)]
    has_images = [Counter[str]() for _ in range(folds)]

    def put(patient: str, fold: int) -> None:
        home[patient] = fold
        has_patients[fold].update(images[patient].keys())
        has_images[fold].update(images[patient])

    def weight(patient: str) -> float:
        return max(count / images_of[label] for label, count in images[patient].items())

    for patient, fold in start.items():
        put(patient, fold)
    # Large patients of rare classes first: those that weigh little then even out the shares.
    order = sorted(
        (patient for patient in images if patient not in home),
        key=lambda patient: (-weight(patient), draw(seed, "order", patient), patient),
    )
    for patient in order:
        increases = [
            (
                # fsum: the sum must not depend on the order of the patient's images.
                math.fsum(
                    (2 * has_patients[fold][label] + 1) / len(patients_of[label]) ** 2
                    + count * (2 * has_images[fold][label] + count) / images_of[label] ** 2
                    for label, count in images[patient].items()
                ),
                has_images[fold].total(),
            )
            for fold in range(folds)
        ]
        least = min(increases)
        tied = [fold for fold in range(folds) if increases[fold] == least]
        put(patient, tied[draw(seed, "tie", patient) % len(tied)])
    return home
