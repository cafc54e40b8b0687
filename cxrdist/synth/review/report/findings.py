"""What readers said, as the JSON value of the report: per reader, then between readers.

All figures are of decisions that stand; those taken back are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from cxrdist.synth.review.decision import label_of
from cxrdist.synth.review.decisions import ANSWERS, CONFIDENCES, TASKS, Decision, Reading, Task
from cxrdist.synth.review.statistics import (
    Figure,
    as_json,
    brier,
    calibration_error,
    cohen_kappa,
    fleiss_kappa,
    quartiles,
    rounded,
    share,
    stated,
)

FORMAT = "cxrdist-review-report/1"
ORIGINS = ("synthetic", "real")


def findings(
    reading: Reading, gates: dict[str, Any] | None, set_digests: Sequence[str] = ()
) -> dict[str, Any]:
    """``gates``: of ``compare_gates``; None without a set. ``set_digests``: of the set, its present one first. A
    missing number is null, with the reason beside it."""
    moments = [decision.moment for decision in reading.decisions]
    return {
        "format": FORMAT,
        "store": reading.meta,
        "set_digests": [*set_digests],
        "first": min(moments).isoformat(timespec="minutes"),
        "last": max(moments).isoformat(timespec="minutes"),
        "images": {
            task: {
                origin: len({d.key for d in reading.of(task) if d.origin == origin})
                for origin in ORIGINS[: len(ORIGINS) if task == "blinded" else 1]
            }
            for task in TASKS
        },
        "decisions": len(reading.decisions),
        "taken_back": len(reading.taken_back),
        "conclusions": conclusions(reading),
        "readers": [_reader(reading, name) for name in sorted({*reading.readers, *_taken_back_by(reading)})],
        "agreement": {task: _agreement(reading, task) for task in TASKS},
        "gates": gates,
    }


def conclusions(reading: Reading) -> list[str]:
    """What may be concluded, and what not."""
    readers, images = len(reading.readers), len({decision.key for decision in reading.decisions})
    return [
        f"{_number(readers, 'reader')} gave {_number(len(reading.decisions), 'decision')} on "
        f"{_number(images, 'image')}. The figures say how these readers judged these images.",
        "They do not say how other readers would judge: the intervals are over images, with the readers as they are, "
        "and treat the images of a patient as independent. With few readers and images they are wide, and what they "
        "do not show may still be there. Many figures are shown and none is corrected for their number, so a single "
        "one that stands out may be chance.",
        "An image that passes for real may still show wrong anatomy, lack the finding of its class, or copy a "
        "patient's image. Nothing here shows a benefit for training or for patients, and no clinical claim is made.",
    ]


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _taken_back_by(reading: Reading) -> set[str]:
    return {decision.reader for decision in reading.taken_back}


def _reader(reading: Reading, name: str) -> dict[str, Any]:
    by_task = {task: reading.of(task, name) for task in TASKS}
    taken_back = Counter(decision.task for decision in reading.taken_back if decision.reader == name)
    return {
        "name": name,
        "decisions": {task: len(found) for task, found in by_task.items()},
        "taken_back": {task: taken_back[task] for task in TASKS},
        "seconds": {
            task: as_json(quartiles([d.seconds for d in found if d.seconds is not None]))
            for task, found in by_task.items()
        },
        "blinded": _blinded(by_task["blinded"]) if by_task["blinded"] else None,
        "curate": _curate(by_task["curate"]) if by_task["curate"] else None,
    }


# ---- real or synthetic


def _blinded(decisions: Sequence[Decision]) -> dict[str, Any]:
    origins = Counter(decision.origin for decision in decisions)
    return {
        **_right(decisions),
        "always_one_answer": rounded(max(origins.values()) / len(decisions)),
        "classes": [
            {"class": name, **_right([d for d in decisions if d.class_name == name])}
            for name in _classes(decisions)
        ],
        "confidence": _calibration(decisions),
        "guesses": _guesses(decisions),
    }


def _right(decisions: Sequence[Decision]) -> dict[str, Any]:
    """Shares of right answers: of all images, and of those of each origin (the sensitivity for it)."""
    parts = {"right": decisions} | {o: [d for d in decisions if d.origin == o] for o in ORIGINS}
    return {
        name: as_json(share(sum(map(_is_right, part)), len(part), f"no {name} images"))
        for name, part in parts.items()
    }


def _is_right(decision: Decision) -> bool:
    return decision.answer == decision.origin


def _calibration(decisions: Sequence[Decision]) -> dict[str, Any]:
    rated = [(d.confidence, _is_right(d)) for d in decisions if d.confidence is not None]
    confidences, is_right = [c for c, _ in rated], [right for _, right in rated]
    of_level = {level: [right for c, right in rated if c == level] for level in CONFIDENCES}
    return {
        "n": len(rated),
        "levels": [
            {
                "confidence": level,
                "stated": stated(level),
                "right": as_json(share(sum(found), len(found), "never given")),
            }
            for level, found in of_level.items()
        ],
        "brier": rounded(brier(confidences, is_right)),
        "calibration_error": rounded(calibration_error(confidences, is_right)),
    }


def _guesses(decisions: Sequence[Decision]) -> dict[str, Any]:
    """The guessed class against the class, apart for real and synthetic images."""
    given = [d for d in decisions if d.guessed_class is not None]
    guessed = sorted({*_classes(decisions), *(str(d.guessed_class) for d in given)})
    return {
        "classes": guessed,
        "unanswered": len(decisions) - len(given),
        **{origin: _confusion([d for d in given if d.origin == origin], guessed) for origin in ORIGINS},
    }


def _confusion(decisions: Sequence[Decision], guessed: Sequence[str]) -> dict[str, Any]:
    pairs = Counter((d.class_name, str(d.guessed_class)) for d in decisions)
    right = sum(d.class_name == d.guessed_class for d in decisions)
    return {
        "right": as_json(share(right, len(decisions), "no class was guessed")),
        "rows": [
            {"class": name, "guessed": [pairs[name, guess] for guess in guessed]}
            for name in _classes(decisions)
        ],
    }


# ---- curation


def _curate(decisions: Sequence[Decision]) -> dict[str, Any]:
    labels = [(d.reason and label_of(d.reason), d.answer) for d in decisions if d.answer != "keep"]
    reasons, total = Counter(labels), Counter(label for label, _ in labels)
    return {
        **_shares(decisions),
        "classes": [
            {"class": name, **_shares([d for d in decisions if d.class_name == name])}
            for name in _classes(decisions)
        ],
        # The most frequent first, without the readers' own words; null: none was given.
        "reasons": [
            {"reason": reason, **{answer: reasons[reason, answer] for answer in ("remove", "unsure")}}
            for reason in sorted(total, key=lambda r: (-total[r], r is None, r or ""))
        ],
    }


def _shares(decisions: Sequence[Decision]) -> dict[str, Any]:
    answers = Counter(decision.answer for decision in decisions)
    return {answer: as_json(share(answers[answer], len(decisions))) for answer in ANSWERS["curate"]}


def _classes(decisions: Sequence[Decision]) -> list[str]:
    return sorted({decision.class_name for decision in decisions})


# ---- agreement


def _agreement(reading: Reading, task: Task) -> dict[str, Any]:
    """Cohen's kappa of each pair over the images that both read, Fleiss' over those that all read."""
    answers = {
        name: found
        for name in reading.readers
        if (found := {d.key: d.answer for d in reading.of(task, name)})
    }
    pairs = []
    for first, second in combinations(answers, 2):
        common = sorted({*answers[first]} & {*answers[second]})
        ours, theirs = ([answers[name][key] for key in common] for name in (first, second))
        same = sum(a == b for a, b in zip(ours, theirs, strict=True))
        pairs.append(
            {
                "readers": [first, second],
                "same": as_json(share(same, len(common), "no image in common")),
                "kappa": as_json(cohen_kappa(ours, theirs)),
            }
        )
    return {"pairs": pairs, "all": {"readers": list(answers), "kappa": as_json(_of_all(answers))}}


def _of_all(answers: dict[str, dict[str, str]]) -> Figure:
    if len(answers) < 2:
        return Figure(n=0, why="one reader only" if answers else "no reader")
    common = sorted(set.intersection(*({*found} for found in answers.values())))
    return fleiss_kappa([[found[key] for found in answers.values()] for key in common])
