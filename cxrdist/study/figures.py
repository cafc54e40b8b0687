"""The charts of the report: SVG for the page, which has a light and a dark mode, and PNG for files.

Charts are drawn with the light palette; in the SVG its colours are replaced by CSS variables of the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from cxrdist.study.collect import ClsRun, Study
from cxrdist.study.tables import columns

LIGHT = {"ink": "#1c1d21", "soft": "#65676e", "line": "#d9d8d2", "paper": "#fffefb"}
DARK = {"ink": "#ecebe6", "soft": "#a3a5ad", "line": "#3a3c43", "paper": "#17181c"}
ARMS_LIGHT = ("#004488", "#ddaa33", "#bb5566", "#117755", "#882299", "#557799")
ARMS_DARK = ("#6699cc", "#eecc66", "#ee99aa", "#55bb99", "#cc88dd", "#99bbcc")
"""Paul Tol's high-contrast and light medium-contrast schemes, distinct for all kinds of colour vision and in grey.
The paper's mixes have the first three; other mixes use the rest in turn."""
MARKERS = "osD^vP"

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["soft"],
    "axes.titlecolor": LIGHT["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "text.color": LIGHT["ink"],
    "xtick.color": LIGHT["line"],
    "ytick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["soft"],
    "ytick.labelcolor": LIGHT["soft"],
    # A class name may contain a dollar sign.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
}
_WIDTH_IN = 9.6
PNG_DPI = 170


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One figure in both forms."""

    svg: str
    """An ``<svg>`` element whose colours are CSS variables (``--ink``, ``--arm-0`` ...)."""
    png: bytes


def arm(study: Study, mix: str) -> int:
    """Index of a mix's colour and marker: always DS1 0, DS2 1, DS3 2."""
    return columns(study).index(mix) % len(ARMS_LIGHT)


def counts_figure(study: Study) -> Drawn:
    """The paper's Fig. 4: images per class in an epoch of each mix, real (solid) and synthetic (hatched)."""
    with rc_context(STYLE):
        names, mixes = study.classes, study.mixes
        fig = Figure(figsize=(_WIDTH_IN, 1.0 + 0.27 * len(names)))
        panels = fig.subplots(1, len(mixes), sharex=True, sharey=True, squeeze=False)[0]
        for panel, mix in zip(panels, mixes, strict=True):
            quotas = study.of(mix)[0].summary["counts"]
            real = np.array([quotas.get(name, {}).get("real", 0) for name in names])
            made = np.array([quotas.get(name, {}).get("synthetic", 0) for name in names])
            colour = ARMS_LIGHT[arm(study, mix)]
            panel.barh(range(len(names)), real, height=0.66, color=colour)
            # Two bars, since an SVG pattern has no background colour.
            panel.barh(range(len(names)), made, left=real, height=0.66, color=_faint(colour, 0.25))
            panel.barh(range(len(names)), made, left=real, height=0.66, **_hatched(colour))
            for y, (r, s) in enumerate(zip(real, made, strict=True)):
                label = f"{r:,}" + (f" + {s:,}" if s else "")
                panel.annotate(
                    label, (r + s, y), (4, 0), textcoords="offset points", va="center", fontsize=7.5
                )
            panel.set_title(f"{mix}\n{real.sum() + made.sum():,} per epoch")
            panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            panel.grid(axis="x")
            panel.tick_params(length=0)
            panel.spines[["left", "bottom"]].set_visible(False)
        panels[0].set_yticks(range(len(names)), names, color=LIGHT["ink"])
        panels[0].invert_yaxis()
        # Room for the longest label, which is outside its bar.
        panels[0].set_xlim(0, panels[0].get_xlim()[1] * 1.32)
        soft = LIGHT["soft"]
        keys = [
            Patch(facecolor=soft, label="real"),
            Patch(label="synthetic", **_hatched(soft)),
        ]
        fig.legend(handles=keys, loc="outside lower right", ncols=2)
        return _both(fig, "counts")


def curves_figure(study: Study) -> Drawn | None:
    """The paper's Fig. 5: validation balanced accuracy; None if no run logged any.

    Line: mean over seeds. Band: lowest to highest seed. Large marker: the kept checkpoint of each run.
    """
    if not any(run.curve for run in study.cls):
        return None
    with rc_context(STYLE):
        fig = Figure(figsize=(_WIDTH_IN, 3.5))
        panels = fig.subplots(1, 2, sharey=True)
        for panel, key, label in zip(
            panels, ("epoch", "images"), ("epochs of its own mix (as in the paper)", "training images seen")
        ):
            for mix in study.mixes:
                _curve(panel, study, mix, key)
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
        fig.legend(handles, labels, loc="outside upper right", ncols=len(labels))
        return _both(fig, "curves")


def _curve(panel: Axes, study: Study, mix: str, key: str) -> None:
    runs = [run for run in study.of(mix) if run.curve]
    if not runs:
        return
    colour, marker = ARMS_LIGHT[arm(study, mix)], MARKERS[arm(study, mix)]
    x, scores = aligned(runs, key)
    if len(runs) > 1:
        panel.fill_between(x, scores.min(0), scores.max(0), color=_faint(colour, 0.18), linewidth=0)
    panel.plot(
        x,
        scores.mean(0),
        color=colour,
        linewidth=1.8,
        label=mix,
        marker=marker,
        markersize=3,
        markevery=max(1, len(x) // 16),
        zorder=3,
    )
    for run in runs:
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


def mean_confusion(runs: Sequence[ClsRun]) -> np.ndarray:
    """[classes, classes] float: rows (true class) sum to 1, mean over runs; a class without images is NaN."""
    matrices = np.array([run.test["confusion"] for run in runs], float)
    totals = matrices.sum(2, keepdims=True)
    shares: np.ndarray = np.divide(matrices, totals, out=np.full_like(matrices, np.nan), where=totals > 0)
    return shares.mean(0)


def confusion_figure(study: Study) -> Drawn:
    """Confusion matrices on test, one per mix: for each true class (row), the % predicted as each class."""
    with rc_context(STYLE):
        names, mixes = study.classes, study.mixes
        side_in = (_WIDTH_IN - 1.3) / max(3, len(mixes))
        fig = Figure(figsize=(1.3 + side_in * len(mixes), side_in + 1.4))
        panels = fig.subplots(1, len(mixes), sharey=True, squeeze=False)[0]
        for panel, mix in zip(panels, mixes, strict=True):
            colour = ARMS_LIGHT[arm(study, mix)]
            for (y, x), share in np.ndenumerate(mean_confusion(study.of(mix))):
                known = not np.isnan(share)
                # Never fully opaque, so that text on it is legible in light and dark mode.
                panel.add_patch(_cell(x, y, _faint(colour, 0.6 * share if known else 0.0)))
                panel.text(
                    x,
                    y,
                    f"{100 * share:.0f}" if known else "–",
                    ha="center",
                    va="center",
                    fontweight="bold" if x == y else "normal",
                )
            panel.set_xlim(-0.5, len(names) - 0.5)
            panel.set_ylim(len(names) - 0.5, -0.5)
            panel.set_aspect("equal")
            panel.set_xticks(range(len(names)), names, rotation=38, ha="right", rotation_mode="anchor")
            panel.set_title(mix)
            panel.tick_params(length=0)
            panel.spines[:].set_visible(False)
        panels[0].set_yticks(range(len(names)), names, color=LIGHT["ink"])
        panels[0].set_ylabel("true class")
        fig.supxlabel("predicted class", fontsize=8.5, color=LIGHT["soft"])
        return _both(fig, "confusion")


def _cell(x: int, y: int, colour: tuple[str, float]) -> Rectangle:
    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor=LIGHT["line"], linewidth=0.6)


def _faint(colour: str, alpha: float) -> tuple[str, float]:
    return colour, alpha


def _hatched(colour: str) -> dict[str, Any]:
    return {"facecolor": "none", "edgecolor": colour, "linewidth": 0.6, "hatch": "////"}


def _both(fig: Figure, name: str) -> Drawn:
    png = io.BytesIO()
    fig.savefig(png, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
    # The layout is computed once, so that the SVG has the same one.
    fig.set_layout_engine("none")
    with rc_context({"svg.hashsalt": name}):
        svg = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        fig.savefig(svg, format="svg", transparent=True, metadata=no_metadata)
    return Drawn(svg=_for_page(svg.getvalue(), name), png=png.getvalue())


def _for_page(svg: str, name: str) -> str:
    """The ``<svg>`` element alone: scalable, with CSS variables as colours and ids that are unique in the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None
    svg = f'<svg class="chart" {view_box[0]}' + svg[svg.index(">") :]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", svg)
    for token, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{token})")
    for i, colour in enumerate(ARMS_LIGHT):
        svg = svg.replace(colour, f"var(--arm-{i})")
    return svg
