"""One study before it is rendered: patient, pose, technique, signs, devices, and the solids derived from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cxrdist.phantom import thorax
from cxrdist.phantom.anatomy import Anatomy, Pose
from cxrdist.phantom.lines import Lines
from cxrdist.phantom.project import Ellipsoid, Grid
from cxrdist.phantom.signs import Signs
from cxrdist.phantom.technique import Technique
from cxrdist.phantom.thorax import Lung


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All that ``render`` draws; depends only on (seed, patient, study, label)."""

    anatomy: Anatomy
    pose: Pose
    technique: Technique
    signs: Signs
    lines: Lines
    chest: tuple[Lung, Lung]
    """The lungs as they would fill the chest: the image's left, then its right."""
    lungs: tuple[Lung, Lung]
    """The actual lungs: a collapsed lung is smaller than its side of the chest."""
    heart: list[Ellipsoid]

    @staticmethod
    def of(seed: int, patient: int, study: int, label: str) -> Scene:
        anatomy = Anatomy.of(seed, patient)
        pose = Pose.of(seed, patient, study, label)
        signs = Signs.of(seed, patient, study, label, anatomy, pose)
        chest = thorax.lungs_of(anatomy, pose)
        return Scene(
            anatomy=anatomy,
            pose=pose,
            technique=Technique.of(seed, patient, study, pose.view),
            signs=signs,
            lines=Lines.of(seed, patient, study, anatomy, pose, signs),
            chest=chest,
            lungs=(replace(chest[0], rim=signs.collapse[0]), replace(chest[1], rim=signs.collapse[1])),
            heart=thorax.heart_of(anatomy, pose, signs, chest[1].dome_z + 1.7),
        )

    def grid(self, size: int) -> Grid:
        return Grid(
            size=size,
            half_width_cm=self.pose.half_width_cm,
            centre_x_cm=self.pose.centre_x_cm,
            centre_z_cm=self.pose.centre_z_cm,
            lean=self.pose.lean,
        )

    def truth(self) -> dict[str, float]:
        """The signs as numbers; see ``render.Study``."""
        return {
            "cardiothoracic_ratio": thorax.cardiothoracic_ratio(self.heart, self.chest),
            "fluid_level": max(self.signs.fluid),
            "meniscus_cm": self.signs.meniscus_cm,
            "edema": self.signs.edema,
            "septal_lines": float(self.signs.septal_lines),
            "pneumothorax_area": max(_rim_area(a, b) for a, b in zip(self.chest, self.lungs)),
            "severity": self.signs.severity,
        }


def _rim_area(chest: Lung, lung: Lung) -> float:
    """Projected area of the air around a collapsed lung, as a fraction of the whole lung's."""
    if not lung.rim:
        return 0.0
    z = np.linspace(chest.apex_z, chest.base_z, 512)
    width_full, width_now = (np.subtract(*one.edges(z)[::-1]) for one in (chest, lung))
    return 1.0 - float(width_now.sum() / width_full.sum())
