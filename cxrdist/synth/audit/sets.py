"""The two sets of an audit: a synthetic one, and the real one that it is compared with.

The rules are those of cxrdist.data.shards.open.open_synthetic, but what is wrong with the images is found and said
rather than refused: gates that saw the test split, or a set of refused candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

from cxrdist.data.ingest.default_set import open_real
from cxrdist.data.shards.lineage import family
from cxrdist.data.shards.open import check_same_kind
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.stratum import StratumReader
from cxrdist.errors import UserError
from cxrdist.synth.gates.fit import MIN_CALIBRATION_IMAGES

SAME, FAMILY, OTHER = "the set itself", "a set of its family", "another set"
"""What the real set of the audit is to the one that the synthetic set names."""


@dataclass(frozen=True)
class Sets:
    """Both sets, opened."""

    synthetic: ShardSet
    real: ShardSet
    relation: str
    """``SAME``, ``FAMILY`` or ``OTHER``."""

    @property
    def classes(self) -> list[str]:
        """Those that have synthetic images."""
        return [name for name in self.real.classes if self.synthetic.samples("train", name, "synthetic")]

    def readers(self, class_name: str) -> tuple[StratumReader, StratumReader, StratumReader | None]:
        """Synthetic images, real training images and real validation images of a class; None if it has none."""
        val = None
        if self.real.samples("val", class_name, "real"):
            val = self.real.stratum("val", class_name, "real")
        synthetic = self.synthetic.stratum("train", class_name, "synthetic")
        return synthetic, self.real.stratum("train", class_name, "real"), val

    def close(self) -> None:
        self.synthetic.close()
        self.real.close()


def open_sets(synthetic_place: str, real_place: str, *, allow_other_lineage: bool = False) -> Sets:
    """Raises UserError if one is missing or of the wrong kind, if they have other classes or image sizes, if the
    synthetic set descends from another real set, and if the real set has too few images to compare with."""
    real, synthetic = open_real(real_place), ShardSet(synthetic_place)
    lineage = synthetic.manifest.lineage
    if lineage.kind != "synthetic":
        raise UserError(
            f"{synthetic_place} is a set of real images: name a synthetic one, and this as --shards"
        )
    synthetic.check_keys()
    check_same_kind(real, synthetic)
    sets = Sets(synthetic, real, _relation(synthetic, real))
    if sets.relation == OTHER and not allow_other_lineage:
        raise UserError(
            f"{synthetic_place} descends from another real set ({str(lineage.real_digest)[:12]}) than {real} "
            f"({real.digest[:12]}), so copies of its training images would not be found: name its real set as "
            "--shards, or add --allow-other-lineage"
        )
    if not sets.classes:
        raise UserError(f"{synthetic_place} has no synthetic images in its train split")
    for name in sets.classes:
        if not real.samples("train", name, "real"):
            raise UserError(f"{real} has no train images of {name} to compare with: name another set")
    count = sum(real.samples("val", name, "real") for name in real.classes)
    if count < MIN_CALIBRATION_IMAGES:
        raise UserError(
            f"{real}: {count} images in its val split, and an audit needs {MIN_CALIBRATION_IMAGES} to say how close "
            "images of two people are by chance: import the set with a larger --val"
        )
    return sets


def _relation(synthetic: ShardSet, real: ShardSet) -> str:
    lineage = synthetic.manifest.lineage
    if lineage.real_digest == real.digest:
        return SAME
    learned_from = {lineage.real_digest, *(lineage.real_ancestors or [])}
    return OTHER if learned_from.isdisjoint(family(real)) else FAMILY
