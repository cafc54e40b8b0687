"""Metrics of a classifier for many weightings of its images at once: all once, or as often as a resample draws them.

One implementation gives the metrics of a split and of its resamples, so an interval is of the very metric that is
reported. torchmetrics and scikit-learn take one weight per image at most, which is a thousand passes for a bootstrap;
the tests compare with both.

A group is what is drawn together: a patient's images. Sums over images are products of a sparse matrix [sums, groups]
and the counts [groups, R], so weights [images, R] are never made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from cxrdist.metrics.predictions import Predictions

PER_CLASS = ("per_class", "precision", "f1", "auroc", "auprc")
"""Metrics with a value per class; ``per_class`` is the recall."""
RECALLS = ("accuracy", "balanced_accuracy", "per_class")
"""Metrics that follow from the predicted classes of the images of each class."""
CALIBRATION_BINS = 15


class WeightedMetrics:
    """The metrics of predictions as a function of how often each group is drawn.

    ``group`` [N] int64: of each image, below ``groups``. ``only_recalls``: only the metrics of ``RECALLS``, which
    take a tenth of the time.
    """

    def __init__(
        self, predictions: Predictions, group: np.ndarray, groups: int, *, only_recalls: bool = False
    ) -> None:
        labels, probabilities = predictions.labels, predictions.probabilities
        self.classes = len(predictions.classes)
        chosen = probabilities.argmax(1)  # of equal ones the first
        exact = probabilities.astype(np.float64)
        missed = exact - np.eye(self.classes)[labels]
        confidence = probabilities.max(1, initial=0)
        # Inner edges in float32, as the confidences are: else 0.2 would not lie on the edge 3/15.
        edges = (np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS).astype(np.float32)

        def sums(number: np.ndarray, count: int, values: np.ndarray | None = None) -> csr_array:
            """[count, groups]: of values [N] (else of images), by number [N] and group."""
            data = np.ones(len(number)) if values is None else values
            return csr_array((data, (number, group)), shape=(count, groups))

        self.only_recalls = only_recalls
        self.confusion = sums(labels * self.classes + chosen, self.classes**2)
        if only_recalls:
            return
        self.overconfidence = sums(
            np.searchsorted(edges, confidence),
            CALIBRATION_BINS,
            confidence.astype(np.float64) - (chosen == labels),
        )
        self.brier = sums(np.zeros(len(labels), np.int64), 1, (missed**2).sum(1))
        self.rankings = []
        for label in range(self.classes):
            segment, count = _segments(probabilities[:, label], labels == label)
            positives = sums(segment, count, (labels == label).astype(np.float64))
            self.rankings.append(Ranking(sums(segment, count), positives))

    def __call__(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """counts [groups, R] float64 -> metrics, float64: [R, classes] for those in ``PER_CLASS``, else [R].

        NaN if undefined: all metrics if no image is drawn, all metrics of a class of which no image is drawn, the
        AUROC of a class if all images are of it, and the precision of a class that is never predicted. Means over
        classes leave NaN out.
        """
        confusion = (self.confusion @ counts).reshape(self.classes, self.classes, -1)  # true, predicted, R
        hits, images, predicted = np.einsum("kkr->kr", confusion), confusion.sum(1), confusion.sum(0)
        total = images.sum(0)
        recall = _ratio(hits, images)
        recalls = {
            "accuracy": _ratio(hits.sum(0), total),
            "balanced_accuracy": mean_known(recall),
            "per_class": recall.T,
        }
        if self.only_recalls:
            return recalls
        precision = np.where(images > 0, _ratio(hits, predicted), np.nan)
        f1 = np.where(images > 0, _ratio(2 * hits, images + predicted), np.nan)
        areas = [ranking.areas(counts) for ranking in self.rankings]
        auroc = np.array([roc for roc, _ in areas])
        auprc = np.array([pr for _, pr in areas])
        by_class = dict(zip(PER_CLASS[1:], (precision, f1, auroc, auprc)))
        return {
            **recalls,
            "macro_f1": mean_known(f1),
            "macro_auroc": mean_known(auroc),
            "macro_auprc": mean_known(auprc),
            "ece": _ratio(np.abs(self.overconfidence @ counts).sum(0), total),
            "brier": _ratio((self.brier @ counts)[0], total),
            **{name: values.T for name, values in by_class.items()},
        }


@dataclass(frozen=True)
class Ranking:
    """One class against the rest: images and positives [segments, groups], by segments of falling probability."""

    images: csr_array
    positives: csr_array

    def areas(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """counts [groups, R] -> AUROC [R] and average precision [R], as scikit-learn defines them.

        AUROC: the share of pairs of a positive and a negative image in which the positive one has the higher
        probability; ties count half. Average precision: at the probability of each positive, the precision of all
        images at least as probable; the mean over positives.
        """
        at, hits = self.images @ counts, self.positives @ counts
        above, found = np.cumsum(at, axis=0), np.cumsum(hits, axis=0)  # with the segment itself
        positives = hits.sum(0)
        negatives = at.sum(0) - positives
        # Twice the negatives above the segment, and once those in it.
        twice_above = 2 * (above - found) - (at - hits)
        won = (hits * (2 * negatives - twice_above)).sum(0)
        precision = (hits * found / np.maximum(above, 1)).sum(0)
        return _ratio(won, 2 * positives * negatives), _ratio(precision, positives)


def mean_known(values: np.ndarray) -> np.ndarray:
    """[classes, R] -> [R]: the mean over classes without NaN; NaN if there is none."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(0), known.sum(0))


def _segments(scores: np.ndarray, is_positive: np.ndarray) -> tuple[np.ndarray, int]:
    """Segment [N] int64 of each image, and their number.

    Images of equal score are in one segment. Between two scores that positives have, all negatives are in one segment
    too, since their order changes neither area. So a rare class has few segments.
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    is_first = np.ones(len(scores), bool)
    is_first[1:] = falling[1:] != falling[:-1]
    tie = np.cumsum(is_first) - 1
    has_positive = np.bincount(tie, weights=is_positive[order])[tie] > 0
    starts = is_first & (has_positive | np.roll(has_positive, 1))
    starts[:1] = True
    segment = np.empty(len(scores), np.int64)
    segment[order] = np.cumsum(starts) - 1
    return segment, max(1, int(starts.sum()))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The quotient; NaN where the divisor is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
