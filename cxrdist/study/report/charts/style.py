"""What the charts have in common: SVG for the page, which has a light and a dark mode, and PNG for files.

Charts are drawn with the light palette; in the SVG its colours are replaced by CSS variables of the page.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from cxrdist.study.report.reading.runs import PAPER_MIXES, Study

LIGHT = {"ink": "#1c1d21", "soft": "#65676e", "line": "#d9d8d2", "paper": "#fffefb"}
DARK = {"ink": "#ecebe6", "soft": "#a3a5ad", "line": "#3a3c43", "paper": "#17181c"}
ARMS_LIGHT = ("#004488", "#ddaa33", "#bb5566", "#117755", "#882299", "#557799")
ARMS_DARK = ("#6699cc", "#eecc66", "#ee99aa", "#55bb99", "#cc88dd", "#99bbcc")
"""Paul Tol's high-contrast and light medium-contrast schemes, distinct for all kinds of colour vision and in grey.
The paper's mixes have the first three; other arms use the rest in turn."""
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
WIDTH_IN = 9.6
PNG_DPI = 170


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One figure in both forms."""

    svg: str
    """An ``<svg>`` element whose colours are CSS variables (``--ink``, ``--arm-0`` ...)."""
    png: bytes


def place(study: Study, arm: str) -> int:
    """The number of an arm among all of the study: DS1 0, DS2 1, DS3 2, whether run or not, then the others."""
    return tuple(dict.fromkeys((*PAPER_MIXES, *study.arms))).index(arm)


def tint(study: Study, arm: str) -> int:
    """Index of an arm's colour and marker. With more arms than colours they repeat."""
    return place(study, arm) % len(ARMS_LIGHT)


def panel_grid(panels: int, most_columns: int) -> tuple[int, int]:
    """Rows and columns for a number of panels, with rows as even as they can be."""
    rows = -(-panels // most_columns)
    return rows, -(-panels // rows)


def faint(colour: str, alpha: float) -> tuple[str, float]:
    return colour, alpha


def hatched(colour: str) -> dict[str, Any]:
    return {"facecolor": "none", "edgecolor": colour, "linewidth": 0.6, "hatch": "////"}


def both(fig: Figure, name: str) -> Drawn:
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
