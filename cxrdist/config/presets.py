"""The presets of each training job, by the image size that they fit."""

from __future__ import annotations

PRESETS: dict[str, dict[int, str]] = {
    "gan": {64: "configs/gan/demo.yaml", 4096: "configs/gan/paper.yaml"},
    "cls": {
        32: "configs/cls/px32.yaml",
        64: "configs/cls/px64.yaml",
        128: "configs/cls/px128.yaml",
        4096: "configs/cls/paper.yaml",
    },
}
"""By job: the largest image size in pixels -> the preset's config file, in ascending order."""
