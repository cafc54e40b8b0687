"""The paper's Fig. 4: images per class in an epoch of each arm."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from cxrdist.study.report.charts.style import (
    ARMS_LIGHT,
    LIGHT,
    STYLE,
    WIDTH_IN,
    Drawn,
    both,
    faint,
    hatched,
    panel_grid,
    tint,
)
from cxrdist.study.report.reading.runs import Study

_COLUMNS = 5


def counts_figure(study: Study) -> Drawn:
    """Images per class in an epoch of each arm, real (solid) and synthetic (hatched); of its first run."""
    with rc_context(STYLE):
        names, arms = study.classes, study.arms
        rows, columns = panel_grid(len(arms), _COLUMNS)
        fig = Figure(figsize=(WIDTH_IN, 0.4 + rows * (0.6 + 0.27 * len(names))))
        panels = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
        for panel in panels[len(arms) :]:
            panel.set_visible(False)
        for number, (panel, arm) in enumerate(zip(panels, arms)):
            quotas = study.of(arm)[0].summary["counts"]
            real = np.array([quotas.get(name, {}).get("real", 0) for name in names])
            made = np.array([quotas.get(name, {}).get("synthetic", 0) for name in names])
            colour = ARMS_LIGHT[tint(study, arm)]
            panel.barh(range(len(names)), real, height=0.66, color=colour)
            # Two bars, since an SVG pattern has no background colour.
            panel.barh(range(len(names)), made, left=real, height=0.66, color=faint(colour, 0.25))
            panel.barh(range(len(names)), made, left=real, height=0.66, **hatched(colour))
            for y, (r, s) in enumerate(zip(real, made, strict=True)):
                label = f"{r:,}" + (f" + {s:,}" if s else "")
                panel.annotate(
                    label, (r + s, y), (4, 0), textcoords="offset points", va="center", fontsize=7.5
                )
            panel.set_title(f"{arm}\n{real.sum() + made.sum():,} per epoch")
            panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            panel.grid(axis="x")
            panel.tick_params(length=0)
            panel.spines[["left", "bottom"]].set_visible(False)
            # The last panel of a column has no panel below.
            panel.tick_params(labelbottom=number + columns >= len(arms))
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
        # Room for the longest label, which is outside its bar.
        panels[0].set_xlim(0, panels[0].get_xlim()[1] * (1.2 + 0.08 * columns))
        soft = LIGHT["soft"]
        keys = [
            Patch(facecolor=soft, label="real"),
            Patch(label="synthetic", **hatched(soft)),
        ]
        fig.legend(handles=keys, loc="outside lower right", ncols=2)
        return both(fig, "counts")
