"""Radiological signs: the geometry that a class adds to a study, with a severity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrdist.phantom.anatomy import Anatomy, Pose, Stream, generator


@dataclass(frozen=True, kw_only=True)
class Signs:
    severity: float
    """0 (barely there) to 1; 0 for Normal."""
    cardiothoracic_ratio: float
    fluid: tuple[float, float] = (0.0, 0.0)
    """Fluid level on the image's left and right, as a fraction of the lung's height."""
    meniscus_cm: float = 0.0
    """Height by which the fluid rises along the lateral wall."""
    collapse: tuple[float, float] = (0.0, 0.0)
    """Pneumothorax: width of the air rim at the apex, as a fraction of the lung's width."""
    edema: float = 0.0
    septal_lines: int = 0

    @staticmethod
    def of(seed: int, patient: int, study: int, label: str, anatomy: Anatomy, pose: Pose) -> Signs:
        draw = generator(seed, patient, study, Stream.SIGNS)
        severity = float(draw.beta(1.15, 1.6))
        wobble = draw.normal(0.0, 0.008)
        right_first = bool(draw.random() < 0.55)
        both = bool(draw.random() < 0.35)
        other_share = float(draw.uniform(0.25, 0.9))
        meniscus = float(draw.uniform(2.2, 4.4))
        # A film in bed magnifies the heart, and a shallow breath widens it; without disease it stays below one half.
        heart = anatomy.heart_ratio + (0.02 if pose.view == "AP" else 0.0) + 0.05 * (0.95 - pose.inspiration)
        healthy = float(np.clip(heart + wobble, 0.36, 0.49))
        if label == "Normal":
            return Signs(severity=0.0, cardiothoracic_ratio=healthy)
        if label == "Cardiomegaly":
            return Signs(severity=severity, cardiothoracic_ratio=0.51 + 0.165 * severity + abs(wobble))
        if label == "Pleural Effusion":
            level = 0.045 + 0.32 * severity**1.3
            other = level * other_share if both else 0.0
            return Signs(
                severity=severity,
                cardiothoracic_ratio=min(healthy + 0.03 * severity, 0.56),
                fluid=(level, other) if right_first else (other, level),
                meniscus_cm=meniscus * (0.6 + 0.6 * severity),
            )
        if label == "Pulmonary Edema":
            return Signs(
                severity=severity,
                cardiothoracic_ratio=max(healthy, 0.46) + 0.02 + 0.08 * severity,
                edema=0.14 + 0.86 * severity,
                septal_lines=5 + round(12 * severity),
            )
        assert label == "Pneumothorax", label
        rim = 0.08 + 0.38 * severity
        return Signs(
            severity=severity,
            cardiothoracic_ratio=healthy,
            collapse=(rim, 0.0) if right_first else (0.0, rim),
        )
