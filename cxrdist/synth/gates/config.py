"""Which gates judge generated images, and how strict each of them is (configs/gates/*.yaml)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from cxrdist.config.yaml_files import find_named, load_yaml
from cxrdist.errors import OptionError, UserError, nearest

NONE = "none"


@dataclass(frozen=True, kw_only=True)
class GatesConfig:
    """How strict each gate is; None: the gate is off."""

    name: str = NONE
    pixels: float | None = None
    """Percent of the real validation images that the gate refuses; so ``realism``, ``label`` and ``copy``."""
    realism: float | None = None
    label: float | None = None
    copy: float | None = None
    duplicates: float | None = None
    """Fraction of the distance within which 1 % of the real validation images have a training image: synthetic images
    that are closer to each other are duplicates."""
    coverage: float | None = None
    """Smallest fraction of the real images that have a generated one near them, for a generator to be used at all."""

    @property
    def percents(self) -> dict[str, float]:
        """``{gate: percent}`` of the gates that judge each image by itself, in the order in which they refuse."""
        of = {name: getattr(self, name) for name in ("pixels", "realism", "label", "copy")}
        return {name: percent for name, percent in of.items() if percent is not None}

    @property
    def needs_classifier(self) -> bool:
        """Realism and coverage use its features, the label gate what it says."""
        return bool(self.realism or self.label or self.coverage)

    @property
    def is_off(self) -> bool:
        return self == GatesConfig(name=self.name)

    def __str__(self) -> str:
        """``pixels 1, realism 4, label 5``; ``none`` without any gate."""
        words = [
            f"{field.name} {value:g}"
            for field in dataclasses.fields(self)
            if field.name != "name" and (value := getattr(self, field.name)) is not None
        ]
        return ", ".join(words) or NONE


def read_gates(name: str) -> GatesConfig:
    """The gates that --gates names: a file of configs/gates, or the path of one. Raises OptionError if there is no
    such file, and UserError, naming the file, for gates that do not exist or numbers that make no sense."""
    try:
        file = find_named("gates", name)
    except UserError as error:
        raise OptionError("gates", str(error)) from None
    tree = load_yaml(file)
    known = [field.name for field in dataclasses.fields(GatesConfig) if field.name != "name"]
    for gate, value in tree.items():
        if gate not in known:
            raise UserError(f"{file}: {gate} is no gate{nearest(str(gate), known)}")
        most = 1 if gate in ("duplicates", "coverage") else 50
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 < value <= most):
            unit = "a fraction" if most == 1 else "a percentage"
            raise UserError(f"{file}: {gate} is {value!r}: expected {unit} above 0, at most {most}, or null")
    return GatesConfig(name=Path(file).stem, **tree)
