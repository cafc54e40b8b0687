"""The tracker that does nothing: the interface of ``WandbTracker``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.run.tracking.metrics_file import Row


class NoTracker:
    """For other ranks, and if tracking is off: callers need not check either."""

    is_on = False
    """Whether anything is logged; for callers that would read images only for it."""

    def replay(self, rows: Iterable[Row]) -> None:
        """Rows that an earlier process of this run logged, from its start. Those that W&B lost are logged again.
        Called before anything is logged."""

    def log(self, images: int, values: Mapping[str, Any]) -> None:
        """Metrics at a number of images seen."""

    def picture(self, images: int, name: str, path: Path) -> None:
        """An image file; it is logged with the next row, which must be of the same number of images."""

    def confusion(
        self, name: str, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
    ) -> None:
        """A confusion matrix. ``labels`` [N] int, ``probabilities`` [N, C] float."""

    def pr_curves(
        self, name: str, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
    ) -> None:
        """The precision-recall curve of each class against the others. ``labels`` [N] int, ``probabilities`` [N, C]
        float."""

    def prediction_table(
        self,
        name: str,
        rows: Sequence[Mapping[str, Any]],
        thumbnails: np.ndarray | None = None,
        *,
        is_phantom: bool = False,
    ) -> None:
        """A table of predictions, one row per image, with the columns of the first row. ``thumbnails`` [N, H, W]
        uint8: left out for real films unless ``--tracking.thumbnails`` is set. Raises ValueError for a column
        ``patient``: it must not leave the machine."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table of plain values, with the columns of the first row. Raises ValueError for a column ``patient``."""

    def chart(self, name: str, path: Path) -> None:
        """An image file that belongs to the end of a run, such as a chart of its results."""

    def use_artifact(self, kind: str, digest: str, name: str) -> None:
        """This job has read what has the SHA-256 ``digest``, such as a shard set. ``kind``: real-set, gan,
        synthetic-set, classifier or study."""

    def log_artifact(self, kind: str, digest: str, name: str) -> None:
        """This job has made what has the SHA-256 ``digest``, from all that it used."""

    def interrupt(self, exit_code: int) -> None:
        """A signal stopped the job, which may resume: end the W&B run without a summary, as preempted."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the job's summary (figures.flat_summary), and end the W&B run."""
