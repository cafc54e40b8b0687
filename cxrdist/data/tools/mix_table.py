"""The images that one epoch of a mix takes of each class, as a table and as JSON."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from cxrdist.data.loading.mix_sets import repeated_strata, repeats, synthesis_command, train_counts
from cxrdist.data.mix.rules import MixRule, quotas
from cxrdist.data.shards.open import open_finished_real, open_synthetic, synthetic_place
from cxrdist.data.shards.schema import ORIGINS

log = logging.getLogger(__name__)

PREFIXES = {logging.INFO: "note", logging.WARNING: "warning"}


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a mix, by class and origin."""

    rule: MixRule
    shards: str
    synthetic: str | None
    """None if the mix uses none, or if none was given."""
    counts: dict[str, dict[str, int]]
    quotas: dict[str, dict[str, int]]

    @property
    def images(self) -> int:
        return sum(self.taken(origin) for origin in ORIGINS)

    def taken(self, origin: str) -> int:
        return sum(origins.get(origin, 0) for origins in self.quotas.values())

    def share(self, class_name: str) -> float:
        return sum(self.quotas[class_name].values()) / self.images if self.images else 0.0


def epoch_of(
    rule: MixRule, shards: str, synthetic: str | None, *, allow_other_lineage: bool = False
) -> Epoch:
    """Raises UserError if the sets do not exist, do not belong together, or do not fit the rule."""
    real = open_finished_real(shards)
    other = None
    if synthetic is not None and rule.needs_synthetic:
        other = open_synthetic(synthetic, real, allow_other_lineage=allow_other_lineage)
    counts = train_counts(real, other)
    return Epoch(
        rule=rule,
        shards=str(real),
        synthetic=str(other) if other else None,
        counts=counts,
        quotas=quotas(rule, counts),
    )


class Remark(NamedTuple):
    """A line about an epoch. ``level``: that of logging, None for a line of the table itself."""

    level: int | None
    text: str

    def __str__(self) -> str:
        return self.text if self.level is None else f"{PREFIXES[self.level]}: {self.text}"


def remarks(epoch: Epoch, mix: str, *, warn_above: float) -> Iterator[Remark]:
    """What is missing, and which images are repeated; ``mix``: the name or path that the user gave."""
    to_make = {name: q["synthetic"] for name, q in epoch.quotas.items() if q.get("synthetic")}
    if to_make and epoch.synthetic is None:
        command = synthesis_command(mix, epoch.shards, synthetic_place(epoch.shards))
        by_class = ", ".join(f"{name} {images:,}" for name, images in to_make.items())
        text = f"to make: {sum(to_make.values()):,} synthetic images ({by_class}), with `{command}`"
        yield Remark(None, text)
    for name, origins in epoch.quotas.items():
        for origin, quota in origins.items():
            if quota and epoch.counts[name].get(origin) == 0:
                text = f"missing: {name}: {quota:,} {origin} images an epoch, but there are none: training will fail"
                yield Remark(None, text)
        if not any(origins.values()):
            why = (
                "the mix takes none of its images" if any(epoch.counts[name].values()) else "it has no image"
            )
            yield Remark(logging.INFO, f"{name}: not in an epoch, since {why}")
    for repeat in repeated_strata(epoch.quotas, epoch.counts):
        yield Remark(logging.WARNING if repeat.times > warn_above else logging.INFO, str(repeat))


def print_epoch(epoch: Epoch, mix: str, *, warn_above: float) -> None:
    """Print, per class, the images of each origin, their sum and share, and how often an epoch takes each image;
    log the notes and warnings."""
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for column in (*ORIGINS, "target", "share", "repeats per image"):
        table.add_column(column, justify="right")
    often = repeats(epoch.quotas, epoch.counts)
    for name, origins in epoch.quotas.items():
        table.add_row(
            name,
            *(f"{origins.get(origin, 0):,}" for origin in ORIGINS),
            f"{sum(origins.values()):,}",
            f"{epoch.share(name):.1%}",
            ", ".join(f"{origin} {times:.2f}" for origin, times in often[name].items()) or "-",
        )
    of_origins = (f"{epoch.taken(origin):,}" for origin in ORIGINS)
    share = f"{1 if epoch.images else 0:.1%}"
    table.add_row("total", *of_origins, f"{epoch.images:,}", share, "", style="dim")
    sets = f"{epoch.shards} and {epoch.synthetic}" if epoch.synthetic else epoch.shards
    print(f"{epoch.rule.name} of {sets}: {epoch.images:,} images an epoch")
    Console(markup=False).print(table)
    for remark in remarks(epoch, mix, warn_above=warn_above):
        if remark.level is None:
            print(remark)
        else:
            log.log(remark.level, "%s", remark.text)


def as_json(epoch: Epoch, mix: str, *, warn_above: float) -> dict[str, Any]:
    """For programs; ``available`` is null for synthetic images if no set of them was given or is needed."""
    often = repeats(epoch.quotas, epoch.counts)
    return {
        "mix": epoch.rule.name,
        "shards": epoch.shards,
        "synthetic": epoch.synthetic,
        "epoch_images": epoch.images,
        "classes": {
            name: {
                "target": sum(origins.values()),
                "share": epoch.share(name),
                "origins": {
                    origin: {
                        "images": origins.get(origin, 0),
                        "available": epoch.counts[name].get(origin),
                        "repeats": often[name].get(origin),
                    }
                    for origin in ORIGINS
                },
            }
            for name, origins in epoch.quotas.items()
        },
        "remarks": [str(remark) for remark in remarks(epoch, mix, warn_above=warn_above)],
    }
