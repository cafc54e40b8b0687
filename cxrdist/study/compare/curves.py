"""The curves of several runs over each other, as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from cxrdist.files import write_atomic
from cxrdist.study.compare.runs import CURVES, ComparedRun
from cxrdist.study.report.charts.style import ARMS_LIGHT, LIGHT, PNG_DPI, STYLE

_DASHES = ("-", "--", ":", "-.")


def write_curves(runs: Sequence[ComparedRun], out: Path) -> list[Path]:
    """Write ``out/curves.png`` and ``out/curves.svg``: a panel for each metric, a line for each run (and model of a
    GAN) against images. Returns their paths; none if no run has a curve."""
    if not any(run.curves for run in runs):
        return []
    metrics = CURVES[runs[0].job]
    with rc_context({**STYLE, "svg.hashsalt": "compare"}):
        fig = Figure(figsize=(9.6, 3.8))
        for panel, metric in zip(fig.subplots(1, len(metrics)), metrics, strict=True):
            _draw(panel, runs, metric)
        handles, labels = fig.axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
        paths = []
        for ending in ("png", "svg"):
            data = io.BytesIO()
            dates = {"Software": None} if ending == "png" else dict.fromkeys(("Date", "Creator"))
            fig.savefig(data, format=ending, dpi=PNG_DPI, facecolor="white", metadata=dates)
            paths.append(out / f"curves.{ending}")
            write_atomic(paths[-1], data.getvalue())
    return paths


def _draw(panel: Axes, runs: Sequence[ComparedRun], metric: str) -> None:
    for number, run in enumerate(runs):
        found = {name: points for name, points in run.curves.items() if name.split("/", 1)[-1] == metric}
        found |= {metric: run.curves[metric]} if metric in run.curves else {}
        for model, (name, points) in enumerate(found.items()):
            panel.plot(
                [images for images, _ in points],
                [value for _, value in points],
                color=ARMS_LIGHT[number % len(ARMS_LIGHT)],
                linestyle=_DASHES[(number // len(ARMS_LIGHT) + model) % len(_DASHES)],
                linewidth=1.5,
                label=run.name if name == metric else f"{run.name} {name.removesuffix(f'/{metric}')}",
            )
    panel.set_title(metric, fontweight="normal")
    panel.set_xlabel("training images seen", color=LIGHT["soft"])
    panel.set_xlim(left=0)
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    panel.grid(axis="y")
