"""The sentences of the report. Each is computed from the runs; none is written beforehand."""

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
"""Settings that make a run this run, and not the protocol."""


def headline(study: Study) -> list[str]:
    """What came out, the first sentence first; then where it does not hold."""
    if not study.cls:
        return ["No classifier was trained yet: this report shows the GANs alone."]
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
            f"So few test images cannot tell {first.mix} and {second} apart: their number alone leaves the "
            f"difference open by ± {margin:.1f} points (95 %)."
        )
    else:
        verdict = (
            f"The lead over {second} is more than the ± {margin:.1f} points that the number of test images "
            "alone leaves open (95 %)."
        )
    return [sentence, verdict]


def _highest_otherwise(table: dict[str, Row]) -> list[str]:
    """A sentence where accuracy or AUROC would name another mix as the best one."""
    first = {cell.mix for cell in table["Balanced accuracy"].cells if cell.is_best}
    parts = []
    for name in ("Total", "Macro AUROC"):
        best = [cell for cell in table[name].cells if cell.is_best]
        if first and best and first.isdisjoint(cell.mix for cell in best):
            label = "accuracy (Total)" if name == "Total" else "macro AUROC"
            parts.append(f"by {label} it is {_and([cell.mix for cell in best])}, {best[0].ours_text}")
    return [f"Balanced accuracy does not say it all: {_and(parts)}."] if parts else []


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
        parts.append("loses in " + _and(_named(sorted(lost))))
    if gained:
        parts.append("gains in " + _and(_named(sorted(gained, reverse=True))))
    if equal:
        parts.append("is equal in " + _and(equal))
    return f"Class by class against DS1, in points, DS3 {'; '.join(parts)}."


def _named(differences: Iterable[tuple[float, str]]) -> list[str]:
    return [f"{name} ({signed(points)})" for points, name in differences]


def _beside_paper(total: Row) -> str:
    paper = PAPER_TABLE_1["Total"]["DS3"] - PAPER_TABLE_1["Total"]["DS1"]
    ours = (total.ours("DS3") or 0.0) - (total.ours("DS1") or 0.0)
    return (
        f"In the paper, the accuracy over all classes (Total) rises by {paper:.1f} points from DS1 to DS3; "
        f"here the difference is {signed(ours)}."
    )


def banner(study: Study) -> tuple[str, str]:
    """Which data: a title and a paragraph."""
    source = study.cls[0].summary if study.cls else study.gan[0].summary
    data = source.get("data", {})
    if not data:
        return "Data", "These runs do not say which data they read. Nothing here is clinical."
    sizes = []
    for split in ("train", "val", "test"):
        total = sum(sum(origins.values()) for origins in data.get("counts", {}).get(split, {}).values())
        sizes.append(f"{total:,} {'validation' if split == 'val' else split}")
    what = (
        f"{', '.join(sizes[:-1])} and {sizes[-1]} images of {len(study.classes)} classes, "
        f"{data['image_size']} × {data['image_size']} px, split by patient, read by the importer "
        f"{data['importer']}, label rule {data['label_rule']}."
    )
    if data["is_phantom"]:
        return (
            "Computed phantoms, not patients",
            f"{data['release']}: {what} Every image was drawn by a program; what stands here shows that the "
            "machinery works, and says nothing about any disease. It claims nothing clinical.",
        )
    return (
        f"{data['release']}, real radiographs",
        f"{what} This is a study of a method at this size; it claims nothing clinical, and no figure "
        "here says how well anything would serve a patient.",
    )


def table_notes(study: Study) -> list[str]:
    """What the numbers of Table 1 are, and how much they can bear."""
    least, most, total = one_image(study)
    counts = test_counts(study)
    spread = any(len(of_mix) > 1 for of_mix in seeds(study).values())
    return [
        "Ours: recall of each class on the test split in % (the paper’s accuracy of a class); Total is the "
        f"accuracy over all {sum(counts.values()):,} test images; {_seed_text(study)}. "
        "Bold: the best mix of the row.",
        f"One test image is {_span(least, most)} points of a class’s recall and {total:.1f} of Total"
        + (
            "; the std over seeds leaves that out, since every seed is tested on the same images."
            if spread
            else "."
        ),
        "Paper: its Table 1, on its own images, many more and of 256 × 256 px. "
        "The columns stand beside each other; they are not a comparison on the same data.",
    ]


def _seed_text(study: Study) -> str:
    per_mix = seeds(study)
    lengths = {len(s) for s in per_mix.values()}
    if lengths == {1}:
        return "one seed per mix, so no spread is known"
    if len(lengths) == 1:
        return f"mean ± std over {lengths.pop()} seeds per mix"
    return "mean ± std over seeds (" + ", ".join(f"{mix}: {len(s)}" for mix, s in per_mix.items()) + ")"


def budget(study: Study) -> tuple[str, bool]:
    """Whether the arms saw equally many images, and whether that is so."""
    per_mix = {mix: sorted({int(r.summary["images_seen"]) for r in study.of(mix)}) for mix in study.mixes}
    distinct = []
    for mix in study.mixes:
        real, synthetic = epoch_images(study.of(mix)[0])
        distinct.append(f"{mix} {real + synthetic:,}" + (f" ({synthetic:,} synthetic)" if synthetic else ""))
    unlike = f"The mixes differ in the images of an epoch: {', '.join(distinct)}."
    seen = {n for counts in per_mix.values() for n in counts}
    if len(seen) == 1:
        return (
            f"Equal budgets: every run saw {seen.pop():,} training images, so no mix was trained longer than "
            f"another. {unlike} A smaller mix therefore ran more epochs."
        ), True
    each = ", ".join(f"{mix} {_span(c[0], c[-1], ',.0f')}" for mix, c in per_mix.items())
    return (
        f"Unequal budgets: the runs did not see equally many training images ({each}), so a difference in "
        f"score may come from the longer training alone. {unlike}"
    ), False


def settings(
    runs: Sequence[ClsRun] | Sequence[GanRun],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The settings that all runs share, and those that differ with every value they take."""
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
    """What a reader must know before the figures: runs left out, and images that do not belong together."""
    found = list(study.skipped)
    for run in study.cls:
        if run.summary.get("other_lineage_allowed"):
            found.append(
                f"{relative(run.folder)} was allowed synthetic images of another real set: their generator "
                "may have seen test patients."
            )
    real = study.cls[0].summary["shards"].get("real") if study.cls else None
    for gan in study.gan:
        read = gan.summary["shards"].get("real")
        if study.cls and read != real:
            found.append(
                f"{relative(gan.folder)} read another real set ({str(read)[:12]}) than the classifiers "
                f"({str(real)[:12]}): its GANs did not draw the synthetic images of this study."
            )
        for model in gan.models:
            warnings = model.summary.get("warnings", [])
            found.extend(f"{relative(gan.folder)}, {model.name}: {warning}." for warning in warnings)
    return found


def run_names(runs: Sequence[ClsRun] | Sequence[GanRun]) -> str:
    """``runs/demo: ds1-0, ds1-1``: the runs behind a figure, each parent folder named once."""
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
