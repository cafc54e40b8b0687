"""The decisions of a reading, as what a review removes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cxrdist.errors import UserError
from cxrdist.synth.review.decision import Given
from cxrdist.synth.review.decisions import read_decisions


def read_stored(path: Path, digests: Sequence[str]) -> list[Given]:
    """The decisions on images that were shown for curation, without those that were taken back, from the store of
    ``cxrdist review serve``.

    ``digests``: of the set, the present one first. Raises UserError for a file that is no such store, and for
    decisions on another set.
    """
    reading = read_decisions(path)
    read = reading.meta["synthetic_digest"]
    if read is not None and read not in digests:
        raise UserError(
            f"{path}: holds decisions on another set ({read[:12]}) than this one ({digests[0][:12]}): name the set "
            "that was read"
        )
    return [
        Given(
            where=f"decision {decision.id}",
            key=decision.key,
            decision=decision.answer,
            reviewer=decision.reader,
            reason=decision.reason or "",
            time=decision.time,
        )
        for decision in reading.of("curate")
    ]
