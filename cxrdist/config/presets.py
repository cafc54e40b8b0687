"""The presets of each training job, by the image size that they fit."""

from __future__ import annotations

PRESETS: dict[str, dict[int, str]] = {
    "gan": {
        64: "configs/gan/demo.yaml",
        128: "configs/gan/px128.yaml",
        4096: "configs/gan/modern.yaml",
    },
    "cls": {
        32: "configs/cls/px32.yaml",
        64: "configs/cls/px64.yaml",
        128: "configs/cls/px128.yaml",
        4096: "configs/cls/paper.yaml",
    },
}
"""By job: the largest image size in pixels -> the preset's config file, in ascending order."""


def preset_of(job: str, image_size: int) -> str:
    """The config file of a job's preset for images of this side in pixels."""
    return next(name for largest, name in PRESETS[job].items() if image_size <= largest)
