"""Phantom radiographs as a source: computed, so that a whole study runs without any data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrdist.data.importers.common.base import Importer, Record
from cxrdist.data.shards.open import DEFAULT_SET
from cxrdist.errors import OptionError, check_choice
from cxrdist.phantom import CLASSES, describe, render
from cxrdist.phantom.anatomy import Stream, generator

# The paper's radiographs per class (Salehinejad et al. 2018).
_PAPER = {
    "Cardiomegaly": 17_098,
    "Normal": 15_781,
    "Pleural Effusion": 14_510,
    "Pulmonary Edema": 5_018,
    "Pneumothorax": 4_013,
}
# Share of patients with 1, 2, 3 and 4 studies, and of later studies that show what the first one showed.
_STUDIES = np.cumsum([0.74, 0.15, 0.07, 0.04])
_SAME_CLASS = 0.6
# The first additional patient of a split. Beyond all patients of --images, and independent of their number: sets of
# one seed have the same test images whatever the size of their train split.
_FIRST_ADDED = {"val": 1_000_000_000, "test": 2_000_000_000}


def class_counts(images: int) -> dict[str, int]:
    """``images`` over the five classes in the paper's proportions, by largest remainder: the sum is exact."""
    total = sum(_PAPER.values())
    counts = {name: images * count // total for name, count in _PAPER.items()}
    by_remainder = sorted(_PAPER, key=lambda name: -(images * _PAPER[name] % total))
    for name in by_remainder[: images - sum(counts.values())]:
        counts[name] += 1
    return counts


@dataclass(frozen=True, kw_only=True)
class Phantom(Importer):
    """Compute phantom radiographs of five classes, and write them to a shard set. They show no real patients."""

    seed: int = 0
    """Seed of the patients, and of the split by patient."""
    images: int = 1128
    """Images of all five classes together, in the paper's proportions, split by patient. With fewer --classes the
    images of the other classes are left out; those that remain do not change."""
    classes: tuple[str, ...] = CLASSES
    """Classes to keep, such as 'Normal,Pneumothorax'."""
    val_images: int | None = None
    """Validation images of each class, from additional patients with one image each. They replace the images of
    --images that are drawn into val; train is the same with and without this option. Excludes --val."""
    test_images: int | None = None
    """The same for test. Excludes --test."""

    name = "phantom"
    release = "cxrdist phantom 2"
    example = "cxrdist import phantom --out shards/phantom --size 64 --seed 0"
    is_phantom = True
    largest_size = 1024
    activity = "computing phantom radiographs"
    default_out = DEFAULT_SET

    def __post_init__(self) -> None:
        if self.images < 1:
            raise OptionError("images", f"must be 1 or more, not {self.images}")
        if self.seed < 0:
            raise OptionError("seed", f"must be 0 or more, not {self.seed}")
        for split, images in self._wanted.items():
            if images is not None and images < 1:
                raise OptionError(f"{split}_images", f"must be 1 or more, not {images}")
        if not self.classes:
            raise OptionError("classes", f"names none; choose among {', '.join(CLASSES)}")
        for wanted in self.classes:
            check_choice("classes", wanted, CLASSES)

    @property
    def _wanted(self) -> dict[str, int | None]:
        """Split -> additional images of each class; None for a split that is drawn."""
        return {"val": self.val_images, "test": self.test_images}

    @property
    def added_splits(self) -> tuple[str, ...]:
        return tuple(split for split, wanted in self._wanted.items() if wanted is not None)

    def source_options(self) -> dict[str, Any]:
        """Without the options of splits that are drawn, so that a set without them keeps its digest."""
        drawn = {f"{split}_images" for split, wanted in self._wanted.items() if wanted is None}
        return {name: value for name, value in super().source_options().items() if name not in drawn}

    def records(self) -> Iterator[Record]:
        """All records by patient, then study; patients of several studies may change class between them.

        The additional patients of ``added_splits`` come last, with one study each.
        """
        for patient, labels in enumerate(_patients(self.seed, self.images)):
            for study, label in enumerate(labels):
                if label in self.classes:
                    yield self._record(patient, study, label)
        for split in self.added_splits:
            for number in range(self._wanted[split] or 0):
                for i, label in enumerate(CLASSES):
                    if label in self.classes:
                        patient = _FIRST_ADDED[split] + number * len(CLASSES) + i
                        yield self._record(patient, 0, label, split)

    def _record(self, patient: int, study: int, label: str, split: str | None = None) -> Record:
        view, sex, age = describe(self.seed, patient, study, label)
        patient_id = f"phantom-{patient:06d}"
        return Record(
            source_id=f"{patient_id}-{study:03d}",
            patient_id=patient_id,
            label=label,
            split=split,
            view=view,
            sex=sex,
            age=age,
        )

    def pixels(self, record: Record, size: int, fit: str) -> np.ndarray:
        """[size, size] uint8, from the record's ids and class alone."""
        assert record.label is not None, record.source_id
        _, patient, study = record.source_id.split("-")
        return render(
            seed=self.seed, patient=int(patient), study=int(study), label=record.label, size=size
        ).pixels


def _patients(seed: int, images: int) -> list[list[str]]:
    """Each patient's classes, study by study; together exactly ``class_counts(images)``."""
    left = Counter(class_counts(images))
    draw = generator(seed, 0, 0, Stream.PATIENTS)
    how_many, first, same, other = draw.random((4, images))
    patients: list[list[str]] = []
    used = 0
    while used < images:
        studies = min(1 + int(np.searchsorted(_STUDIES, how_many[used])), images - used)
        labels: list[str] = []
        for _ in range(studies):
            again = labels and same[used] < _SAME_CLASS and left[labels[0]]
            label = labels[0] if again else _pick(left, other[used] if labels else first[used])
            left[label] -= 1
            labels.append(label)
            used += 1
        # Disease comes after health.
        patients.append(sorted(labels, key=lambda label: label != "Normal"))
    return patients


def _pick(left: Counter[str], share: float) -> str:
    """The class at ``share`` (0 to 1) of what is left of all classes."""
    at = int(share * left.total())
    for name, count in left.items():
        if at < count:
            return name
        at -= count
    raise AssertionError("nothing left")
