"""Right answers of readers to "real or synthetic?"."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxrdist.errors import shown
from cxrdist.study.report.charts.style import LIGHT, STYLE, WIDTH_IN, Drawn, both
from cxrdist.study.report.reading.readers import Blinded, Reader, Share

PANELS = {"right": "all images", "synthetic": "synthetic images", "real": "real images"}
_NAME_LENGTH = 24


def readers_figure(readers: Sequence[Reader]) -> Drawn | None:
    """Shares with 95 % intervals, a row per reader; None if none has answered the question."""
    asked = [(reader.name, reader.blinded) for reader in readers if reader.blinded]
    if not asked:
        return None
    with rc_context({**STYLE, "figure.constrained_layout.wspace": 0.05}):
        fig = Figure(figsize=(WIDTH_IN, 1.15 + 0.3 * len(asked)))
        panels = fig.subplots(1, len(PANELS), sharex=True, sharey=True)
        for panel, (key, title) in zip(panels, PANELS.items(), strict=True):
            for row, (_, found) in enumerate(asked):
                _share(panel, row, getattr(found, key))
            _chance(panel, key, [found for _, found in asked])
            panel.set_title(title)
            panel.set_xlabel("right, %")
            panel.set_xlim(-3, 103)
            panel.set_xticks(range(0, 101, 25))
            panel.grid(axis="x")
            panel.tick_params(length=0)
            panel.tick_params(axis="y", labelcolor=LIGHT["ink"])
            panel.spines[["left", "bottom"]].set_visible(False)
        panels[0].set_yticks(range(len(asked)), [_label(name) for name, _ in asked])
        panels[0].set_ylim(len(asked) - 0.4, -0.6)
        fig.legend(loc="outside lower left")
        return both(fig, "readers")


def _share(panel: Axes, row: int, found: Share) -> None:
    if found.value is None or found.low is None or found.high is None:
        panel.annotate("none seen", (0, row), va="center", color=LIGHT["soft"], fontsize=7.5)
        return
    panel.plot([100 * found.low, 100 * found.high], [row, row], color=LIGHT["ink"], linewidth=1.4)
    panel.plot(
        100 * found.value,
        row,
        marker="o",
        markersize=6.5,
        color=LIGHT["ink"],
        markeredgecolor=LIGHT["paper"],
        markeredgewidth=0.9,
    )


def _chance(panel: Axes, key: str, asked: Sequence[Blinded]) -> None:
    """Of all images what one answer to each of them reaches; of one origin a guess."""
    if key != "right":
        panel.axvline(50, color=LIGHT["soft"], linewidth=0.8, dashes=(2, 2))
        return
    panel.plot(
        [100 * found.always_one_answer for found in asked],
        range(len(asked)),
        marker="|",
        markersize=13,
        color=LIGHT["soft"],
        linestyle="",
        label="always the more frequent answer",
    )


def _label(name: str) -> str:
    name = shown(" ".join(name.split()))
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
