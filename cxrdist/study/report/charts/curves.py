"""The paper's Fig. 5: validation during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from cxrdist.study.report.charts.style import (
    ARMS_LIGHT,
    LIGHT,
    MARKERS,
    STYLE,
    WIDTH_IN,
    Drawn,
    both,
    faint,
    place,
    tint,
)
from cxrdist.study.report.reading.runs import ClsRun, Study

FEW_ARMS = 6
"""Up to as many arms, each run is shown beside the mean of its arm."""
_LEGEND_COLUMNS = 5
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))
"""Tell arms of one colour apart."""


def curves_figure(study: Study) -> Drawn | None:
    """The paper's Fig. 5: validation balanced accuracy; None if no run logged any.

    Line: mean over folds and seeds. With few arms, a band from the lowest to the highest run, and a large marker at
    the kept checkpoint of each run.
    """
    if not any(run.curve for run in study.cls):
        return None
    with rc_context(STYLE):
        fig = Figure(figsize=(WIDTH_IN, 3.5 + 0.2 * ((len(study.arms) - 1) // _LEGEND_COLUMNS)))
        panels = fig.subplots(1, 2, sharey=True)
        for panel, key, label in zip(
            panels, ("epoch", "images"), ("epochs of its own mix (as in the paper)", "training images seen")
        ):
            for arm in study.arms:
                _curve(panel, study, arm, key)
            chance = 1 / len(study.classes)
            panel.axhline(chance, color=LIGHT["soft"], linewidth=0.8, dashes=(1, 2))
            panel.annotate(
                "chance",
                (1, chance),
                (0, 3),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                fontsize=7.5,
                color=LIGHT["soft"],
            )
            panel.set_xlabel(label)
            panel.set_xlim(left=0)
            panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            panel.grid(axis="y")
            panel.tick_params(length=0)
            panel.spines["left"].set_visible(False)
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panels[0].set_title("Validation balanced accuracy", fontweight="normal")
        handles, labels = panels[0].get_legend_handles_labels()
        columns = min(len(labels), _LEGEND_COLUMNS)
        fig.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.6)
        return both(fig, "curves")


def _curve(panel: Axes, study: Study, arm: str, key: str) -> None:
    runs = [run for run in study.of(arm) if run.curve]
    if not runs:
        return
    colour, marker = ARMS_LIGHT[tint(study, arm)], MARKERS[tint(study, arm)]
    x, scores = aligned(runs, key)
    is_shown = len(study.arms) <= FEW_ARMS
    if len(runs) > 1 and is_shown:
        panel.fill_between(x, scores.min(0), scores.max(0), color=faint(colour, 0.18), linewidth=0)
    panel.plot(
        x,
        scores.mean(0),
        color=colour,
        linewidth=1.8,
        linestyle=_DASHES[place(study, arm) // len(ARMS_LIGHT) % len(_DASHES)],
        label=arm,
        marker=marker,
        markersize=3,
        markevery=max(1, len(x) // 16),
        zorder=3,
    )
    for run in runs if is_shown else ():
        kept = min(run.curve, key=lambda point: abs(point["images"] - run.summary["best_images"]))
        panel.plot(
            kept[key],
            kept["val/balanced_accuracy"],
            marker=marker,
            markersize=8,
            markerfacecolor=colour,
            markeredgecolor=LIGHT["paper"],
            markeredgewidth=1.2,
            zorder=4,
        )


def aligned(runs: Sequence[ClsRun], key: str) -> tuple[np.ndarray, np.ndarray]:
    """The runs' curves on a common axis: x [n] float, balanced accuracy [runs, n].

    x contains every point of any run within the range that all runs cover; values between the points of a run are
    interpolated linearly.
    """
    xs = [np.array([point[key] for point in run.curve], float) for run in runs]
    ys = [np.array([point["val/balanced_accuracy"] for point in run.curve], float) for run in runs]
    grid = np.unique(np.concatenate(xs))
    grid = grid[(grid >= max(x[0] for x in xs)) & (grid <= min(x[-1] for x in xs))]
    return grid, np.stack([np.interp(grid, x, y) for x, y in zip(xs, ys)])
