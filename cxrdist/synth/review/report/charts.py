"""The charts of the report, as PNGs on white: right answers per reader, and calibration."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxrdist.errors import shown
from cxrdist.synth.review.statistics import stated

DPI = 170
WIDTH_IN = 9.6
INK, SOFT, LINE, BLUE = "#1c1d21", "#65676e", "#d9d8d2", "#004488"
STYLE: dict[str, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": INK,
    # A name may contain a dollar sign.
    "text.parse_math": False,
    "figure.constrained_layout.use": True,
}
PANELS = {"right": "all images", "synthetic": "synthetic images", "real": "real images"}
_NAME_LENGTH = 24
_COLUMNS = 4


def accuracy_png(readers: Sequence[dict[str, Any]]) -> bytes:
    """Right answers of each reader (row) with 95 % intervals: of all images, of the synthetic, of the real ones.

    ``readers``: those of the findings that have blinded decisions.
    """
    with rc_context({**STYLE, "figure.constrained_layout.wspace": 0.05}):
        fig = Figure(figsize=(WIDTH_IN, 1.15 + 0.32 * len(readers)))
        panels = fig.subplots(1, len(PANELS), sharex=True, sharey=True)
        for panel, (key, title) in zip(panels, PANELS.items(), strict=True):
            for row, reader in enumerate(readers):
                _share(panel, row, reader["blinded"][key])
                if key == "right":
                    panel.plot(
                        100 * reader["blinded"]["always_one_answer"],
                        row,
                        marker="|",
                        markersize=13,
                        color=SOFT,
                        linestyle="",
                        label="always the more frequent answer" if not row else None,
                    )
            if key != "right":
                panel.axvline(50, color=SOFT, linewidth=0.8, dashes=(2, 2))
            panel.set_title(title)
            panel.set_xlabel("right, %")
            panel.set_xlim(-3, 103)
            panel.set_xticks(range(0, 101, 25))
            panel.grid(axis="x")
            panel.tick_params(length=0)
        panels[0].set_yticks(range(len(readers)), [_label(reader["name"]) for reader in readers])
        panels[0].set_ylim(len(readers) - 0.4, -0.6)
        fig.legend(loc="outside lower left", fontsize=8)
        return _png(fig)


def _share(panel: Axes, row: int, found: dict[str, Any]) -> None:
    if found["value"] is None:
        panel.annotate("none seen", (0, row), va="center", color=SOFT, fontsize=7.5)
        return
    panel.plot([100 * found["low"], 100 * found["high"]], [row, row], color=BLUE, linewidth=1.4)
    panel.plot(100 * found["value"], row, marker="o", markersize=6, color=BLUE, markeredgecolor="white")


def calibration_png(readers: Sequence[dict[str, Any]]) -> bytes:
    """The share of right answers at each confidence, a panel per reader, beside the probability it stands for."""
    with rc_context({**STYLE, "axes.spines.left": True}):
        rows = -(-len(readers) // _COLUMNS)
        columns = -(-len(readers) // rows)
        fig = Figure(figsize=(max(4.0, WIDTH_IN * columns / _COLUMNS), 0.5 + 2.3 * rows))
        panels = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for panel in panels.flat[len(readers) :]:
            panel.set_visible(False)
        for number, (panel, reader) in enumerate(zip(panels.flat, readers)):
            levels = reader["blinded"]["confidence"]["levels"]
            asked = [level["confidence"] for level in levels]
            panel.plot(asked, [100 * stated(c) for c in asked], color=SOFT, linewidth=0.9, dashes=(2, 2))
            for level in levels:
                _level(panel, level["confidence"], level["right"])
            panel.set_title(_label(reader["name"]))
            panel.set_xlim(0.5, 5.5)
            panel.set_ylim(-14, 104)
            panel.set_xticks(asked)
            panel.set_yticks(range(0, 101, 25))
            panel.grid(axis="y")
            # The last panel of a column has no panel below.
            panel.tick_params(length=0, labelbottom=number + columns >= len(readers))
        fig.supxlabel("confidence; above it the number of answers", fontsize=8.5, color=SOFT)
        fig.supylabel("right, %", fontsize=8.5, color=SOFT)
        return _png(fig)


def _level(panel: Axes, confidence: int, found: dict[str, Any]) -> None:
    panel.annotate(str(found["n"]), (confidence, -8), ha="center", va="center", fontsize=7.5, color=SOFT)
    if found["value"] is None:
        return
    panel.plot([confidence] * 2, [100 * found["low"], 100 * found["high"]], color=BLUE, linewidth=1.4)
    panel.plot(
        confidence, 100 * found["value"], marker="o", markersize=5.5, color=BLUE, markeredgecolor="white"
    )


def _label(name: str) -> str:
    name = shown(" ".join(name.split()))
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"


def _png(fig: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the tables have the readers in the same order.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        fig.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
