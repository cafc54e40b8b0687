"""The statistics of a set as tables."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from cxrdist.data.tools.confounding import Association
from cxrdist.data.tools.stats import Stats, Tally, age_figures, grey_figures, together

log = logging.getLogger(__name__)


def print_stats(found: Stats) -> None:
    """Print grey values, then views and patients: a line per class, and one per split below it; log the warnings."""
    grey = table_of(
        "grey values", "images", "patients", "mean ± std", "5 %", "50 %", "95 %", "black", "white"
    )
    films = table_of("films and people", "views", "sex", "age", "quartiles", "range")
    origins = {origin for _, origin in found.tallies}
    for (name, origin), splits in found.tallies.items():
        title = f"{name}, {origin}" if len(origins) > 1 else name
        grey.add_row(title, *grey_cells(total := together(splits.values())))
        films.add_row(title, *film_cells(total))
        for split, tally in splits.items():
            grey.add_row(f"  {split}", *grey_cells(tally), style="dim")
            films.add_row(f"  {split}", *film_cells(tally), style="dim")
    if found.unlabelled is not None:
        grey.add_row("unlabelled", *grey_cells(found.unlabelled))
        films.add_row("unlabelled", *film_cells(found.unlabelled))
    console = Console(markup=False)
    console.print(f"{found.shards}  {found.shards.digest[:12]}", highlight=False)
    console.print()
    console.print(grey)
    console.print()
    console.print(films)
    console.print()
    if found.associations:
        console.print(association_table(found.associations))
    for line in found.warnings:
        log.warning(line)


def association_table(associations: Sequence[Association]) -> Table:
    table = table_of(
        "class predicted from", "images", "Cramér's V", "right", "without", "classes equal", "without"
    )
    for a in associations:
        shares = (a.accuracy, a.majority, a.balanced_accuracy, a.chance)
        table.add_row(a.about, f"{a.images:,}", f"{a.cramers_v:.2f}", *(f"{share:.1%}" for share in shares))
    return table


def table_of(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def grey_cells(tally: Tally) -> list[str]:
    of = grey_figures(tally)
    return [
        f"{tally.images:,}",
        f"{len(tally.patients):,}" if tally.patients else "-",
        f"{of['mean']:.1f} ± {of['std']:.1f}",
        *(f"{of[name]:.0f}" for name in ("p5", "p50", "p95")),
        *(f"{of[name]:.1%}" for name in ("black", "saturated")),
    ]


def film_cells(tally: Tally) -> list[str]:
    ages = age_figures(tally.ages)
    if ages is None:
        ages_text = ["-"] * 3
    else:
        quartiles = (ages[name] for name in ("lower_quartile", "median", "upper_quartile"))
        ages_text = [
            f"{ages['mean']:.1f}",
            ", ".join(f"{age:g}" for age in quartiles),
            f"{ages['min']:g} to {ages['max']:g}",
        ]
    return [shares(tally.views, tally.images), shares(tally.sexes, tally.images), *ages_text]


def shares(counts: Counter[str], images: int) -> str:
    """``62 % AP, 38 % PA``, the largest first, unknown ones last."""
    if not counts:
        return "-"
    parts = [
        f"{n / images:.0%} {name}" for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    unknown = images - sum(counts.values())
    return ", ".join([*parts, *([f"{unknown / images:.0%} unknown"] if unknown else [])])
