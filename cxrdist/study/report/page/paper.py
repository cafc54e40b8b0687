"""The paper's Table 1 beside ours, for DS1, DS2 and DS3."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cxrdist.study.report.page.words import NONE
from cxrdist.study.report.reading.runs import PAPER_MIXES, ClsRun, Study, number

PAPER = (
    "Salehinejad, Valaee, Dowdell, Colak, Barfett: Generalization of Deep Neural Networks for Chest "
    "Pathology Classification in X-rays Using Generative Adversarial Networks. ICASSP 2018 (arXiv 1712.01636)"
)
PAPER_TABLE_1 = {
    "Cardiomegaly": {"DS1": 79.15, "DS2": 71.73, "DS3": 95.31},
    "Normal": {"DS1": 77.75, "DS2": 72.53, "DS3": 95.02},
    "Pleural Effusion": {"DS1": 73.64, "DS2": 51.23, "DS3": 91.19},
    "Pulmonary Edema": {"DS1": 65.86, "DS2": 50.12, "DS3": 89.68},
    "Pneumothorax": {"DS1": 57.99, "DS2": 48.92, "DS3": 88.84},
    "Total": {"DS1": 70.87, "DS2": 58.90, "DS3": 92.10},
}
"""Accuracy in % by class and mix: Table 1 of the paper. Its classes average 92.01 for DS3, not 92.10."""
PAPER_TOTAL_STD = {"DS1": 0.47, "DS2": 0.48, "DS3": 0.41}
"""The ± of the paper's Total, in points."""

_TIE = 1e-9  # means of the same fractions, summed in another order


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One mix in one row: percent, or a score from 0 to 1 if ``is_score``. None: no value."""

    mix: str
    paper: float | None
    paper_std: float | None
    ours: float | None
    ours_std: float | None
    """Sample standard deviation over runs; None with a single run."""
    is_score: bool = False
    is_best: bool = False

    @property
    def paper_text(self) -> str:
        if self.paper is None:
            return NONE
        return f"{self.paper:.2f}" + (f" ± {self.paper_std:.2f}" if self.paper_std is not None else "")

    @property
    def ours_text(self) -> str:
        if self.ours is None:
            return NONE
        digits = 3 if self.is_score else 1
        std = f" ± {self.ours_std:.{digits}f}" if self.ours_std is not None else ""
        return f"{self.ours:.{digits}f}{std}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A class, or one of the metrics over all classes."""

    name: str
    is_class: bool
    n: int
    """Number of test images."""
    cells: tuple[Cell, ...]
    """One per mix of ``PAPER_MIXES``, whether it was run or not."""

    def ours(self, mix: str) -> float | None:
        return next((cell.ours for cell in self.cells if cell.mix == mix), None)


def rows(study: Study) -> list[Row]:
    """Table 1 on test, mean over runs: recall by class, Total (accuracy), balanced accuracy, macro AUROC.

    Empty if none of the three mixes was run.
    """
    if not any(mix in study.arms for mix in PAPER_MIXES):
        return []
    counts = test_counts(study)
    total = sum(counts.values())
    table = []
    for name, n in counts.items():
        table.append(_row(study, name, n, partial(_recall, name), is_class=True))
    table.append(_row(study, "Total", total, lambda m: m["accuracy"]))
    table.append(_row(study, "Balanced accuracy", total, lambda m: m["balanced_accuracy"]))
    table.append(_row(study, "Macro AUROC", total, lambda m: m["macro_auroc"], is_score=True))
    return table


def _recall(name: str, metrics: dict[str, Any]) -> object:
    return metrics["per_class"].get(name)


def test_counts(study: Study) -> dict[str, int]:
    """Test images per class, summed over folds: the same for all runs on a fold, which read the same real set."""
    of_fold = {run.fold: run.test["n"] for run in study.cls}
    return {name: sum(int(n.get(name, 0)) for n in of_fold.values()) for name in study.classes}


def _row(
    study: Study,
    name: str,
    n: int,
    pick: Callable[[dict[str, Any]], object],
    *,
    is_class: bool = False,
    is_score: bool = False,
) -> Row:
    ours = {mix: _mean_std([pick(run.test) for run in study.of(mix)], is_score) for mix in PAPER_MIXES}
    means = [mean for mean, _ in ours.values() if mean is not None]
    # If all mixes are equal, there is no best one.
    best = max(means) if len(means) > 1 and max(means) - min(means) > _TIE else math.inf
    cells = []
    for mix, (mean, std) in ours.items():
        cells.append(
            Cell(
                mix=mix,
                paper=PAPER_TABLE_1.get(name, {}).get(mix),
                paper_std=PAPER_TOTAL_STD.get(mix) if name == "Total" else None,
                ours=mean,
                ours_std=std,
                is_score=is_score,
                is_best=mean is not None and mean >= best - _TIE,
            )
        )
    return Row(name=name, is_class=is_class, n=n, cells=tuple(cells))


def _mean_std(values: Sequence[object], is_score: bool) -> tuple[float | None, float | None]:
    scale = 1.0 if is_score else 100.0
    known = [scale * v for v in map(number, values) if v is not None]
    if not known:
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def one_image(study: Study) -> tuple[float, float, float]:
    """Weight of one test image in points: smallest and largest in a class, and in Total."""
    counts = [n for n in test_counts(study).values() if n]
    return 100 / max(counts), 100 / min(counts), 100 / sum(counts)


def epoch_images(run: ClsRun) -> tuple[int, int]:
    """Real and synthetic images in one epoch of the run's mix."""
    quotas = run.summary["counts"].values()
    return sum(q.get("real", 0) for q in quotas), sum(q.get("synthetic", 0) for q in quotas)
