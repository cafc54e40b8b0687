"""Confusion matrices on test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cxrdist.study.report.charts.style import (
    ARMS_LIGHT,
    LIGHT,
    STYLE,
    WIDTH_IN,
    Drawn,
    both,
    faint,
    panel_grid,
    tint,
)
from cxrdist.study.report.reading.runs import ClsRun, Study

_COLUMNS = 4


def mean_confusion(runs: Sequence[ClsRun]) -> np.ndarray:
    """[classes, classes] float: rows (true class) sum to 1, mean over runs; a class without images is NaN."""
    matrices = np.array([run.test["confusion"] for run in runs], float)
    totals = matrices.sum(2, keepdims=True)
    shares: np.ndarray = np.divide(matrices, totals, out=np.full_like(matrices, np.nan), where=totals > 0)
    return shares.mean(0)


def confusion_figure(study: Study) -> Drawn:
    """Confusion matrices on test, one per arm: for each true class (row), the % predicted as each class."""
    with rc_context(STYLE):
        names, arms = study.classes, study.arms
        rows, columns = panel_grid(len(arms), _COLUMNS)
        side_in = (WIDTH_IN - 1.3) / max(3, columns)
        fig = Figure(figsize=(1.3 + side_in * columns, rows * (side_in + 0.25) + 1.2))
        panels = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
        for panel in panels[len(arms) :]:
            panel.set_visible(False)
        for number, (panel, arm) in enumerate(zip(panels, arms)):
            colour = ARMS_LIGHT[tint(study, arm)]
            for (y, x), share in np.ndenumerate(mean_confusion(study.of(arm))):
                known = not np.isnan(share)
                # Never fully opaque, so that text on it is legible in light and dark mode.
                panel.add_patch(_cell(x, y, faint(colour, 0.6 * share if known else 0.0)))
                panel.text(
                    x,
                    y,
                    f"{100 * share:.0f}" if known else "–",
                    ha="center",
                    va="center",
                    fontweight="bold" if x == y else "normal",
                    fontsize=8.5 if columns < _COLUMNS else 7.5,
                )
            panel.set_xlim(-0.5, len(names) - 0.5)
            panel.set_ylim(len(names) - 0.5, -0.5)
            panel.set_aspect("equal")
            panel.set_xticks(range(len(names)), names, rotation=38, ha="right", rotation_mode="anchor")
            panel.set_title(arm)
            panel.tick_params(length=0, labelbottom=number + columns >= len(arms))
            if number % columns == 0:
                panel.set_ylabel("true class")
            panel.spines[:].set_visible(False)
        panels[0].set_yticks(range(len(names)), names)
        fig.supxlabel("predicted class", fontsize=8.5, color=LIGHT["soft"])
        return both(fig, "confusion")


def _cell(x: int, y: int, colour: tuple[str, float]) -> Rectangle:
    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor=LIGHT["line"], linewidth=0.6)
