"""What a run's summary keeps of its predictions on a split."""

from __future__ import annotations

from typing import Any

from cxrdist.metrics.bootstrap import REPLICATES, Resamples, intervals
from cxrdist.metrics.classification import metrics_of
from cxrdist.metrics.predictions import Predictions
from cxrdist.metrics.subgroups import by_subgroup


def evidence_of(predictions: Predictions, seed: int, replicates: int = REPLICATES) -> dict[str, Any]:
    """``metrics_of``, with ``intervals`` (95 %, by patients), ``subgroups``, and the numbers of ``patients`` and
    ``replicates`` that the intervals are from. An image of an unknown patient counts as a patient."""
    resamples = Resamples.of(predictions, seed=seed, replicates=replicates)
    return {
        **metrics_of(predictions),
        "intervals": intervals(predictions, resamples),
        "subgroups": by_subgroup(predictions),
        "patients": len(resamples.patients),
        "replicates": replicates,
    }
