"""A few patients of every class to each split or fold, so that none lacks a class."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

import xxhash

Images = Mapping[str, Counter[str]]
"""Patient -> class -> images."""

Home = TypeVar("Home")
"""Where a patient goes: a split by its name, or a fold by its number."""

COVER_ATTEMPTS = 64


class NoCoverError(Exception):
    """The patients of a class were not enough to give one to each split or fold."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.label = label


def counted(patients: Sequence[str], labels: Sequence[str]) -> tuple[Images, dict[str, list[str]]]:
    """The images of each patient by class, and the patients of each class."""
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
    return images, patients_of


def cover(
    images: Images, patients_of: Mapping[str, Sequence[str]], splits: Sequence[Home], seed: int
) -> dict[str, Home]:
    """Patient -> split (or fold) for a few patients, so that every class has one in each split.

    Classes with few patients are assigned first. If a class has too few left, because others have its patients, all
    are assigned again in random order, by which any solution can be reached. Raises NoCoverError if none is found.
    """
    labels = sorted(patients_of, key=lambda label: (len(patients_of[label]), label))
    stuck: list[str] = []
    for attempt in range(COVER_ATTEMPTS):
        home: dict[str, Home] = {}

        def choice(patient: str, attempt: int = attempt) -> tuple[int, int, int, str]:
            # Patients with few images first: one with many would exceed the val and test targets of its classes.
            size = (images[patient].total(), len(images[patient])) if attempt == 0 else (0, 0)
            return (*size, draw(seed, f"cover {attempt}", patient), patient)

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
    raise NoCoverError(stuck[0])


def draw(seed: int, purpose: str, patient: str) -> int:
    """A random 64-bit number of the patient, independent of all other patients."""
    return xxhash.xxh3_64_intdigest(f"{seed}/{purpose}/{patient}".encode())
