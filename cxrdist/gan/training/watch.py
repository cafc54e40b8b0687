"""Detect a collapse of GAN training from the metrics of each look, without networks or files.

A collapse must last: D classifies all images correctly, or a class's samples are nearly alike, at ``LOOKS``
consecutive looks that span ``IMAGES`` images. Both also occur in the first thousands of images of good trainings.
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
D_COLLAPSE = ""  # no class has this name


class Watch:
    """The state of one model: how long each cause has lasted, and the warnings given."""

    def __init__(self, on_collapse: Literal["warn", "stop"]) -> None:
        self.on_collapse = on_collapse
        self.warnings: list[str] = []
        """All warnings so far, for the summary."""
        self._images = 0
        self._bad: dict[str, list[int]] = {}  # cause -> consecutive looks, images before the first of them
        self._warned: set[str] = set()

    def check_finite(self, images: int, values: Mapping[str, float]) -> None:
        """Raises UserError if a value is not finite."""
        if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
            raise UserError(
                f"after {images:,} images {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} no longer finite: "
                "lower --learning-rate or set --precision fp32, and start again with another --run"
            )

    def look(self, images: int, values: Mapping[str, float], spread: Mapping[str, float]) -> list[str]:
        """The new warnings after ``images`` images. A cause is reported once until it disappears and recurs.

        ``values``: means since the last look, with ``d_accuracy``; ``spread``: ``{class: Diversity.of}``. Raises
        UserError if a value is not finite, and for a collapse if ``on_collapse`` is stop, also at each look of a
        resumed run while the collapse lasts.
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
        self.warnings += warnings
        if collapsed and self.on_collapse == "stop":
            raise UserError("; ".join(collapsed.values()))
        return warnings

    def check_end(self) -> None:
        """Raises UserError if ``on_collapse`` is stop and the last look found a collapse: starting a stopped run
        again does not finish it."""
        if self._warned and self.on_collapse == "stop":
            raise UserError(f"{self.warnings[-1]}; --on-collapse warn accepts this model")

    def state_dict(self) -> dict[str, Any]:
        """The whole state, as JSON types. A resumed run gives the same warnings as an uninterrupted one."""
        return {
            "images": self._images,
            "bad": {cause: list(since) for cause, since in self._bad.items()},
            "warned": sorted(self._warned),
            "said": list(self.warnings),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._images = state["images"]
        self._bad = {cause: list(since) for cause, since in state["bad"].items()}
        self._warned = set(state["warned"])
        self.warnings = list(state["said"])


def _advice(cause: str, images: int, lasted: int, spread: Mapping[str, float]) -> str:
    if cause == D_COLLAPSE:
        return (
            f"after {images:,} images D has classified every image correctly for {lasted:,} images, so G hardly "
            "learns: D has memorized the training images or is too strong; set --diffaugment.translation 0.125 "
            "--diffaugment.brightness 0.2 --diffaugment.contrast 0.2, --regularizer r1, or a smaller --budget, and "
            "start again with another --run"
        )
    return (
        f"after {images:,} images the samples of {cause} have been nearly alike for {lasted:,} images (their "
        f"diversity is {spread[cause]:.2f} of that of real ones): look at the grids in samples/; lower "
        "--learning-rate, set --diffaugment.translation 0.125, or set --architecture conditional if the class has "
        "few images, and start again with another --run"
    )
