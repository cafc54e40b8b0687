"""The rules of a mix: numbers of samples -> exact quotas. Pure functions, no I/O.

counts {class: {origin: n}}  --quotas-->  {class: {origin: q}}     one epoch takes exactly q of each

A rule states either a target per class and the origins that fill it (``TargetRule``: DS1, DS2, DS3), or the length of
an epoch and a weight for each class and origin (``WeightRule``). ``order.py`` turns quotas into an order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from cxrdist.data.shards.schema import MAX_COUNT, ORIGINS
from cxrdist.errors import UserError, nearest

Counts = Mapping[str, Mapping[str, int]]
Quotas = dict[str, dict[str, int]]
TARGETS = ("own", "smallest", "largest")
OTHERS = "*"
COUNT_POWERS = (0, 0.5, 1)


@dataclass(frozen=True, kw_only=True)
class TargetRule:
    """The same target for every class, filled from one origin after the other. It fits any class names."""

    name: str
    images_per_class: str | int
    """``own``: the number of real images of the class; ``smallest``, ``largest``: that of the smallest or largest
    class; or a number."""
    times: int | float = 1
    """Multiplies ``images_per_class``."""
    fill: tuple[str, ...] = ("real",)
    """Origins, in the order in which they are used up; the last one supplies the rest."""

    def __post_init__(self) -> None:
        check_count(self.images_per_class, f"mix {self.name}: images_per_class", TARGETS)
        if not check_number(self.times, f"mix {self.name}: times") > 0:
            raise UserError(f"mix {self.name}: times {self.times}: must be more than 0")
        for origin in self.fill:
            if origin not in ORIGINS:
                raise UserError(f"mix {self.name}: fill {origin!r}: unknown{nearest(str(origin), ORIGINS)}")
        if not self.fill or len(set(self.fill)) < len(self.fill):
            raise UserError(f"mix {self.name}: fill must name at least one origin, and none of them twice")

    @property
    def needs_synthetic(self) -> bool:
        return "synthetic" in self.fill

    def may_take(self, origin: str, class_name: str) -> bool:
        """True if the rule may take images of this origin of a class, whatever their numbers are."""
        return origin in self.fill


@dataclass(frozen=True, kw_only=True)
class WeightRule:
    """An epoch of a given length, divided among classes and origins in proportion to their weights."""

    name: str
    epoch_images: str | int
    """``own``: the number of real training images; or a number."""
    weights: Mapping[str, Mapping[str, int | float]]
    """``{class: {origin: weight}}``; the class ``*`` is every class that is not named."""
    count_power: int | float = 0
    """Multiplies each weight by the number of images of its class to this power: 0, 0.5 or 1. For real images."""

    def __post_init__(self) -> None:
        check_count(self.epoch_images, f"mix {self.name}: epoch_images", ("own",))
        where = f"mix {self.name}: weights"
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise UserError(
                f"{where}: must be a mapping from class to origins, such as `Normal: {{real: 1}}`"
            )
        for class_name, origins in self.weights.items():
            if not isinstance(class_name, str):
                raise UserError(f"{where}: class {class_name!r}: must be text (write it in quotes)")
            if not isinstance(origins, Mapping) or not origins:
                raise UserError(
                    f"{where}: {class_name}: must be a weight for each origin, such as {{real: 1}}"
                )
            for origin, weight in origins.items():
                if origin not in ORIGINS:
                    spelling = nearest(str(origin), ORIGINS)
                    raise UserError(f"{where}: {class_name}: {origin!r}: unknown{spelling}")
                if check_number(weight, f"{where}: {class_name}: {origin}") < 0:
                    raise UserError(f"{where}: {class_name}: {origin} {weight}: must be 0 or more")
        if check_number(self.count_power, f"mix {self.name}: count_power") not in COUNT_POWERS:
            raise UserError(
                f"mix {self.name}: count_power {self.count_power}: must be "
                f"{', '.join(map(str, COUNT_POWERS[:-1]))} or {COUNT_POWERS[-1]}"
            )
        if self.count_power and self.needs_synthetic:
            raise UserError(
                f"mix {self.name}: count_power {self.count_power}: is for mixes of real images; remove it, or the "
                "weights of synthetic ones"
            )
        if not any(weight for origins in self.weights.values() for weight in origins.values()):
            raise UserError(f"{where}: all weights are 0, so an epoch would be empty")

    @property
    def needs_synthetic(self) -> bool:
        return any(origins.get("synthetic") for origins in self.weights.values())

    def may_take(self, origin: str, class_name: str) -> bool:
        """True if the rule may take images of this origin of a class, whatever their numbers are."""
        return bool(self.of_class(class_name).get(origin))

    def of_class(self, class_name: str) -> Mapping[str, int | float]:
        return self.weights.get(class_name, self.weights.get(OTHERS, {}))


MixRule = TargetRule | WeightRule


def check_count(value: Any, where: str, words: tuple[str, ...]) -> None:
    """Raises UserError if a value is neither one of the words nor a whole number of 1 or more."""
    if isinstance(value, str) and value not in words:
        raise UserError(f"{where} {value!r}: unknown{nearest(value, words)}")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UserError(f"{where} {value!r}: must be a whole number, or {' or '.join(words)}")
    if isinstance(value, int) and not 1 <= value <= MAX_COUNT:
        raise UserError(f"{where} {value}: must be from 1 to {MAX_COUNT:,}")


def check_number(value: Any, where: str) -> int | float:
    """The value. Raises UserError if it is not a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{where} {value!r}: must be a number")
    return value


def exact(value: int | float) -> Fraction:
    """The number as it is written: ``0.1`` is one tenth."""
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


def rule_from(values: Mapping[str, Any]) -> MixRule:
    """The rule of a YAML mapping. Raises UserError for an unknown or missing key, or an invalid value."""
    where = f"mix {values.get('name', '?')}"
    forms: dict[type[TargetRule] | type[WeightRule], list[str]] = {
        form: [key for key in form.__dataclass_fields__ if key != "name"] for form in (TargetRule, WeightRule)
    }
    known = ["name", *(key for keys in forms.values() for key in keys)]
    for key in values:
        if key not in known:
            raise UserError(f"{where}: {key}: unknown{nearest(str(key), known)}")
    if "name" not in values:
        raise UserError(f"{where}: name is missing")
    if not isinstance(values["name"], str) or not values["name"]:
        raise UserError(f"{where}: name {values['name']!r}: must be text (write it in quotes)")
    of_target, of_weight = ([key for key in keys if key in values] for keys in forms.values())
    if of_target and of_weight:
        raise UserError(
            f"{where}: {of_target[0]} and {of_weight[0]} belong to different kinds of rule: give either "
            f"{', '.join(forms[TargetRule])}, or {', '.join(forms[WeightRule])}"
        )
    if of_weight:
        if missing := [key for key in ("epoch_images", "weights") if key not in values]:
            raise UserError(f"{where}: {missing[0]} is missing")
        return WeightRule(**values)
    if "images_per_class" not in values:
        raise UserError(f"{where}: images_per_class is missing (or epoch_images and weights)")
    fill = values.get("fill", ("real",))
    if not isinstance(fill, str | list | tuple):
        raise UserError(f"{where}: fill {fill!r}: must be a list of origins, such as [real, synthetic]")
    return TargetRule(**{**values, "fill": (fill,) if isinstance(fill, str) else tuple(fill)})


def quotas(rule: MixRule, counts: Counts) -> Quotas:
    """The number of samples of each class and origin in one epoch.

    ``counts`` are those of the ``train`` split; without the key ``synthetic`` the synthetic images of a class are yet
    to be generated. Raises UserError if the rule does not fit the classes or the images that there are.
    """
    if not any(origins.get("real") for origins in counts.values()):
        raise UserError(f"mix {rule.name}: no real training image in any class")
    result = by_target(rule, counts) if isinstance(rule, TargetRule) else by_weight(rule, counts)
    total = sum(q for origins in result.values() for q in origins.values())
    if total > MAX_COUNT:
        raise UserError(f"mix {rule.name}: an epoch of {total:,} images; at most {MAX_COUNT:,} are possible")
    return result


def by_target(rule: TargetRule, counts: Counts) -> Quotas:
    """Quotas that fill the target of each class. Every origin of ``fill`` but the last supplies at most the samples
    that it has; the last one supplies the rest, and repeats its samples if it has fewer."""
    real = {name: origins.get("real", 0) for name, origins in counts.items()}
    present = [n for n in real.values() if n > 0]
    result: Quotas = {}
    for name, origins in counts.items():
        base = {"own": real[name], "smallest": min(present), "largest": max(present)}.get(
            str(rule.images_per_class), rule.images_per_class
        )
        # An empty class stays empty under ``own``, whose target is 0; under the others it gets the common target.
        rest = round(exact(rule.times) * int(base))
        if base and not rest:
            raise UserError(
                f"mix {rule.name}: times {rule.times} of {int(base):,} images is none of {name}; raise it"
            )
        result[name] = {}
        for origin in rule.fill[:-1]:
            result[name][origin] = min(rest, origins.get(origin, 0))
            rest -= result[name][origin]
        result[name][rule.fill[-1]] = rest
    return result


def by_weight(rule: WeightRule, counts: Counts) -> Quotas:
    """Quotas in proportion to the weights, by largest remainder; their sum is exactly the epoch."""
    where = f"mix {rule.name}: weights"
    for name in rule.weights:
        if name != OTHERS and name not in counts:
            raise UserError(f"{where}: {name}: not a class of this set{nearest(name, counts)}")
    if OTHERS not in rule.weights and (unnamed := [name for name in counts if name not in rule.weights]):
        raise UserError(
            f"{where}: {unnamed[0]} has no weight: name each class of the set, or all others "
            f'with `"{OTHERS}": {{real: 1}}`'
        )
    weights = {
        (name, ORIGINS.index(origin)): exact(weight) * count_factor(rule, counts[name].get(origin, 0))
        for name in counts
        for origin, weight in rule.of_class(name).items()
    }
    if not any(weights.values()):
        raise UserError(f"{where}: all weights of this set's classes are 0, so an epoch would be empty")
    if isinstance(rule.epoch_images, int):
        epoch_images = rule.epoch_images
    else:
        epoch_images = sum(origins.get("real", 0) for origins in counts.values())
    result: Quotas = {name: {} for name in counts}
    for (name, place), quota in largest_remainder(weights, epoch_images).items():
        origin = ORIGINS[place]
        # Without the key "synthetic" they are yet to be generated, so their number is no error.
        if quota and not counts[name].get(origin, origin == "synthetic"):
            raise UserError(
                f"{where}: an epoch needs {quota:,} {origin} images of {name}, and the set has none: set "
                f"`{name}: {{{origin}: 0}}`, or use a set that has some"
            )
        result[name][origin] = quota
    return result


def count_factor(rule: WeightRule, count: int) -> Fraction:
    """``count`` to the rule's power; a square root is cut to six digits, so that quotas are exact anywhere."""
    if not rule.count_power:
        return Fraction(1)
    return Fraction(count) if rule.count_power == 1 else Fraction(math.isqrt(count * 10**12), 10**6)


def largest_remainder(weights: Mapping[tuple[str, int], Fraction], seats: int) -> dict[tuple[str, int], int]:
    """Seats in proportion to weights: each key gets its exact share rounded down, and the keys with the largest
    remainders get one of the remaining seats each. Ties go to the smaller key (class name, then real before
    synthetic), so the order of the classes does not matter.

    Hamilton's method: M. L. Balinski and H. P. Young, "Fair Representation: Meeting the Ideal of One Man, One Vote",
    2nd edition, Brookings, 2001.
    """
    total = sum(weights.values())
    shares = {key: weight * seats / total for key, weight in weights.items()}
    result = {key: math.floor(share) for key, share in shares.items()}
    left = seats - sum(result.values())
    for key in sorted(shares, key=lambda key: (result[key] - shares[key], key))[:left]:
        result[key] += 1
    return result


def with_equal_classes(quotas: Counts) -> Quotas:
    """The same epoch length, divided equally among the classes that have any; within a class, the shares of the
    origins stay as they are. By largest remainder, so the sum is exact."""
    totals = {name: sum(origins.values()) for name, origins in quotas.items()}
    weights = {
        (name, ORIGINS.index(origin)): Fraction(quota, totals[name])
        for name, origins in quotas.items()
        for origin, quota in origins.items()
        if quota
    }
    result: Quotas = {name: dict.fromkeys(origins, 0) for name, origins in quotas.items()}
    for (name, place), quota in largest_remainder(weights, sum(totals.values())).items():
        result[name][ORIGINS[place]] = quota
    return result
