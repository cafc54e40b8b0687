"""Limits, by the items of two reporting guidelines that apply to a study like this.

TRIPOD+AI: Collins et al. 2024, BMJ 385, e078378; items have its numbers. CLAIM, 2024 update: Tejani et al. 2024,
Radiology: Artificial Intelligence 6, e240300; its items are named without a number.
"""

from __future__ import annotations

from dataclasses import dataclass

from cxrdist.study.report.answer.answer import Answer
from cxrdist.study.report.answer.words import joined
from cxrdist.study.report.page import prose
from cxrdist.study.report.page.arms import ATTRIBUTES
from cxrdist.study.report.page.paper import test_counts
from cxrdist.study.report.reading.runs import Study

SOURCES = (
    "TRIPOD+AI: Collins et al., BMJ 2024, 385:e078378. CLAIM: Tejani et al., 2024 update, Radiology: Artificial "
    "Intelligence 6:e240300. Only the items that this report can speak to; it does not replace either checklist."
)


@dataclass(frozen=True)
class Item:
    topic: str
    tripod: str
    """Number of the item of TRIPOD+AI; "" where none applies."""
    claim: str
    """Name of the item of CLAIM; "" where none applies."""
    said: str
    is_limit: bool
    """Something that the study lacks."""


def items(study: Study, answer: Answer, *, was_read: bool) -> list[Item]:
    """The items with what this study did, or did not do. ``was_read``: readers judged its synthetic images."""
    data = study.cls[0].summary["data"] if study.cls else {}
    is_phantom = bool(data.get("is_phantom"))
    known = [name for name in ATTRIBUTES if any(run.test.get("subgroups", {}).get(name) for run in study.cls)]
    has_one_budget = not study.cls or prose.budget(study)[1]
    unknown = [name for name in ATTRIBUTES if name not in known]
    counts = {name: n for name, n in test_counts(study).items() if n} if study.cls else {}
    return [
        Item(
            "Source of data",
            "5a",
            "data sources",
            "One set of computed phantoms: no patients."
            if is_phantom
            else f"One set, {data.get('release', 'of unknown release')}, taken for other purposes.",
            True,
        ),
        Item(
            "Reference standard",
            "8a",
            "method of the reference standard",
            "The class that the phantom was computed with."
            if is_phantom
            else "Labels as the source gives them"
            + (f", by the rule {data['label_rule']}" if data.get("label_rule") else "")
            + "; no reader checked them for this study.",
            not is_phantom,
        ),
        Item(
            "Partitions",
            "12a",
            "how data were assigned to partitions, and at which level they are disjoint",
            f"By patient; generators and classifiers read train images only. {_repeats(answer)}",
            answer.folds < 2,
        ),
        Item(
            "Sample size",
            "10",
            "intended sample size",
            f"{sum(counts.values()):,} test images"
            + (f" of {answer.patients:,} patients" if answer.patients else "")
            + _rarest(counts)
            + ". This report does not justify their number.",
            True,
        ),
        Item(
            "Class imbalance",
            "13",
            "",
            "The subject of the study: arms differ in how they balance the classes of train images. Balanced "
            "accuracy and recalls do not depend on the balance of the test images. Probabilities were not "
            "recalibrated.",
            False,
        ),
        Item(
            "Tuning and choice of the model",
            "12c",
            "method of selecting the final model",
            f"{prose.checkpoints(study)} {_rates(study)} "
            + ("Every arm had the same budget." if has_one_budget else "Arms had different budgets."),
            not has_one_budget,
        ),
        Item(
            "Uncertainty",
            "23a",
            "statistical measures of significance and uncertainty",
            {
                "runs": "Intervals between folds, and over patients beside them; corrected for multiplicity.",
                "runs and patients": "Intervals between seeds and over patients; corrected for multiplicity. One "
                "split of the patients into train and test.",
                "patients": "Intervals over patients only; corrected for multiplicity. The variation between "
                "trainings is unknown: one fold, one seed.",
            }[answer.decider],
            answer.decider != "runs",
        ),
        Item(
            "Fairness and subgroups",
            "14",
            "demographic characteristics of each partition",
            (f"Results are given by {joined(known)}" if known else "No subgroup is known")
            + (f"; {joined(unknown)} unknown" if known and unknown else "")
            + ". Differences between subgroups are not tested; ethnicity and device are not recorded.",
            True,
        ),
        Item(
            "Review of synthetic images",
            "",
            "",
            "Gates are computed. Readers judged images of the set (see Readers); whether they are radiologists is "
            "not recorded."
            if was_read
            else "Gates are computed; no review by radiologists is recorded in these runs.",
            True,
        ),
        Item("External evaluation", "", "testing on external data", "None: one source of images.", True),
        Item(
            "Readers",
            "",
            "",
            "Classifiers and readers are not compared, and no clinical use was studied.",
            True,
        ),
        Item(
            "Code, data and models",
            "18e, 18f",
            "availability of software, trained model and data",
            "Options, versions and digests of every run are in this report and in its run folders.",
            False,
        ),
        Item(
            "Protocol and registration",
            "18c, 18d",
            "full study protocol",
            "The study's YAML file is its protocol; it was not registered.",
            True,
        ),
    ]


def _rates(study: Study) -> str:
    if study.described and len(study.described.searched_rates) > 1:
        return "The learning rate of each arm was chosen on validation images of the first fold."
    return "Learning rates were not searched for."


def _rarest(counts: dict[str, int]) -> str:
    if not counts:
        return ""
    if len({*counts.values()}) == 1:
        return f"; {min(counts.values()):,} of each class"
    name = min(counts, key=lambda name: counts[name])
    return f"; {counts[name]:,} of {name}, the rarest class"


def _repeats(answer: Answer) -> str:
    seeds = f"{answer.seeds} seed{'s' if answer.seeds != 1 else ''}"
    if answer.folds < 2:
        return f"One split, {seeds}: the results hold for its test patients."
    return f"{answer.folds} folds, {seeds}."
