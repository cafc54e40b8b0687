"""How a film was exposed, developed and marked: the differences between two films of the same chest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrdist.phantom.anatomy import Stream, generator


@dataclass(frozen=True, kw_only=True)
class Technique:
    """The technique of one study. It depends only on the view: given the view, it is independent of the class."""

    scatter: float
    noise: float
    contrast: float
    brightness: float
    black: float
    white: float
    """``black`` and ``white``: grey levels, 0..1, of the unattenuated beam and of full attenuation."""
    equalise: float
    """Share of the coarse structure that the film's processing removes, 0..1."""
    heel: tuple[float, float]
    """Fall-off of exposure across the field, image plane x and z, in units of density per half field."""
    collimated: tuple[float, float, float, float]
    """Left, right, top and bottom borders that the beam did not reach, as fractions of the field."""
    border_turn: float
    """Angle between the border and the image's edges, in radians."""
    border_white: bool
    marker_right: bool
    word_above: bool
    """True if the word PHANTOM is in an upper corner, False if in a lower one; on the side without the marker."""

    @staticmethod
    def of(seed: int, patient: int, study: int, view: str) -> Technique:
        draw = generator(seed, patient, study, Stream.TECHNIQUE)
        bed = view == "AP"
        flat = max(0.0, draw.normal(0.15 if bed else -0.15, 0.5))
        share = draw.exponential(0.018, 4) * (draw.random(4) < 0.35)
        turned = draw.random() < (0.1 if bed else 0.03)
        left, right, top, bottom = np.minimum(share + 0.03 * turned, 0.14)
        return Technique(
            scatter=float(draw.uniform(0.9, 1.7) if bed else draw.uniform(0.6, 1.2)),
            noise=float(draw.uniform(0.6, 1.5) * (1.3 if bed else 1.0)),
            contrast=float(np.clip((0.88 if bed else 1.08) * np.exp(draw.normal(0, 0.2)), 0.5, 1.6)),
            brightness=float(np.clip(draw.normal(0.1 if bed else 0.05, 0.13), -0.12, 0.4)),
            black=float(draw.uniform(0.0, 0.03) + 0.09 * flat),
            white=float(draw.uniform(0.93, 1.0) - 0.08 * flat),
            equalise=float(draw.uniform(0.15, 0.6)),
            heel=(float(draw.normal(0, 0.05 + 0.08 * bed)), float(draw.normal(0, 0.06))),
            collimated=(float(left), float(right), float(top), float(bottom)),
            border_turn=float(draw.normal(0, 0.05)) if turned else float(draw.normal(0, 0.003)),
            border_white=bool(draw.random() < 0.04),
            marker_right=bool(draw.random() < 0.22),
            word_above=bool(draw.random() < 0.5),
        )
