"""Forest plots: the difference of each arm with synthetic images to its references, with both intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cxrdist.study.report.answer.answer import Answer
from cxrdist.study.report.answer.outcomes import BALANCED, outcomes
from cxrdist.study.report.answer.patients import Interval
from cxrdist.study.report.charts.style import (
    ARMS_LIGHT,
    LIGHT,
    MARKERS,
    STYLE,
    WIDTH_IN,
    Drawn,
    both,
    panel_grid,
    tint,
)
from cxrdist.study.report.reading.runs import Study
from cxrdist.study.stats.differences import Outcome

NARROW_IN = 4.1
"""Width of the form for telephones."""
_ROW_IN = 0.3
_PATIENTS_PT, _RUNS_PT = 1.3, 4.2
"""Line widths of the two intervals."""


def forest_figure(study: Study, answer: Answer, *, is_narrow: bool = False) -> Drawn | None:
    """Differences of balanced accuracy, a panel for the best arm of real images alone and one for the reference.

    Rows are the arms with synthetic images. None if there is nothing to compare.
    """
    if not answer.differences:
        return None
    space = "\n" if is_narrow else " "
    titles = {answer.best_real: f"minus {answer.best_real},{space}the best real arm"}
    titles.setdefault(answer.baseline, f"minus {answer.baseline},{space}the reference")
    panels = [(str(reference), BALANCED, title) for reference, title in titles.items()]
    name = "forest-narrow" if is_narrow else "forest"
    return _drawn(study, answer, panels, 1 if is_narrow else len(panels), name)


def class_forest_figure(study: Study, answer: Answer) -> Drawn | None:
    """Differences of the recall of each class to the best arm of real images alone, a panel for each class."""
    if not answer.differences:
        return None
    panels = [
        (str(answer.best_real), outcome, str(outcome.class_name))
        for outcome in outcomes(study)
        if outcome.class_name is not None
    ]
    return _drawn(study, answer, panels, min(3, len(panels)), "forest-classes")


def _drawn(
    study: Study, answer: Answer, panels: Sequence[tuple[str, Outcome, str]], columns: int, name: str
) -> Drawn:
    """``panels``: reference, outcome and title of each."""
    arms = study.synthetic
    rows, columns = panel_grid(len(panels), columns)
    is_narrow = name.endswith("narrow")
    with rc_context({**STYLE, "font.size": 9.5} if is_narrow else STYLE):
        height = rows * (0.75 + 0.15 * is_narrow + _ROW_IN * len(arms)) + 0.45
        fig = Figure(figsize=(NARROW_IN if is_narrow else WIDTH_IN, height))
        axes = fig.subplots(rows, columns, sharey=True, sharex="all", squeeze=False).flat
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for number, (axis, (reference, outcome, title)) in enumerate(zip(axes, panels)):
            _panel(axis, study, answer, reference, outcome)
            axis.set_title(title)
            axis.tick_params(labelbottom=True)
            if number + columns >= len(panels):
                axis.set_xlabel("points of " + outcome.metric)
        axes[0].set_yticks(range(len(arms)), arms)
        axes[0].set_ylim(len(arms) - 0.4, -0.6)
        _limit(axes[0], answer, panels)
        fig.legend(handles=_keys(answer), loc="outside lower center", ncols=1 if is_narrow else 3)
        return both(fig, name)


def _panel(axis: Axes, study: Study, answer: Answer, reference: str, outcome: Outcome) -> None:
    axis.axvline(0, color=LIGHT["soft"], linewidth=1)
    axis.axvline(100 * answer.margin, color=LIGHT["soft"], linewidth=0.8, dashes=(2, 2))
    for row, arm in enumerate(study.synthetic):
        found = answer.difference(outcome, arm, reference)
        if found is None or found.comparison.mean is None:
            axis.annotate("no runs", (0, row), (4, 0), textcoords="offset points", va="center")
            continue
        colour = ARMS_LIGHT[tint(study, arm)]
        _line(axis, row, found.corrected.interval, colour, _RUNS_PT, 0.38)
        _line(axis, row, found.over_patients_simultaneous, colour, _PATIENTS_PT, 1.0, caps=True)
        axis.plot(
            100 * found.comparison.mean,
            row,
            marker=MARKERS[tint(study, arm)],
            markersize=6.5,
            color=colour,
            markeredgecolor=LIGHT["paper"],
            markeredgewidth=0.9,
            zorder=4,
        )
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}".replace("-", "−") if x else "0"))
    axis.grid(axis="x")
    axis.tick_params(length=0)
    axis.tick_params(axis="y", labelcolor=LIGHT["ink"])
    axis.spines[["left", "bottom"]].set_visible(False)


def _line(
    axis: Axes,
    row: int,
    ends: Interval | None,
    colour: str,
    width: float,
    alpha: float,
    *,
    caps: bool = False,
) -> None:
    if ends is None:
        return
    low, high = (100 * end for end in ends)
    axis.plot(
        [low, high], [row, row], color=(colour, alpha), linewidth=width, solid_capstyle="butt", zorder=3
    )
    if caps:
        axis.plot([low, high], [row, row], color=colour, linestyle="", marker="|", markersize=7, zorder=3)


def _limit(axis: Axes, answer: Answer, panels: Sequence[tuple[str, Outcome, str]]) -> None:
    """The same axis for all panels. An interval of few runs may be so wide that nothing else could be read: it is
    cut at twice the range of all else, but never below 5 points."""
    shown = {(reference, outcome) for reference, outcome, _ in panels}
    found = [
        each
        for each in answer.differences
        if (each.comparison.reference, each.comparison.outcome) in shown and each.comparison.mean is not None
    ]
    kept = [100 * abs(each.comparison.mean or 0.0) for each in found]
    kept += [100 * abs(end) for each in found for end in each.over_patients_simultaneous or ()]
    reach = max([2.5, 100 * answer.margin, *kept])
    widest = max([reach, *(100 * abs(end) for each in found for end in each.corrected.interval or ())])
    limit = 1.08 * min(widest, 2 * reach)
    axis.set_xlim(-limit, limit if math.isfinite(limit) else None)


def _keys(answer: Answer) -> list[Line2D]:
    soft = LIGHT["soft"]
    over = "folds" if answer.folds > 1 else "seeds"
    keys = []
    if any(each.over_patients_simultaneous for each in answer.differences):
        keys.append(
            Line2D(
                [],
                [],
                color=soft,
                linewidth=_PATIENTS_PT,
                marker="|",
                markersize=7,
                label="over test patients",
            )
        )
    if any(each.corrected.interval for each in answer.differences):
        keys.append(
            Line2D([], [], color=(soft, 0.45), linewidth=_RUNS_PT, label=f"between runs, over {over}")
        )
    margin = f"smallest gain that matters ({100 * answer.margin:g})"
    keys.append(Line2D([], [], color=soft, linewidth=0.8, dashes=(2, 2), label=margin))
    return keys
