"""The distribution of the gates' scores, of synthetic candidates and of real validation images, as one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.files import atomic_writer
from cxrdist.synth.gates.judge import Judge

BINS = 30
ENDS = (0.005, 0.995)
"""Quantiles of all scores between which the bins lie: what is farther out is counted in the first and last bin."""
REAL, SYNTHETIC, THRESHOLD = "#b8b8b8", "#1f5fa8", "#b3261e"


def write_scores(path: Path, judge: Judge, records: Mapping[str, np.ndarray]) -> None:
    """A row per gate and a column per class. ``records``: ``{class: [candidates] of gates.record.dtype_of}``."""
    from matplotlib.figure import Figure

    figure = Figure((2.1 * len(records) + 0.6, 1.6 * len(judge.gates) + 0.5), layout="constrained")
    panels = figure.subplots(len(judge.gates), len(records), squeeze=False)
    for row, (gate, limits) in enumerate(judge.gates):
        for column, (name, rows) in enumerate(records.items()):
            panel = panels[row][column]
            _panel(panel, rows[gate.name], limits.real[name], limits.of_class[name])
            if row == 0:
                panel.set_title(name, fontsize=9, parse_math=False)  # a name may hold a dollar sign
            if column == 0:
                panel.set_ylabel(f"{gate.name}\nshare of images", fontsize=8)
    panels[0][0].legend(fontsize=6, frameon=False)
    with atomic_writer(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _panel(panel: Any, synthetic: np.ndarray, real: np.ndarray, threshold: float) -> None:
    every = np.concatenate([synthetic, real])
    every = every[np.isfinite(every)]
    low, high = np.quantile(np.append(every, threshold), ENDS)
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    for scores, colour, style, label in (
        (real, REAL, {"histtype": "stepfilled"}, f"real, val ({len(real):,})"),
        (synthetic, SYNTHETIC, {"histtype": "step", "linewidth": 1.2}, "synthetic"),
    ):
        weights = np.full(len(scores), 1 / max(len(scores), 1))
        inside = np.clip(np.nan_to_num(scores, nan=high), low, high)
        panel.hist(inside, edges, weights=weights, color=colour, label=label, **style)
    panel.axvline(threshold, color=THRESHOLD, linewidth=1, linestyle="--", label="threshold")
    panel.tick_params(labelsize=6)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
