"""The sentences of the report beside its answer, all computed from the runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from cxrdist.study.report.answer.answer import Answer
from cxrdist.study.report.answer.words import signed
from cxrdist.study.report.page.paper import PAPER_TABLE_1, epoch_images, one_image, rows, test_counts
from cxrdist.study.report.page.words import span
from cxrdist.study.report.reading.runs import ClsRun, GanRun, Study, relative

_OF_ONE_RUN = frozenset({"job", "run", "seed", "mix", "synthetic", "arm", "shards", "tracking"})
"""Settings that identify a run and are not part of the protocol."""


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
    folds = data.get("folds")
    what = (
        (f"{folds} folds by patient; in the first " if folds else "")
        + f"{', '.join(sizes[:-1])} and {sizes[-1]} images of {len(study.classes)} classes, "
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
    notes = [
        "Ours: recall of each class on the test split in % (the paper’s accuracy of a class); Total is the "
        f"accuracy over all {sum(test_counts(study).values()):,} test images; {_runs_text(study)}. "
        "Bold: the best mix of the row.",
        f"One test image is worth {span(least, most)} points of a class’s recall and {total:.1f} of Total.",
        "Paper: its Table 1, measured on another and much larger set of 256 × 256 px images. "
        "The columns are shown side by side, but they do not compare methods on the same data.",
    ]
    if "DS1" in study.arms and "DS3" in study.arms:
        total_row = next(row for row in rows(study) if row.name == "Total")
        paper = PAPER_TABLE_1["Total"]["DS3"] - PAPER_TABLE_1["Total"]["DS1"]
        ours = (total_row.ours("DS3") or 0.0) - (total_row.ours("DS1") or 0.0)
        notes.append(
            f"In the paper, the accuracy over all classes (Total) rises by {paper:.1f} points from DS1 to DS3; here "
            f"it changes by {signed(ours)} points."
        )
    return notes


def interval_words(study: Study, answer: Answer) -> list[str]:
    """Which intervals are which, in words."""
    found = []
    if answer.patients:
        found.append(
            f"Over test patients: percentile intervals of a bootstrap that draws the {answer.patients:,} test "
            f"patients with replacement, each with all of their images ({answer.replicates:,} replicates). Both arms "
            "of a difference have the same patients in each replicate. They hold the trained networks fixed, and are "
            "too narrow for a class of few patients."
        )
    if answer.folds > 1:
        found.append(
            f"Between runs: t over {answer.folds} folds, of the mean over seeds in each; the variance is multiplied "
            "by 1 / folds + test / train, since the folds share training images (Nadeau and Bengio 2003)."
        )
    elif answer.seeds > 1:
        found.append(
            f"Between runs: t over {answer.seeds} seeds. All of them have the same train and test images, so this "
            "interval says nothing of other patients."
        )
    else:
        found.append("Between runs: none, since there is one fold and one seed.")
    if answer.verdicts:
        first = answer.verdicts[0].decisive.against_best.family
        found.append(
            "Differences: of runs with the same fold and seed. Those of balanced accuracy to "
            f"{answer.best_real}, which answer the first question, are one family ({first}) with half of the level "
            f"of 5 %; all others, of recalls and to the reference, are another ({len(answer.differences) - first}) "
            "with the other half. Intervals are simultaneous: each has a confidence of 1 − 0.025 / the size of its "
            "family (Bonferroni). differences.csv also has the intervals of each difference alone, and p values "
            "adjusted after Holm."
        )
    found.append("Scores: the interval beside an arm’s own score is a 95 % interval of this score alone.")
    return found


def _runs_text(study: Study) -> str:
    lengths = {len(study.of(arm)) for arm in study.arms}
    if lengths == {1}:
        return "one run per mix, so the spread over runs is unknown"
    number = span(min(lengths), max(lengths), "d")
    return f"mean ± standard deviation over {number} runs per mix"


def budget(study: Study) -> tuple[str, bool]:
    """A paragraph on the training budgets of the arms, and whether they are equal."""
    per_arm = {arm: sorted({int(r.summary["images_seen"]) for r in study.of(arm)}) for arm in study.arms}
    distinct = []
    for arm in study.arms:
        real, synthetic = epoch_images(study.of(arm)[0])
        distinct.append(f"{arm} {real + synthetic:,}" + (f" ({synthetic:,} synthetic)" if synthetic else ""))
    epochs = f"Images per epoch: {', '.join(distinct)}."
    seen = {n for counts in per_arm.values() for n in counts}
    if len(seen) == 1:
        return (
            f"Equal budgets: every run saw {seen.pop():,} training images, so no arm was trained longer than "
            f"another. {epochs} An arm with a smaller epoch was therefore trained for more epochs."
        ), True
    each = ", ".join(f"{arm} {span(c[0], c[-1], ',.0f')}" for arm, c in per_arm.items())
    return (
        f"Unequal budgets: the runs saw different numbers of training images ({each}), so a difference in the "
        f"results may be due to longer training alone. {epochs}"
    ), False


def checkpoints(study: Study) -> str:
    """Which weights of each run are tested."""
    kept = {str(run.config.get("keep_weights", "best")) for run in study.cls}
    if kept == {"last"}:
        return "The last checkpoint of each run is tested."
    if kept == {"best"}:
        return "The checkpoint with the best balanced accuracy on validation images is tested."
    return "Of some runs the last checkpoint is tested, of others the best one on validation images."


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


def leaks(study: Study) -> list[str]:
    """Why test patients may have had a part in the training of some runs: figures that nobody should rely on."""
    found = []
    for run in study.cls:
        if run.summary.get("other_lineage_allowed"):
            found.append(
                f"{relative(run.folder)} was run with --allow-other-lineage: the generator of its synthetic images "
                "may have been trained on test patients."
            )
        elif run.summary.get("synthetic_training_data") == "unknown":
            found.append(
                f"{relative(run.folder)}: what the generator of its synthetic images learned from is unknown; it may "
                "have been trained on test patients."
            )
    return found


def notices(study: Study) -> list[str]:
    """Warnings about the runs: skipped ones, other training data, warnings of the GAN training."""
    found = list(study.skipped)
    known = dict.fromkeys(run.summary["shards"].get("real") for run in study.cls)
    for gan in study.gan:
        read = gan.summary["shards"].get("real")
        if study.cls and read not in known:
            found.append(
                f"{relative(gan.folder)} was trained on another real set ({str(read)[:12]}) than the classifiers "
                f"({', '.join(str(real)[:12] for real in known)}): its samples may differ from the synthetic images "
                "of this study."
            )
        for model in gan.models:
            warnings = model.summary.get("warnings", [])
            found.extend(f"{relative(gan.folder)}, {model.name}: {warning}." for warning in warnings)
    return found
