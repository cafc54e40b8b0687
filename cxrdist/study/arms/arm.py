"""An arm of a study: a YAML file with options of train_cls.py, such as a mix, a recipe or stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrdist.config.yaml_files import find_named, load_yaml
from cxrdist.data.mix.named import DEFAULT_MIX, named_rule
from cxrdist.data.mix.rules import OTHERS, MixRule, WeightRule
from cxrdist.errors import UserError
from cxrdist.files import slug

REFUSED = ("run", "seed", "shards", "synthetic", "tracking", "budget")
"""Options that the study sets itself: an arm with another budget could not be compared."""
TEACHER = "arm:"
"""Before the name of an arm, as the value of soft_labels."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm, as its file describes it."""

    name: str
    file: Path
    mixes: tuple[str, ...]
    """The mix of each stage."""
    rules: tuple[MixRule, ...]
    about: str
    """The first sentence of the file's head."""
    teacher: str | None = None
    """Arm whose classifiers, as an ensemble, label its synthetic images."""

    @property
    def slug(self) -> str:
        return slug(self.name)

    @property
    def needs_synthetic(self) -> bool:
        return any(rule.needs_synthetic for rule in self.rules)


def read_arm(name: str) -> Arm:
    """The arm of a name in configs/arm, or of a path. Raises UserError for an option that the study sets itself."""
    file = find_named("arm", name)
    values = load_yaml(file)
    for key in values:
        if key in REFUSED:
            raise UserError(f"{file}: {key}: is the same in all arms of a study; set it in the study's file")
    mixes = _mixes(values, file)
    soft_labels = str(values.get("soft_labels") or "")
    return Arm(
        name=str(values.get("arm") or file.stem),
        file=file,
        mixes=mixes,
        rules=tuple(named_rule(mix) for mix in mixes),
        about=_head(file),
        teacher=soft_labels.removeprefix(TEACHER) if soft_labels.startswith(TEACHER) else None,
    )


def _mixes(values: dict[Any, Any], file: Path) -> tuple[str, ...]:
    stages = values.get("stages") or []
    if not isinstance(stages, list) or not all(isinstance(s, dict) and "mix" in s for s in stages):
        raise UserError(f"{file}: stages: must be a list of stages, each with a mix")
    return tuple(str(stage["mix"]) for stage in stages) or (str(values.get("mix") or DEFAULT_MIX),)


def _head(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    first = next((line.lstrip("# ") for line in lines if line.startswith("#")), "")
    return first.split(". ")[0].removesuffix(".")


def read_arms(names: Sequence[str]) -> list[Arm]:
    """Raises UserError if two arms have one name, or if runs of two would lie in one folder, and if an arm's teacher
    is none of the arms of real images, or has none to label."""
    arms = [read_arm(name) for name in names]
    real = [arm.name for arm in arms if not arm.needs_synthetic]
    for arm in arms:
        if arm.teacher is not None and (arm.teacher not in real or not arm.needs_synthetic):
            raise UserError(
                f"{arm.file}: soft_labels: {TEACHER}{arm.teacher}: must be an arm of this study that uses real "
                f"images alone ({', '.join(real) or 'it has none'}), for an arm that uses synthetic ones"
            )
    by_slug: dict[str, Arm] = {}
    for arm in arms:
        other = by_slug.setdefault(arm.slug, arm)
        if other is not arm:
            raise UserError(
                f"arms: {other.file} and {arm.file} have the same name, {arm.name}: set `arm` in one"
            )
    return arms


def synthesis_mix(arms: Sequence[Arm], chosen: str | None) -> str | None:
    """The mix that images are synthesized for; None if no arm uses any.

    ``chosen``, else DS3 or the last one of the arms' mixes that has images of every class that an arm takes. Raises
    UserError if there is none.
    """
    using = {
        mix: rule
        for arm in arms
        for mix, rule in zip(arm.mixes, arm.rules, strict=True)
        if rule.needs_synthetic
    }
    if not using:
        return None
    by_preference = sorted(reversed(using), key=lambda mix: using[mix].name != "DS3")
    candidates = [chosen] if chosen is not None else by_preference
    for candidate in candidates:
        made = named_rule(candidate)
        lacking = [(mix, name) for mix, rule in using.items() for name in _lacking(rule, made)]
        if not lacking:
            return candidate
    mix, name = lacking[0]
    which = "classes that it does not name" if name == OTHERS else name
    raise UserError(
        f"synthesis_mix: images are synthesized for {candidate}, but {mix} also needs some of {which}: give {which} "
        f"a synthetic weight in {candidate}, or name another mix"
    )


def _lacking(rule: MixRule, made: MixRule) -> list[str]:
    """The classes of which ``rule`` takes synthetic images and ``made`` has none."""
    return [
        name
        for name in _classes(rule, made)
        if rule.may_take("synthetic", name) and not made.may_take("synthetic", name)
    ]


def _classes(*rules: MixRule) -> list[str]:
    """The classes that weights name, and the others unless every class is named."""
    weighted = [rule.weights for rule in rules if isinstance(rule, WeightRule)]
    classes = sorted({name for weights in weighted for name in weights} | {OTHERS})
    if any(OTHERS not in weights for weights in weighted):
        classes.remove(OTHERS)
    return classes
