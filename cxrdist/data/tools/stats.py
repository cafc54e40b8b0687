"""Statistics of a set by class: grey values, views, sex, age and patients, read from every sample.

Grey values are counted in 256 bins, which is exact: mean, deviation and percentiles follow from the counts, and the
order of reading does not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cxrdist.console import Progress
from cxrdist.data.shards.schema import ORIGINS, SPLITS
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.stratum import StratumReader
from cxrdist.data.shards.tar import Sample
from cxrdist.data.tools.confounding import Association, age_group, association
from cxrdist.process import available_cores

GREY_VALUES = 256
PERCENTILES = (5, 50, 95)
QUARTILES = (25, 50, 75)


@dataclass
class Tally:
    """Counts over some samples."""

    images: int = 0
    patients: set[str] = field(default_factory=set)
    grey: np.ndarray = field(default_factory=lambda: np.zeros(GREY_VALUES, np.int64))
    """[256] int64: pixels of each value."""
    views: Counter[str] = field(default_factory=Counter)
    """Images of each known view."""
    sexes: Counter[str] = field(default_factory=Counter)
    ages: Counter[float] = field(default_factory=Counter)
    """Images of each age, in years."""

    def add(self, sample: Sample, pixels: np.ndarray) -> None:
        """``pixels``: [H, W] uint8."""
        self.images += 1
        self.grey += np.bincount(pixels.ravel(), minlength=GREY_VALUES)
        patient, view, sex, age = (sample.meta.get(name) for name in ("patient", "view", "sex", "age"))
        if patient:
            self.patients.add(str(patient))
        if view:
            self.views[str(view)] += 1
        if sex:
            self.sexes[str(sex)] += 1
        if isinstance(age, int | float) and age >= 0:
            self.ages[age] += 1

    def merge(self, other: Tally) -> None:
        self.images += other.images
        self.patients |= other.patients
        self.grey += other.grey
        self.views += other.views
        self.sexes += other.sexes
        self.ages += other.ages


@dataclass(frozen=True, kw_only=True)
class Stats:
    """The tallies of a set, and the attributes that predict its classes."""

    shards: ShardSet
    tallies: dict[tuple[str, str], dict[str, Tally]]
    """{(class, origin): {split: tally}}, in the set's order."""
    associations: list[Association]
    """Of the real images."""
    unlabelled: Tally | None = None
    """Of the images without a class."""

    @property
    def warnings(self) -> list[str]:
        return [a.warning for a in self.associations if a.is_confound]


def stats(place: str) -> Stats:
    """Read a whole set. Raises UserError, naming shard and key, if it is not as it was written."""
    shards = ShardSet(place)
    order = [(name, origin) for name in shards.classes for origin in ORIGINS]
    tallies: dict[tuple[str, str], dict[str, Tally]] = {}
    for split in SPLITS:
        for name, origin in order:
            if shards.samples(split, name, origin):
                tallies.setdefault((name, origin), {})[split] = Tally()
    unlabelled = Tally() if shards.unlabelled_samples else None
    tasks = [
        (stratum, reader, shard)
        for stratum in shards.strata
        for reader in [shards.stratum(stratum.split, stratum.class_name, stratum.origin)]
        for shard in range(len(reader.shards))
    ]
    total = sum(int(reader.shard_samples[shard]) for _, reader, shard in tasks)
    # Hashing and decoding release the interpreter lock.
    with ThreadPoolExecutor(available_cores()) as pool, Progress(f"stats {shards}", total) as progress:
        for (stratum, _, _), tally in zip(tasks, pool.map(lambda task: tally_of(*task[1:]), tasks)):
            of_class = tallies.get((stratum.class_name, stratum.origin))
            total_of = unlabelled if of_class is None else of_class[stratum.split]
            assert total_of is not None
            total_of.merge(tally)
            progress.advance(tally.images)
    return Stats(
        shards=shards,
        tallies={key: tallies[key] for key in order if key in tallies},
        associations=associations(tallies),
        unlabelled=unlabelled,
    )


def tally_of(reader: StratumReader, shard: int) -> Tally:
    tally = Tally()
    for sample in reader.whole(shard):
        tally.add(sample, reader.decoded(sample, reader.shards.names[shard]))
    return tally


def together(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    return total


def associations(tallies: dict[tuple[str, str], dict[str, Tally]]) -> list[Association]:
    """Of the real images whose view, sex or age is known."""
    real = {name: together(splits.values()) for (name, origin), splits in tallies.items() if origin == "real"}
    tables = {
        "view": {name: dict(tally.views) for name, tally in real.items()},
        "sex": {name: dict(tally.sexes) for name, tally in real.items()},
        "age": {name: age_groups(tally.ages) for name, tally in real.items()},
    }
    found = (association(about, table) for about, table in tables.items())
    return [a for a in found if a is not None]


def age_groups(ages: Counter[float]) -> dict[str, int]:
    groups: Counter[str] = Counter()
    for age, images in ages.items():
        groups[age_group(age)] += images
    return dict(groups)


# ---- figures of a tally


def percentile(counts: dict[float, int], q: float) -> float:
    """The smallest value that ``q`` percent or more do not exceed (``inverted_cdf`` of ``numpy.percentile``)."""
    values = sorted(counts)
    ends = np.cumsum([counts[v] for v in values])
    # Whole numbers: a share such as 0.95 * n may round to the wrong side of a count.
    return values[int(np.searchsorted(100 * ends, q * int(ends[-1]), side="left"))]


def grey_figures(tally: Tally) -> dict[str, float]:
    """Mean, deviation and percentiles of all pixels, in grey values 0..255, and the shares at both ends."""
    pixels = int(tally.grey.sum())
    values = np.arange(GREY_VALUES)
    total, squares = (int((tally.grey * values**power).sum()) for power in (1, 2))
    mean = total / pixels
    counts = {float(v): int(n) for v, n in enumerate(tally.grey) if n}
    return {
        "mean": round(mean, 3),
        "std": round(max(squares / pixels - mean**2, 0.0) ** 0.5, 3),
        **{f"p{q}": percentile(counts, q) for q in PERCENTILES},
        "black": round(int(tally.grey[0]) / pixels, 5),
        "saturated": round(int(tally.grey[-1]) / pixels, 5),
    }


def age_figures(ages: Counter[float]) -> dict[str, float] | None:
    """Mean, range and quartiles over images, in years; None where no age is known."""
    images = sum(ages.values())
    if not images:
        return None
    low, median, high = (percentile(ages, q) for q in QUARTILES)
    return {
        "mean": round(sum(age * n for age, n in ages.items()) / images, 2),
        "min": min(ages),
        "lower_quartile": low,
        "median": median,
        "upper_quartile": high,
        "max": max(ages),
    }


def figures(tally: Tally) -> dict[str, Any]:
    def known(counts: Counter[str]) -> dict[str, int]:
        unknown = tally.images - sum(counts.values())
        return dict(sorted(counts.items())) | ({"unknown": unknown} if unknown else {})

    return {
        "images": tally.images,
        "patients": len(tally.patients),
        "grey": grey_figures(tally),
        "views": known(tally.views),
        "sexes": known(tally.sexes),
        "ages": age_figures(tally.ages),
    }


def as_json(found: Stats) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "digest": found.shards.digest,
        "classes": [
            {
                "class": name,
                "origin": origin,
                **figures(together(splits.values())),
                "splits": {split: figures(tally) for split, tally in splits.items()},
            }
            for (name, origin), splits in found.tallies.items()
        ],
        **({} if found.unlabelled is None else {"unlabelled": figures(found.unlabelled)}),
        "associations": [asdict(a) | {"is_confound": a.is_confound} for a in found.associations],
        "warnings": found.warnings,
    }
