"""What the manifest of a synthetic set says of its gates: the one place that reads them.

Whatever a manifest does not say is None or empty here, and is left out of the card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ClassGate:
    """What the gates did with the images of one class."""

    tried: int | None = None
    admitted: int | None = None
    duplicates: int | None = None
    """Images that were left out since the set has nearly the same one already."""
    coverage: float | None = None
    """Share of the real images that have a generated one near them; the smallest of several generators'."""
    passed: Mapping[str, int] = field(default_factory=dict)
    """Images of ``tried`` that one gate alone let pass, by the name of the gate."""
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    """``{gate: {"synthetic" or "real": quantiles 5, 25, 50, 75, 95 %}}``."""
    copy_rate: float | None = None
    """Share of the images of ``tried`` that are near copies of training images."""
    copy_null_rate: float | None = None
    """The same share of held-out real images."""


@dataclass(frozen=True)
class Gates:
    """The gates of a synthetic set."""

    name: str | None = None
    fitted_on: str | None = None
    calibrated_on: str | None = None
    classifiers: tuple[str, ...] = ()
    """SHA-256 of the weights of the classifiers that gates ask."""
    pooled: tuple[str, ...] = ()
    """Classes whose thresholds rest on the images of all classes."""
    classes: Mapping[str, ClassGate] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of all gates that some class has counts, thresholds or scores of, sorted."""
        found = {
            name
            for of_class in self.classes.values()
            for part in (of_class.passed, of_class.thresholds, of_class.scores)
            for name in part
        }
        return sorted(found)

    def total(self, count: str) -> int | None:
        """The sum over classes of ``tried`` or ``admitted``; None if it is not known of all."""
        values = [getattr(of_class, count) for of_class in self.classes.values()]
        return None if not values or None in values else sum(values)

    @property
    def copy_rates(self) -> dict[str, ClassGate]:
        """The classes whose near-copy rate is known."""
        return {name: one for name, one in self.classes.items() if one.copy_rate is not None}


def gates_of(provenance: Mapping[str, Any]) -> Gates:
    """The gates in a manifest's provenance, as JSON."""
    found = provenance.get("gates") or {}
    return Gates(
        name=found.get("name"),
        fitted_on=found.get("fitted_on"),
        calibrated_on=found.get("calibrated_on"),
        classifiers=tuple(found.get("classifiers") or ()),
        pooled=tuple(found.get("pooled") or ()),
        classes={name: _class_gate(one) for name, one in found.get("classes", {}).items()},
    )


def _class_gate(found: Mapping[str, Any]) -> ClassGate:
    return ClassGate(
        tried=found.get("tried"),
        admitted=found.get("admitted"),
        duplicates=found.get("duplicates"),
        coverage=min(found["coverage"].values()) if found.get("coverage") else None,
        passed=found.get("passed") or {},
        thresholds=found.get("thresholds") or {},
        scores=found.get("scores") or {},
        copy_rate=found.get("copy_rate"),
        copy_null_rate=found.get("copy_null_rate"),
    )
