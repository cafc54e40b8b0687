"""Noticing that a GAN's training leads nowhere, from the figures of each look: no networks, no files.

A collapse is what lasts: D judges all images right, or a class's samples are alike, at ``LOOKS`` looks in a row that
span ``IMAGES`` images. Both also happen in the first thousands of images of trainings that come out well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from cxrdist.errors import UserError
from cxrdist.gan.diversity import COLLAPSED_BELOW

LOOKS = 3
IMAGES = 5000
D_ALWAYS_RIGHT = 0.999
D_COLLAPSE = ""  # which no class is called


class Watch:
    """One model's state: since when each cause is there, and what was said of it."""

    def __init__(self, on_collapse: Literal["warn", "stop"]) -> None:
        self.on_collapse = on_collapse
        self.said: list[str] = []
        """Every warning so far, for the summary."""
        self._images = 0
        self._bad: dict[str, list[int]] = {}  # cause -> looks in a row, images before the first of them
        self._warned: set[str] = set()

    def check_finite(self, images: int, values: Mapping[str, float]) -> None:
        """Raises UserError where a figure is not finite."""
        if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
            raise UserError(
                f"after {images:,} images {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} no longer finite: "
                "lower --learning-rate, or take --precision fp32, and start again with another --run"
            )

    def look(self, images: int, values: Mapping[str, float], spread: Mapping[str, float]) -> list[str]:
        """What there is to say after so many images: each cause once, until it has gone and come again.

        ``values``: the means since the last look, ``d_accuracy`` among them; ``spread``: ``{class:
        Diversity.of}``. Raises UserError where a figure is not finite, and for a collapse where on_collapse is
        stop, also at each look of the run that goes on from there.
        """
        self.check_finite(images, values)
        self.check_finite(images, {f"the diversity of {name}": value for name, value in spread.items()})
        bad = {name for name, value in spread.items() if value < COLLAPSED_BELOW}
        collapsed = {}
        for cause in (D_COLLAPSE, *spread):
            is_bad = values["d_accuracy"] >= D_ALWAYS_RIGHT if cause == D_COLLAPSE else cause in bad
            if not is_bad:
                self._bad.pop(cause, None)
                self._warned.discard(cause)
                continue
            looks, since = self._bad.get(cause, [0, self._images])
            self._bad[cause] = [looks + 1, since]
            if looks + 1 >= LOOKS and images - since >= IMAGES:
                collapsed[cause] = _advice(cause, images, images - since, spread)
        self._images = images
        warnings = [text for cause, text in collapsed.items() if cause not in self._warned]
        self._warned |= collapsed.keys()
        self.said += warnings
        if collapsed and self.on_collapse == "stop":
            raise UserError("; ".join(collapsed.values()))
        return warnings

    def check_end(self) -> None:
        """Raises UserError where the last look found a collapse and on_collapse is stop: a run that it stopped there
        is not finished by starting it again."""
        if self._warned and self.on_collapse == "stop":
            raise UserError(f"{self.said[-1]}; --on-collapse warn keeps this one as it is")

    def state_dict(self) -> dict[str, Any]:
        """All of it, as JSON holds it: a run that was resumed warns as the one that was not interrupted."""
        return {
            "images": self._images,
            "bad": {cause: list(since) for cause, since in self._bad.items()},
            "warned": sorted(self._warned),
            "said": list(self.said),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._images = state["images"]
        self._bad = {cause: list(since) for cause, since in state["bad"].items()}
        self._warned = set(state["warned"])
        self.said = list(state["said"])


def _advice(cause: str, images: int, lasted: int, spread: Mapping[str, float]) -> str:
    if cause == D_COLLAPSE:
        return (
            f"after {images:,} images D has told every image right for {lasted:,}, so G learns little: D knows its "
            "images by heart or is too strong; take --diffaugment.translation 0.125 --diffaugment.brightness 0.2 "
            "--diffaugment.contrast 0.2, --regularizer r1, or a smaller --budget, with another --run"
        )
    return (
        f"after {images:,} images the samples of {cause} have been nearly alike for {lasted:,} (they differ "
        f"{spread[cause]:.2f} times as much as real ones): look at samples/; lower --learning-rate, take "
        "--diffaugment.translation 0.125, or --architecture conditional for a class of few images, with another --run"
    )
