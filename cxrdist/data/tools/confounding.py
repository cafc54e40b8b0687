"""Test whether the classes of a set can be predicted from what is no sign of disease: view, sex or age.

If films of one class are mostly taken at the bedside (AP) and those of another standing (PA), a classifier can learn
the view instead of the finding. Its test metrics still look good, since the test split has the same bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_CRAMERS_V = 0.1
"""An association of at least this size is warned of: Cohen's "small effect" (1988)."""
LEAST_Z = 2.33
"""And only if chance alone produces one that large in fewer than 1 of 100 sets."""
AGE_GROUPS = ((0, 19), (20, 39), (40, 59), (60, 79), (80, None))
"""Years, both ends included."""
PREDICTED_FROM = {
    "view": "by how the film was taken",
    "sex": "by the patient's sex",
    "age": "by the patient's age",
}

Table = dict[str, dict[str, int]]
"""{class: {value: images}}."""


@dataclass(frozen=True, kw_only=True)
class Association:
    """How well one attribute of the images predicts their class."""

    about: str
    """view, sex or age."""
    images: int
    """Images whose value is known."""
    cramers_v: float
    """0: independent, 1: the value determines the class; corrected for bias (Bergsma 2013)."""
    is_beyond_chance: bool
    """True if fewer than 1 of 100 sets without any association show one this large (chi-squared, upper 1 %)."""
    accuracy: float
    """Accuracy of guessing, for each value, the most frequent class of its images."""
    majority: float
    """Accuracy of always guessing the largest class."""
    balanced_accuracy: float
    """Balanced accuracy of the best guess from the value, as with a balanced mix."""
    chance: float
    """Balanced accuracy of guessing without the value: 1 / classes."""
    clearest: tuple[str, str, float, float]
    """The class and value with the largest difference: the value's share in it, and in all others together."""

    @property
    def is_confound(self) -> bool:
        return self.cramers_v >= LEAST_CRAMERS_V and self.is_beyond_chance

    @property
    def warning(self) -> str:
        name, value, here, elsewhere = self.clearest
        return (
            f"class predicts {self.about}: {here:.0%} of {name} are {value}, of the others {elsewhere:.0%}. "
            f"A classifier can recognise {name} {PREDICTED_FROM[self.about]} (Cramér's V {self.cramers_v:.2f}; "
            f"guessed from the {self.about} alone, {self.balanced_accuracy:.0%} of equally large classes are right, "
            f"where chance gives {self.chance:.0%}): report results separately for each {self.about}"
        )


def association(about: str, table: Table) -> Association | None:
    """The association in ``table``; None if fewer than two classes or two values are known."""
    classes = [name for name, of_class in table.items() if sum(of_class.values())]
    values = sorted({value for of_class in table.values() for value, n in of_class.items() if n})
    if len(classes) < 2 or len(values) < 2:
        return None
    counts = np.array(
        [[table[c].get(v, 0) for v in values] for c in classes], np.float64
    )  # [classes, values]
    images = counts.sum()
    of_class, of_value = counts.sum(1), counts.sum(0)
    expected = np.outer(of_class, of_value) / images
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    shares = counts / of_class[:, None]
    elsewhere = (of_value - counts) / (images - of_class)[:, None]
    # Adjusted residuals (Agresti, Categorical Data Analysis): a difference among a few images is not significant.
    residuals = (counts - expected) / np.sqrt(
        expected * (1 - of_class / images)[:, None] * (1 - of_value / images)
    )
    stands_out = residuals >= min(LEAST_Z, residuals.max())
    # With two classes both differences are equal: take the one with the larger share.
    at = max(zip(*stands_out.nonzero()), key=lambda at: (round(shares[at] - elsewhere[at], 9), shares[at]))
    return Association(
        about=about,
        images=int(images),
        cramers_v=corrected_v(chi_squared, int(images), *counts.shape),
        is_beyond_chance=z_of(chi_squared, (len(classes) - 1) * (len(values) - 1)) > LEAST_Z,
        accuracy=float(counts.max(0).sum() / images),
        majority=float(of_class.max() / images),
        balanced_accuracy=float(shares.max(0).sum() / len(classes)),
        chance=1 / len(classes),
        clearest=(classes[at[0]], values[at[1]], float(shares[at]), float(elsewhere[at])),
    )


def corrected_v(chi_squared: float, images: int, rows: int, columns: int) -> float:
    """Cramér's V without the bias of small tables (Bergsma, J. Korean Stat. Soc. 42, 2013)."""
    if images < 2:
        return 0.0
    phi_squared = max(0.0, chi_squared / images - (rows - 1) * (columns - 1) / (images - 1))
    least = min(n - (n - 1) ** 2 / (images - 1) for n in (rows, columns)) - 1
    return min(1.0, (phi_squared / least) ** 0.5) if least > 0 else 0.0


def z_of(chi_squared: float, freedom: int) -> float:
    """A chi-squared value as a standard normal one (Wilson and Hilferty, PNAS 17, 1931)."""
    spread = 2 / (9 * freedom)
    return ((chi_squared / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5


def age_group(years: float) -> str:
    for low, high in AGE_GROUPS:
        if high is None or years < high + 1:
            return f"{low} or older" if high is None else f"{low} to {high}"
    raise AssertionError(years)
