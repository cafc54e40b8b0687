"""What a study can show, before it runs: the smallest differences, from its test patients and a pilot."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxrdist.console import say
from cxrdist.errors import UserError
from cxrdist.study.arms.jobs import Plan
from cxrdist.study.arms.patients import test_patients
from cxrdist.study.arms.pilot import Pilot, pilot_of
from cxrdist.study.report.answer.answer import PART
from cxrdist.study.stats.correction import ALPHA
from cxrdist.study.stats.power import Design, Spread, patients_needed, seeds_needed, smallest_difference

MANY_SEEDS = (10, 20, 50, 100)
"""Numbers of seeds for which test patients are counted, if more seeds alone are not enough."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Power:
    """The smallest differences to the best arm of real images that a study shows, from 0 to 1."""

    design: Design
    """Of the balanced accuracy: a comparison for each arm with synthetic images, at half of the level of 5 %."""
    patients: Mapping[str, int]
    """Test patients of each class, in all folds together."""
    pilot: Pilot
    balanced: float
    """Of the balanced accuracy."""
    by_class: Mapping[str, float]
    """Of the recall of each class."""
    margin: float
    """The smallest gain that matters."""

    @property
    def is_of_patients_alone(self) -> bool:
        """True for one fold and one seed: how much results vary between trainings is left out."""
        return self.design.folds == self.design.seeds == 1

    @property
    def is_enough(self) -> bool:
        return self.balanced <= self.margin


def power_of(plan: Plan) -> Power | None:
    """None if no arm uses synthetic images. Raises UserError if the test patients cannot be known."""
    config = plan.config
    synthetic = [arm for arm in plan.arms if arm.needs_synthetic]
    if not synthetic:
        return None
    patients = test_patients(config)
    # The two families of the report, each with a part of alpha: the balanced accuracy against the best arm of real
    # images, and all other comparisons.
    design = Design(
        folds=config.folds, seeds=len(config.seeds), comparisons=len(synthetic), alpha=PART * ALPHA
    )
    of_classes = replace(design, comparisons=len(synthetic) * (2 * len(patients) + 1))
    pilot = pilot_of(config, patients)
    return Power(
        design=design,
        patients=patients,
        pilot=pilot,
        balanced=_smallest(design, list(pilot.recalls.values()), list(patients.values()), pilot.spread),
        by_class={
            # The recall of one class varies more than the mean of all.
            name: _smallest(of_classes, [pilot.recalls[name]], [count], _of_one(pilot.spread, len(patients)))
            for name, count in patients.items()
        },
        margin=config.margin_points / 100,
    )


def _of_one(spread: Spread, classes: int) -> Spread:
    """The spread of one class's recall, if those of all classes are alike and independent."""
    scale = math.sqrt(classes)
    return Spread(seed_sd=scale * spread.seed_sd, fold_sd=scale * spread.fold_sd)


def _smallest(design: Design, recalls: Sequence[float], patients: Sequence[int], spread: Spread) -> float:
    if design.folds == design.seeds == 1:
        # One training per arm: the interval over patients decides. Two seeds without a spread stand for it.
        design, spread = replace(design, seeds=2), Spread(seed_sd=0.0)
    found = smallest_difference(design, recalls, patients, spread)
    assert found is not None
    return found


# ---- as text


def show_power(plan: Plan) -> None:
    """Print what the study can show, and what it lacks. Raises UserError if the test patients cannot be known."""
    power = power_of(plan)
    if power is None:
        say("no arm uses synthetic images, so there is nothing to show of them")
        return
    for line in [*table(power), *filter(None, [shortfall(power)])]:
        say(line)


def warn_of_power(plan: Plan) -> None:
    """A warning if the study is too small, or if nothing is known of its test patients."""
    try:
        power = power_of(plan)
    except UserError as error:
        log.warning("what this study can show is not known: %s", error)
        return
    text = None if power is None else shortfall(power)
    if text is not None:
        log.warning("%s (details: --power)", text)


def table(power: Power) -> list[str]:
    """The lines of a table of the smallest differences."""
    design = power.design
    width = max(len("balanced accuracy"), *map(len, power.patients))
    expected = float(np.mean([*power.pilot.recalls.values()]))
    rows = [("balanced accuracy", sum(power.patients.values()), expected, power.balanced)]
    rows += [
        (name, count, power.pilot.recalls[name], power.by_class[name])
        for name, count in power.patients.items()
    ]
    lines = [
        f"what the study can show with a chance of {design.power:.0%} and at a level of {ALPHA:.0%}, of "
        f"{design.comparisons} {'arm' if design.comparisons == 1 else 'arms'} with synthetic images against the best "
        "one of real images:",
        f"  {'':{width}}  test patients  expected  smallest difference",
    ]
    lines += [
        # A gain beyond a recall of 100 % does not exist.
        f"  {name:{width}}  {count:>13,}  {100 * recall:>6.1f} %  "
        f"{_points(smallest) if smallest < 1 - recall else 'none':>19}"
        for name, count, recall, smallest in rows
    ]
    lines.append(f"  from {power.pilot.basis}")
    if power.is_of_patients_alone:
        lines.append(
            "  one training of each arm: differences between trainings are left out; more seeds show them"
        )
    return lines


def shortfall(power: Power) -> str | None:
    """What a study that is too small lacks; None for one that is not."""
    if power.is_enough:
        return None
    recalls, spread = list(power.pilot.recalls.values()), power.pilot.spread
    best = 1 - float(np.mean(recalls))
    can = f"shows {_points(power.balanced)} or more" if power.balanced < best else "can show no gain at all"
    return (
        f"too small to show a gain of {_points(power.margin)} in balanced accuracy (margin_points): this study "
        f"{can}; {_needed(power, recalls, spread)}"
    )


def _needed(power: Power, recalls: Sequence[float], spread: Spread) -> str:
    design = power.design
    patients = [*power.patients.values()]
    if seeds := seeds_needed(design, recalls, patients, spread, power.margin):
        return f"{seeds:,} seeds would"
    for many in (replace(design, seeds=n) for n in (design.seeds, *MANY_SEEDS) if n >= design.seeds):
        if found := patients_needed(many, recalls, spread, power.margin):
            return f"{found:,} test patients of each class with {_seeds(many.seeds)} would"
    most = max(design.seeds, *MANY_SEEDS)
    return f"no number of test patients would with up to {most} seeds" + " in these folds" * (
        design.folds > 1
    )


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count != 1 else ''}"


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"
