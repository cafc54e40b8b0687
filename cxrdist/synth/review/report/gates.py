"""Do the readers remove what the gates of a synthesis score? The scores of kept and of removed images, compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.synth.review.decisions import Reading
from cxrdist.synth.review.statistics import as_json, roc_auc

Scores = Mapping[str, Mapping[str, float]]
"""Key of an image -> gate -> score."""


def read_scores(shards: ShardSet, reading: Reading) -> dict[str, dict[str, float]]:
    """The scores of the curated images, from the metadata of the set that was read.

    Raises UserError if the set is another one, or lacks one of the images.
    """
    asked = reading.meta["synthetic_digest"]
    if asked not in (shards.digest, *shards.manifest.earlier_digests):
        raise UserError(
            f"{shards} is not the set that was read: its digest is {shards.digest[:12]}, that of the store "
            f"{(asked or 'missing')[:12]}; give --set the set that was read"
        )
    wanted = {decision.key.encode() for decision in reading.of("curate")}
    scores: dict[str, dict[str, float]] = {}
    for stratum in shards.strata:
        if stratum.origin != "synthetic":
            continue
        reader = shards.stratum(stratum.split, stratum.class_name, stratum.origin)
        for shard in range(len(reader.shards)):
            # Also of images that were removed since, perhaps because of this reading.
            if wanted.isdisjoint(reader.whole_index(shard)["key"].tolist()):
                continue
            for sample in reader.whole(shard, with_removed=True):
                if sample.key.encode() in wanted:
                    scores[sample.key] = _numbers(sample.meta.get("scores"))
    if missing := sorted({key.decode() for key in wanted} - {*scores}):
        raise UserError(
            f"{shards} has no image {missing[0]}, one of {len(missing)} that a reader has curated"
        )
    return scores


def _numbers(found: object) -> dict[str, float]:
    pairs = found.items() if isinstance(found, dict) else ()
    return {
        str(gate): float(score)
        for gate, score in pairs
        if isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
    }


def compare_gates(reading: Reading, scores: Scores) -> dict[str, Any]:
    """For each gate, of each reader and of all together: images kept and removed, and the ROC AUC of the score.

    Images that a reader is unsure of count for neither. Of all readers together: images that more of them keep than
    remove, or the other way round. JSON values.
    """
    gates = sorted({gate for found in scores.values() for gate in found})
    by_reader = {
        name: {d.key: d.answer for d in reading.of("curate", name)}
        for name in reading.readers
        if reading.of("curate", name)
    }
    asked: list[tuple[str | None, dict[str, str]]] = [*by_reader.items()]
    if len(by_reader) > 1:
        asked.append((None, _majority(reading)))
    return {
        "gates": gates,
        "without_scores": sum(not found for found in scores.values()),
        "rows": [_row(name, gate, answers, scores) for gate in gates for name, answers in asked],
    }


def _majority(reading: Reading) -> dict[str, str]:
    votes: Counter[str] = Counter()
    for decision in reading.of("curate"):
        votes[decision.key] += {"keep": 1, "remove": -1, "unsure": 0}[decision.answer]
    return {key: "keep" if vote > 0 else "remove" for key, vote in votes.items() if vote}


def _row(reader: str | None, gate: str, answers: Mapping[str, str], scores: Scores) -> dict[str, Any]:
    of_answer = {
        answer: [scores[key][gate] for key, a in answers.items() if a == answer and gate in scores[key]]
        for answer in ("keep", "remove")
    }
    return {
        "reader": reader,
        "gate": gate,
        "kept": len(of_answer["keep"]),
        "removed": len(of_answer["remove"]),
        "auc": as_json(roc_auc(of_answer["remove"], of_answer["keep"])),
    }
