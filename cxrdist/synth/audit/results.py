"""Everything that an audit found, as the JSON value of audit.json: a function of the two sets and the options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.features.memorization import rounded
from cxrdist.synth.audit.chance import Calibrated, interval, most_by_chance
from cxrdist.synth.audit.measure import ClassAudit
from cxrdist.synth.audit.sets import Sets
from cxrdist.synth.audit.verdict import findings, notes
from cxrdist.synth.gates.judge import Judge

FORMAT = "cxrdist-audit/1"


def results(
    sets: Sets, made: Mapping[str, Any], classes: Mapping[str, ClassAudit], judge: Judge, images: int
) -> dict[str, Any]:
    """``made``: what the manifest says; ``images``: the most that were looked at of a class."""
    figures = {name: of.figures for name, of in classes.items()}
    found: dict[str, Any] = {
        "format": FORMAT,
        "synthetic": _named(sets.synthetic) | {"images": sum(of["images"] for of in figures.values())},
        "real": _named(sets.real)
        | {
            "is_phantom": bool(sets.real.manifest.provenance.is_phantom),
            "train": sum(sets.real.samples("train", name, "real") for name in sets.real.classes),
            "val": sum(sets.real.samples("val", name, "real") for name in sets.real.classes),
            "unlabelled": sets.real.unlabelled_samples,
        },
        "images_per_class": images,
        "gates": {"settings": str(judge.config), "classifiers": [*judge.classifiers]},
        "made": dict(made),
        "classes": figures,
        "overall": overall(figures),
    }
    found["findings"] = findings(found)
    found["notes"] = notes(found)
    found["must_look"] = bool(found["findings"])
    return found


def _named(shards: ShardSet) -> dict[str, Any]:
    return {"name": PurePosixPath(str(shards)).name, "digest": shards.digest}


def overall(classes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of all classes together. Images count equally, whatever their class."""
    of = list(classes.values())
    looked_at = sum(one["looked_at"] for one in of)
    copies = sum(one["copies"]["count"] for one in of)
    expected = sum(one["copies"]["null_rate"] * one["looked_at"] for one in of)
    duplicates = sum(one["duplicates"]["count"] for one in of)
    spaces = list(of[0]["overlap"])
    return {
        "images": sum(one["images"] for one in of),
        "looked_at": looked_at,
        "copies": {
            "count": copies,
            "rate": rounded(copies / looked_at),
            "interval": [rounded(end) for end in interval(copies, looked_at)],
            "null_rate": rounded(expected / looked_at),
            "most_by_chance": most_by_chance(_groups(classes), comparisons=len(classes) + 1),
            "very_close": sum(one["copies"]["very_close"] for one in of),
        },
        "duplicates": {"count": duplicates, "rate": rounded(duplicates / looked_at)},
        "overlap": {
            space: {
                part: _mean_overlap(one["overlap"][space][part] for one in of)
                for part in ("train", "val", "train_by_val")
            }
            for space in spaces
        },
        "labels": _labels([one["labels"] for one in of]),
        "gates": {
            "refused": sum(one["gates"]["refused"] for one in of),
            "of": looked_at,
            "val": _sums([one["gates"]["val"] for one in of], "refused"),
            "by_gate": {
                gate: {
                    "refused": sum(one["gates"]["by_gate"][gate]["refused"] for one in of),
                    "expected_rate": rounded(
                        sum(one["gates"]["by_gate"][gate]["expected_rate"] * one["looked_at"] for one in of)
                        / looked_at
                    ),
                }
                for gate in of[0]["gates"]["by_gate"]
            },
        },
    }


def _groups(classes: Mapping[str, Mapping[str, Any]]) -> list[Calibrated]:
    """Classes with a threshold of their own, and all that share the pooled one as one group."""
    images: Counter[tuple[str, int, int]] = Counter()
    for name, of in classes.items():
        copies = of["copies"]
        images["" if copies["pooled"] else name, copies["rank"], copies["calibrated_on"]] += of["looked_at"]
    return [Calibrated(count, rank, calibrated_on) for (_, rank, calibrated_on), count in images.items()]


def _mean_overlap(of: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The mean over real images; each is compared with synthetic ones of its class."""
    known = [one for one in of if one is not None]
    total = sum(one["real"] for one in known)
    if not total:
        return None
    found: dict[str, Any] = {
        name: rounded(sum(one[name] * one["real"] for one in known) / total)
        for name in ("coverage", "expected_coverage", "recall")
    }
    return found | {name: sum(one[name] for one in known) for name in ("covered", "real", "covering")}


def _labels(of: list[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    known = [one for one in of if one is not None]
    if not known:
        return None
    return {part: _sums([one[part] for one in known], "count") for part in ("synthetic", "val")}


def _sums(of: list[Mapping[str, Any] | None], name: str) -> dict[str, Any] | None:
    """Counts ``name`` and ``of``, and their ratio."""
    known = [one for one in of if one is not None]
    if not known:
        return None
    count, total = sum(one[name] for one in known), sum(one["of"] for one in known)
    return {name: count, "of": total, "rate": rounded(count / total)}
