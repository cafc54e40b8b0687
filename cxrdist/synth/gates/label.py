"""The gate of the label: classifiers that learned from real training images see the class in the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

NAME = "label"
PROBABILITIES = "probabilities"


class LabelGate:
    """The score is the probability of the class, averaged over the classifiers; low ones are refused."""

    name = NAME
    refuses_high = False
    at_least = None

    def __init__(self, classes: Sequence[str]) -> None:
        """``classes``: of the classifiers, in their order."""
        self.classes = tuple(classes)

    def scores(self, class_name: str, seen: Mapping[str, Tensor]) -> Tensor:
        """Mean probabilities [n, classes] under ``PROBABILITIES`` -> [n] float32."""
        return seen[PROBABILITIES][:, self.classes.index(class_name)]
