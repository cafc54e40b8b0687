"""The sentences of the report, all computed from the runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cxrdist.study.collect import ClsRun, GanRun, Study, relative
from cxrdist.study.tables import (
    PAPER_TABLE_1,
    Row,
    balanced_margin,
    epoch_images,
    one_image,
    rows,
    seeds,
    test_counts,
)

_SHOWN_POINTS = 0.05
"""Differences below this print as 0.0 and are called equal."""
_OF_ONE_RUN = frozenset({"job", "run", "seed", "mix", "synthetic"})
"""Settings that identify a run and are not part of the protocol."""


def headline(study: Study) -> list[str]:
    """The main result in the first sentence; then its uncertainty, other metrics, and the paper's result."""
    if not study.cls:
        return ["No classifier was trained yet: this report shows only the GANs."]
    table = {row.name: row for row in rows(study)}
    sentences = _highest(study, table["Balanced accuracy"])
    sentences += _highest_otherwise(table)
    if {"DS1", "DS3"} <= set(study.mixes):
        sentences.append(_class_by_class([row for row in table.values() if row.is_class]))
        sentences.append(_beside_paper(table["Total"]))
    return sentences


def _highest(study: Study, row: Row) -> list[str]:
    known = [cell for cell in row.cells if cell.ours is not None]
    known.sort(key=lambda cell: -(cell.ours or 0.0))
    on_test = f"On {row.n:,} test images"
    first = known[0]
    score = f"{first.ours:.1f} %"
    if len(known) == 1:
        return [f"{on_test}, {first.mix} reaches a balanced accuracy of {score}; no other mix was run."]
    leads = {cell.mix: (first.ours or 0.0) - (cell.ours or 0.0) for cell in known[1:]}
    second = known[1].mix
    margin = balanced_margin(study, first.mix, second)
    if leads[second] < _SHOWN_POINTS:
        return [f"{on_test}, {first.mix} and {second} have the same balanced accuracy, {score}."]
    above = _and(
        [
            f"{lead:.1f} {'points ' if i == 0 else ''}above {mix}"
            for i, (mix, lead) in enumerate(leads.items())
        ]
    )
    sentence = f"{on_test}, {first.mix} has the highest balanced accuracy, {score}: {above}."
    if leads[second] <= margin:
        verdict = (
            f"The difference between {first.mix} and {second} is not conclusive: the number of test images alone "
            f"gives an uncertainty of ± {margin:.1f} points (95 % interval), without the variation between trainings."
        )
    else:
        verdict = (
            f"The difference between {first.mix} and {second} exceeds the uncertainty due to the number of test "
            f"images alone, ± {margin:.1f} points (95 % interval), which excludes the variation between trainings."
        )
    return [sentence, verdict]


def _highest_otherwise(table: dict[str, Row]) -> list[str]:
    """A sentence if another mix is the best by accuracy or AUROC."""
    first = {cell.mix for cell in table["Balanced accuracy"].cells if cell.is_best}
    parts = []
    for name in ("Total", "Macro AUROC"):
        best = [cell for cell in table[name].cells if cell.is_best]
        if first and best and first.isdisjoint(cell.mix for cell in best):
            label = "accuracy (Total)" if name == "Total" else "macro AUROC"
            parts.append(f"{label} is highest for {_and([cell.mix for cell in best])} ({best[0].ours_text})")
    return [f"Other metrics rank the mixes differently: {_and(parts)}."] if parts else []


def _class_by_class(classes: Sequence[Row]) -> str:
    lost: list[tuple[float, str]] = []
    gained: list[tuple[float, str]] = []
    equal: list[str] = []
    for row in classes:
        ds1, ds3 = row.ours("DS1"), row.ours("DS3")
        if ds1 is None or ds3 is None:
            continue
        difference = ds3 - ds1
        if abs(difference) < _SHOWN_POINTS:
            equal.append(row.name)
        else:
            (gained if difference > 0 else lost).append((difference, row.name))
    parts = []
    if lost:
        parts.append("lower for " + _and(_named(sorted(lost))))
    if gained:
        parts.append("higher for " + _and(_named(sorted(gained, reverse=True))))
    if equal:
        parts.append("equal for " + _and(equal))
    return f"Recall per class of DS3 compared with DS1, in points: {'; '.join(parts)}."


def _named(differences: Iterable[tuple[float, str]]) -> list[str]:
    return [f"{name} ({signed(points)})" for points, name in differences]


def _beside_paper(total: Row) -> str:
    paper = PAPER_TABLE_1["Total"]["DS3"] - PAPER_TABLE_1["Total"]["DS1"]
    ours = (total.ours("DS3") or 0.0) - (total.ours("DS1") or 0.0)
    return (
        f"In the paper, the accuracy over all classes (Total) rises by {paper:.1f} points from DS1 to DS3; "
        f"here it changes by {signed(ours)} points."
    )


def banner(study: Study) -> tuple[str, str]:
    """The data of the study: a title and a paragraph."""
    source = study.cls[0].summary if study.cls else study.gan[0].summary
    data = source.get("data", {})
    if not data:
        return "Data", "The runs do not record which data they read. This report makes no clinical claim."
    sizes = []
    for split in ("train", "val", "test"):
        total = sum(sum(origins.values()) for origins in data.get("counts", {}).get(split, {}).values())
        sizes.append(f"{total:,} {'validation' if split == 'val' else split}")
    what = (
        f"{', '.join(sizes[:-1])} and {sizes[-1]} images of {len(study.classes)} classes, "
        f"{data['image_size']} × {data['image_size']} px, split by patient, read by the importer "
        f"{data['importer']}"
    )
    what += f", label rule {data['label_rule']}." if data["label_rule"] else "."
    if data["is_phantom"]:
        return (
            "Computed phantoms, not patients",
            f"{data['release']}: {what} Every real image of this study was computed by a program. The results show "
            "that the pipeline works; they say nothing about any disease and make no clinical claim.",
        )
    return (
        f"Data: {data['release']}",
        f"{what} This is a study of a method at this scale. It makes no clinical claim: no result here shows a "
        "benefit for patients.",
    )


def table_notes(study: Study) -> list[str]:
    """Definitions of the numbers in Table 1, and their resolution."""
    least, most, total = one_image(study)
    counts = test_counts(study)
    spread = any(len(of_mix) > 1 for of_mix in seeds(study).values())
    return [
        "Ours: recall of each class on the test split in % (the paper’s accuracy of a class); Total is the "
        f"accuracy over all {sum(counts.values()):,} test images; {_seed_text(study)}. "
        "Bold: the best mix of the row.",
        f"One test image is worth {_span(least, most)} points of a class’s recall and {total:.1f} of Total"
        + (
            "; the std over seeds does not include this, since all seeds are tested on the same images."
            if spread
            else "."
        ),
        "Paper: its Table 1, measured on another and much larger set of 256 × 256 px images. "
        "The columns are shown side by side, but they do not compare methods on the same data.",
    ]


def _seed_text(study: Study) -> str:
    per_mix = seeds(study)
    lengths = {len(s) for s in per_mix.values()}
    if lengths == {1}:
        return "one seed per mix, so the spread over seeds is unknown"
    if len(lengths) == 1:
        return f"mean ± std over {lengths.pop()} seeds per mix"
    return "mean ± std over seeds (" + ", ".join(f"{mix}: {len(s)}" for mix, s in per_mix.items()) + ")"


def budget(study: Study) -> tuple[str, bool]:
    """A paragraph on the training budgets of the mixes, and whether they are equal."""
    per_mix = {mix: sorted({int(r.summary["images_seen"]) for r in study.of(mix)}) for mix in study.mixes}
    distinct = []
    for mix in study.mixes:
        real, synthetic = epoch_images(study.of(mix)[0])
        distinct.append(f"{mix} {real + synthetic:,}" + (f" ({synthetic:,} synthetic)" if synthetic else ""))
    epochs = f"Images per epoch: {', '.join(distinct)}."
    seen = {n for counts in per_mix.values() for n in counts}
    if len(seen) == 1:
        return (
            f"Equal budgets: every run saw {seen.pop():,} training images, so no mix was trained longer than "
            f"another. {epochs} A mix with a smaller epoch was therefore trained for more epochs."
        ), True
    each = ", ".join(f"{mix} {_span(c[0], c[-1], ',.0f')}" for mix, c in per_mix.items())
    return (
        f"Unequal budgets: the runs saw different numbers of training images ({each}), so a difference in the "
        f"results may be due to longer training alone. {epochs}"
    ), False


def settings(
    runs: Sequence[ClsRun] | Sequence[GanRun],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The settings that are equal in all runs, and those that differ, with all their values."""
    flat = [dict(_flat(run.config)) for run in runs]
    names = dict.fromkeys(name for config in flat for name in config)
    shared: list[tuple[str, str]] = []
    differing: list[tuple[str, str]] = []
    for name in names:
        if name.split(".")[0] in _OF_ONE_RUN:
            continue
        values = dict.fromkeys(config.get(name, "not set") for config in flat)
        (shared if len(values) == 1 else differing).append((name, " | ".join(values)))
    return shared, differing


def _flat(config: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)


def notices(study: Study) -> list[str]:
    """Warnings about the runs: skipped ones, other training data, warnings of the GAN training."""
    found = list(study.skipped)
    for run in study.cls:
        if run.summary.get("other_lineage_allowed"):
            found.append(
                f"{relative(run.folder)} was run with --allow-other-lineage: the generator of its synthetic images "
                "may have been trained on test patients."
            )
    real = study.cls[0].summary["shards"].get("real") if study.cls else None
    for gan in study.gan:
        read = gan.summary["shards"].get("real")
        if study.cls and read != real:
            found.append(
                f"{relative(gan.folder)} was trained on another real set ({str(read)[:12]}) than the classifiers "
                f"({str(real)[:12]}): its samples may differ from the synthetic images of this study."
            )
        for model in gan.models:
            warnings = model.summary.get("warnings", [])
            found.extend(f"{relative(gan.folder)}, {model.name}: {warning}." for warning in warnings)
    return found


def run_names(runs: Sequence[ClsRun] | Sequence[GanRun]) -> str:
    """The runs behind a figure, grouped by parent folder: ``runs/demo: ds1-0, ds1-1``."""
    by_parent: dict[str, list[str]] = {}
    for run in runs:
        path = Path(relative(run.folder))
        by_parent.setdefault(path.parent.as_posix(), []).append(path.name)
    return "; ".join(f"{parent}: {', '.join(names)}" for parent, names in by_parent.items())


def signed(points: float) -> str:
    """``+2.1`` or ``−2.1``, with a true minus sign."""
    return f"{points:+.1f}".replace("-", "−")


def _span(least: float, most: float, form: str = ".1f") -> str:
    low, high = format(least, form), format(most, form)
    return low if low == high else f"{low} to {high}"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
