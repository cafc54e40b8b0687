"""What an import prints before it writes: the images per class and split, the rules, and warnings."""

from __future__ import annotations

import logging
from collections import Counter

from cxrdist.console import options_text, say
from cxrdist.data.ingest.plan import ImportPlan
from cxrdist.data.shards.manifest import Provenance
from cxrdist.data.shards.schema import SPLITS

log = logging.getLogger(__name__)


def print_plan(plan: ImportPlan, provenance: Provenance) -> None:
    """Print the table and the rules of an import, and log warnings about its images."""
    print_table(plan)
    rules = {name: provenance.option(name) for name in ("label_rule", "split", "dedup", "fit")}
    say(f"rules: {options_text(rules | (provenance.source_options or {}))}")
    if plan.unknown_patients:
        log.warning(
            "%s images name no patient, so each counts as a patient of its own: two images of one patient may be in "
            "two splits",
            f"{plan.unknown_patients:,}",
        )
    for note, count in (provenance.notes or {}).items():
        log.warning("%s images: %s", f"{count:,}", note)


def print_table(plan: ImportPlan) -> None:
    """Images that were read, used per class and split, and left out for each reason."""
    labelling = plan.labelling
    used = Counter(zip(plan.labels, plan.splits))
    width = 2 + max(len(name) for name in (*labelling.classes, *labelling.left_out, "left out"))
    say(f"{'images read':<{width}}  {plan.records_read:>8,}")
    say(f"{'used':<{width}}  {len(plan.labels):>8,}" + "".join(f"  {split:>7}" for split in SPLITS))
    for name in labelling.classes:
        row = [used[name, split] for split in SPLITS]
        say(f"  {name:<{width - 2}}  {sum(row):>8,}" + "".join(f"  {n:>7,}" for n in row))
    say(f"{'left out':<{width}}  {sum(labelling.left_out.values()):>8,}")
    for reason, count in labelling.left_out.items():
        say(f"  {reason:<{width - 2}}  {count:>8,}")
