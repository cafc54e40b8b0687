"""What an import prints before it writes: the images per class and split, the rules, and warnings."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from cxrdist.console import options_text, say
from cxrdist.data.imaging.faults import Fault
from cxrdist.data.ingest.plan import ImportPlan
from cxrdist.data.shards.manifest import Provenance
from cxrdist.data.shards.schema import SPLITS, UNLABELLED
from cxrdist.errors import shown

HELD_OUT = "no class, and the patient is in val or test"

log = logging.getLogger(__name__)


def print_plan(plan: ImportPlan, provenance: Provenance) -> None:
    """Print the table and the rules of an import, and log warnings about its images."""
    print_table(plan)
    rules = {
        name: provenance.option(name) for name in ("label_rule", "split", "folds", "fold", "dedup", "fit")
    }
    say(f"rules: {options_text(rules | (provenance.source_options or {}))}")
    if plan.unknown_patients:
        log.warning(
            "%s images name no patient, so each counts as a patient of its own: two images of one patient may be in "
            "two splits",
            f"{plan.unknown_patients:,}",
        )
    if plan.candidates is not None and not plan.unlabelled:
        log.warning(
            "no unlabelled image is kept: every usable image has a class, or its patient is in val or test"
        )
    for note, count in (provenance.notes or {}).items():
        log.warning("%s images: %s", f"{count:,}", note)


def print_table(plan: ImportPlan) -> None:
    """Images that were read, used per class and split, kept without a class, and left out for each reason."""
    used = Counter(zip(plan.labels, plan.splits))
    left_out = dict(plan.left_out)
    if plan.unlabelled_counts:
        left_out[HELD_OUT] = plan.unlabelled_counts["held_out"]
    width = 2 + max(len(name) for name in (*plan.classes, *left_out, "left out"))
    say(f"{'images read':<{width}}  {plan.records_read:>8,}")
    say(f"{'used':<{width}}  {plan.labelled:>8,}" + "".join(f"  {split:>7}" for split in SPLITS))
    for name in plan.classes:
        row = [used[name, split] for split in SPLITS]
        say(f"  {name:<{width - 2}}  {sum(row):>8,}" + "".join(f"  {n:>7,}" for n in row))
    if plan.unlabelled_counts:
        say(f"{UNLABELLED:<{width}}  {plan.unlabelled:>8,}  {plan.unlabelled:>7,}  {0:>7}  {0:>7}")
    say(f"{'left out':<{width}}  {sum(left_out.values()):>8,}")
    for reason, count in left_out.items():
        say(f"  {reason:<{width - 2}}  {count:>8,}")


def print_outcome(plan: ImportPlan, undecodable: list[Fault], repairs: list[Fault]) -> None:
    """What became of the images: read as they are, repaired, left out; why, how many, and one of each kind."""
    repaired = {fault.key for fault in repairs}
    rows = [("read as they are", len(plan.records) - len(undecodable) - len(repaired), "")]
    rows += [("repaired", len(repaired), ""), *rows_of(repairs)]
    left_out = dict(plan.left_out)
    if plan.unlabelled_counts and plan.unlabelled_counts["held_out"]:
        left_out[HELD_OUT] = plan.unlabelled_counts["held_out"]
    rows.append(("left out", sum(left_out.values()) + len(undecodable), ""))
    for reason, count in left_out.items():
        record = plan.labelling.examples.get(reason)
        rows.append((f"  {reason}", count, record.name if record else ""))
    rows += rows_of(undecodable, "does not decode: ")
    if len(rows) == len(("read as they are", "repaired", "left out")):
        return
    width = max(len(what) for what, _, _ in rows)
    for what, count, example in rows:
        say(f"{what:<{width}}  {count:>8,}" + (f"  such as {shown(example)}" if example else ""))


def rows_of(faults: list[Fault], prefix: str = "") -> list[tuple[str, int, str]]:
    """What, number of images and an example of each kind of fault."""
    examples = {fault.what: fault.file for fault in sorted(faults, reverse=True)}
    counts = Counter(fault.what for fault in faults)
    return [(f"  {prefix}{what}", counts[what], examples[what]) for what in sorted(counts)]


def plan_as_json(plan: ImportPlan) -> dict[str, Any]:
    """``images`` and ``patients`` as ``{split: {class: number}}``, and ``left_out`` as ``{reason: number}``.

    A patient with images of two classes counts in both.
    """
    rows = list(zip(plan.splits, plan.labels, (record.patient for record in plan.records)))
    images = Counter((split, label) for split, label, _ in rows)
    patients = Counter((split, label) for split, label, _ in set(rows))
    return {
        "images": {split: {name: images[split, name] for name in plan.classes} for split in SPLITS},
        "patients": {split: {name: patients[split, name] for name in plan.classes} for split in SPLITS},
        "left_out": plan.left_out,
    }
