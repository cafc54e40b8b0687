"""What an import says of itself: a table for people, provenance for the manifest."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cxrdist.console import options_text, say
from cxrdist.data.ingest.labels import Labelling
from cxrdist.data.shards.manifest import SPLITS


def print_table(read: int, labelling: Labelling, labels: list[str], splits: list[str]) -> None:
    """What was read, what is used per class and split, what is left out and why."""
    used = Counter(zip(labels, splits))
    width = 2 + max(len(name) for name in (*labelling.classes, *labelling.left_out, "left out"))
    say(f"{'images read':<{width}}  {read:>8,}")
    say(f"{'used':<{width}}  {len(labels):>8,}" + "".join(f"  {split:>7}" for split in SPLITS))
    for name in labelling.classes:
        row = [used[name, split] for split in SPLITS]
        say(f"  {name:<{width - 2}}  {sum(row):>8,}" + "".join(f"  {n:>7,}" for n in row))
    say(f"{'left out':<{width}}  {sum(labelling.left_out.values()):>8,}")
    for reason, count in labelling.left_out.items():
        say(f"  {reason:<{width - 2}}  {count:>8,}")


def print_rules(provenance: dict[str, Any], unknown: int) -> None:
    """What was a judgement, and what is to be known of the images that are used."""
    rules = {k: provenance["options"][k] for k in ("label_rule", "split", "dedup", "fit")} | provenance[
        "source_options"
    ]
    say(f"rules: {options_text(rules)}")
    if unknown:
        say(
            f"warning: {unknown:,} images name no patient, so each counts as one: two images of one patient may "
            "land in two splits"
        )
    for note, count in provenance["notes"].items():
        say(f"warning: {count:,} images: {note}")
