"""Open the sets that a job names, and check that they belong together."""

from __future__ import annotations

from cxrdist.data.shards.lineage import descends_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage.store import store_of
from cxrdist.errors import UserError

REJECTED = "rejected candidates"
"""The importer of a set of images that the gates of a synthesis refused."""
DEFAULT_SET = "shards/phantom"
"""The set that every command reads where --shards is not given."""


def check_default_is_there(place: str) -> None:
    """Raises UserError if the default set is meant and does not exist yet."""
    if place.rstrip("/") == DEFAULT_SET and not store_of(place).is_there():
        raise UserError(
            f"{DEFAULT_SET} does not exist yet: create it with `cxrdist import phantom`, or name another set"
        )


def synthetic_place(real: str) -> str:
    """The default place of the synthetic set of a real one: beside it."""
    return f"{real.rstrip('/')}-synthetic"


def open_finished_real(path: str) -> ShardSet:
    """Open a set of real images. Raises UserError if there is none, or if it is a synthetic one."""
    check_default_is_there(path)
    real = ShardSet(path)
    if real.manifest.lineage.kind != "real":
        raise UserError(f"{path} is a synthetic set: give it as --synthetic, and its real set as --shards")
    return real


def open_synthetic(path: str, real: ShardSet, *, allow_other_lineage: bool = False) -> ShardSet:
    """A synthetic set that descends from the train split of ``real``, or of a conversion of it, or of what it was
    converted from.

    Raises UserError if it does not, since its generator may have seen validation or test patients, and if an earlier
    version truncated its keys.
    """
    synthetic = ShardSet(path)
    lineage = synthetic.manifest.lineage
    if lineage.kind != "synthetic":
        raise UserError(f"{path} is a set of real images: give it as --shards")
    synthetic.check_keys()
    check_same_kind(real, synthetic)
    _check_gates(path, synthetic)
    if not descends_from(lineage.json_value(), real) and not allow_other_lineage:
        raise UserError(
            f"{path} descends from another real set ({str(lineage.real_digest)[:12]}) than {real} "
            f"({real.digest[:12]}), so its generator may have seen validation or test patients: synthesise from "
            "this set, or add --allow-other-lineage"
        )
    return synthetic


def _check_gates(path: str, synthetic: ShardSet) -> None:
    """Raises UserError for images that were refused, and for gates that saw images of the test split: they would
    choose what fits it."""
    provenance = synthetic.manifest.provenance
    if provenance.importer == REJECTED:
        raise UserError(
            f"{path} holds the images that the gates of a synthesis refused: look at them, and train on none"
        )
    gates = provenance.gates
    if gates is not None and "test" in (gates.fitted_on, gates.calibrated_on):
        raise UserError(
            f"{path}: the gates that chose its images were set on the test split, so results on it would be too "
            "good: synthesise again"
        )


def check_same_kind(real: ShardSet, synthetic: ShardSet) -> None:
    """Raises UserError if two sets cannot be mixed: other class names or another image size."""
    if real.classes != synthetic.classes:
        only = sorted(set(real.classes) ^ set(synthetic.classes)) or ["their order"]
        raise UserError(
            f"{real} and {synthetic} have different class names ({', '.join(only)}): "
            "mix sets of the same classes only"
        )
    if real.image_size != synthetic.image_size:
        small, large = sorted((real, synthetic), key=lambda shards: shards.image_size)
        raise UserError(
            f"{real} has images of {real.image_size} px and {synthetic} of {synthetic.image_size} px: make the "
            f"larger one smaller with `cxrdist shards convert {large} --size {small.image_size}`"
        )
