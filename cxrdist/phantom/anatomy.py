"""A patient's anatomy, shared by all studies, and the pose in which one study was taken."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

CLASSES = ("Cardiomegaly", "Normal", "Pleural Effusion", "Pulmonary Edema", "Pneumothorax")

# Share of films taken in bed (AP), by class: sicker patients lie down, and have leads and tubes. As on real films,
# the view is therefore a confounder: a classifier can score above chance on it alone. The shares are close enough
# for every class to have both views.
_AP_SHARE = {
    "Cardiomegaly": 0.25,
    "Normal": 0.15,
    "Pleural Effusion": 0.35,
    "Pulmonary Edema": 0.5,
    "Pneumothorax": 0.3,
}


class Stream(IntEnum):
    """The purpose of a stream of random numbers. A new purpose takes a new number, so no other stream changes."""

    ANATOMY = 1
    POSE = 2
    SIGNS = 3
    GAS = 4
    VESSELS = 5
    FILM = 6
    PATIENTS = 7
    TECHNIQUE = 8
    LINES = 9
    IMPLANTS = 10


def generator(seed: int, patient: int, study: int, stream: Stream) -> np.random.Generator:
    """The only source of randomness: an independent stream per (seed, patient, study, purpose)."""
    return np.random.default_rng(np.random.SeedSequence([seed, patient, study, stream]))


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Lengths in cm; x and z as in ``project``."""

    sex: str
    age: int
    lung_half_width: float
    lung_half_depth: float
    apex_z: float
    dome_z: float
    """Top of the right hemidiaphragm in full inspiration."""
    left_dome_drop: float
    recess_cm: float
    """From the right dome's top down to the costophrenic angle."""
    widest: float
    """Where the chest is widest, as a share of the way from the apex to the costophrenic angle."""
    roundness: float
    """Shape of the upper chest: about 2 is round, more is square."""
    wall_cm: float
    breast: float
    aorta: float
    """Relative width: 1 in young patients; the arch widens and unfolds with age."""
    heart_ratio: float
    """Cardiothoracic ratio without disease."""
    heart_tilt: float
    rib_drop: float
    bone: float
    shoulder_drop: float
    scoliosis: float
    dome_peak: tuple[float, float]
    """Where each hemidiaphragm is highest, image's left and right, as a share of the lung's half width."""
    apex_skew_cm: float
    """Half the height by which the apex on the image's left lies above the other one."""
    inner_seed: int
    """Seed of the parts too many to list here: vessels and gas."""

    @staticmethod
    def of(seed: int, patient: int) -> Anatomy:
        draw = generator(seed, patient, 0, Stream.ANATOMY)
        female = draw.random() < 0.46
        age = int(np.clip(draw.normal(53, 17), 18, 90))
        tall = draw.normal(-0.5 if female else 0.5, 0.7)
        stout = float(np.clip(draw.normal(0.0, 1.0), -1.6, 2.2))
        old = max(0.0, (age - 45) / 45)
        return Anatomy(
            sex="F" if female else "M",
            age=age,
            lung_half_width=float(
                np.clip(13.4 + 0.65 * tall + 0.25 * stout + draw.normal(0, 0.3), 11.6, 15.2)
            ),
            lung_half_depth=8.0 + 0.35 * tall + 0.3 * stout + 0.4 * old,
            apex_z=-12.9 - 0.5 * tall + draw.normal(0, 0.3),
            dome_z=6.9 + 0.7 * tall - 0.5 * stout + draw.normal(0, 0.5),
            left_dome_drop=float(np.clip(draw.normal(1.0, 0.5), -0.3, 2.2)),
            recess_cm=3.6 + draw.normal(0, 0.35),
            widest=float(np.clip(draw.normal(0.8, 0.06), 0.66, 0.92)),
            roundness=float(np.clip(draw.normal(2.15, 0.25), 1.6, 2.8)),
            wall_cm=float(np.clip(2.9 + 0.8 * stout + 0.2 * female, 1.5, 5.2)),
            breast=float(np.clip(draw.normal(0.72 + 0.18 * stout, 0.24), 0.15, 1.3))
            if female
            else max(0.0, 0.12 * stout),
            aorta=float(1.0 + 0.28 * old + draw.normal(0, 0.06)),
            heart_ratio=float(np.clip(draw.normal(0.435 + 0.012 * stout + 0.015 * old, 0.022), 0.37, 0.482)),
            heart_tilt=float(draw.normal(0.62, 0.09) - 0.08 * stout),
            rib_drop=float(draw.normal(1.0, 0.08)),
            bone=float(1.08 - 0.25 * old * (1.2 if female else 0.8) + draw.normal(0, 0.06)),
            shoulder_drop=float(np.clip(draw.normal(0.0, 0.6), -1.5, 0.9)),
            scoliosis=float(draw.normal(0.0, 0.25 + 0.3 * old)),
            dome_peak=(float(draw.uniform(0.36, 0.5)), float(draw.uniform(0.36, 0.54))),
            apex_skew_cm=float(draw.normal(0.0, 0.22)),
            inner_seed=int(draw.integers(2**31)),
        )


def _pair(
    draw: np.random.Generator, mean: float, spread: float, between: float, least: float
) -> tuple[float, float]:
    """Draws values for both sides of the body: similar, never equal, and at least ``least``."""
    common = draw.normal(mean, spread)
    one, other = np.maximum(common + draw.normal(0, between, 2), least)
    return float(one), float(other)


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How one study was taken. Lengths in cm."""

    view: str
    half_width_cm: float
    centre_x_cm: float
    centre_z_cm: float
    lean: float
    turn_cm: float
    """How far the patient's rotation moves the front of the chest against the spine."""
    chin_z_cm: float
    """Lowest point of the head; in bed it sometimes reaches into the film."""
    inspiration: float
    """1 is a full breath; less lifts the diaphragm and crowds the lungs."""
    arm_out: tuple[float, float]
    """Angle of each arm to the trunk, image's left and right: cm sideways per 2 cm down."""
    shoulder_cm: tuple[float, float]
    """How much lower each shoulder hangs than the patient's usually do."""

    @staticmethod
    def of(seed: int, patient: int, study: int, label: str) -> Pose:
        draw = generator(seed, patient, study, Stream.POSE)
        supine = draw.random() < _AP_SHARE[label]
        return Pose(
            view="AP" if supine else "PA",
            half_width_cm=float(np.clip(draw.normal(17.9 + 0.6 * supine, 1.3 + 0.5 * supine), 15.4, 23.0)),
            centre_x_cm=draw.normal(0, 0.7 + 0.8 * supine),
            centre_z_cm=-0.5 + draw.normal(0, 1.0 + 0.7 * supine),
            lean=draw.normal(0, 0.02 + 0.03 * supine),
            turn_cm=draw.normal(0, 0.4 + 0.4 * supine),
            chin_z_cm=float(draw.normal(-18.6, 2.2)) if supine else -30.0,
            inspiration=float(np.clip(draw.normal(0.66 if supine else 0.93, 0.15), 0.35, 1.15)),
            # Standing, the hands rest on the hips and the elbows point outwards; in bed the arms lie alongside.
            arm_out=_pair(draw, 0.1, 0.1, 0.05, 0.0) if supine else _pair(draw, 0.8, 0.45, 0.12, 0.1),
            shoulder_cm=_pair(draw, -1.2, 1.1, 0.5, -4.0) if supine else _pair(draw, -0.2, 0.7, 0.35, -3.0),
        )


def describe(seed: int, patient: int, study: int, label: str) -> tuple[str, str, int]:
    """View ("PA" or "AP"), sex ("F" or "M") and age in years, as ``render`` returns them, without rendering."""
    anatomy = Anatomy.of(seed, patient)
    return Pose.of(seed, patient, study, label).view, anatomy.sex, anatomy.age
