"""The sets of a mix: where its synthetic set is, how many samples they have, and how often an epoch repeats them."""

from __future__ import annotations

from dataclasses import dataclass

from cxrdist.data.mix.rules import Counts, MixRule
from cxrdist.data.shards.open import synthetic_place
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage.store import store_of
from cxrdist.errors import UserError


def synthetic_of(rule: MixRule, *, mix: str, shards: str, synthetic: str | None) -> str | None:
    """The place of a mix's synthetic set, by default beside the real one; None for a mix that uses no synthetic
    images.

    ``mix``: the mix as the user named it. Raises UserError, with the commands that make the set, if there is none.
    """
    if not rule.needs_synthetic:
        return None
    path = synthetic or synthetic_place(shards)
    if not store_of(path).is_there():
        raise UserError(
            f"{rule.name} needs synthetic images, and {path} has none. These two commands make them: "
            f"`accelerate launch launch/train_gan.py --shards {shards} --run runs/gan` and "
            f"`{synthesis_command(mix, shards, path)}`"
        )
    return path


def synthesis_command(mix: str, shards: str, out: str) -> str:
    return f"accelerate launch launch/synthesize.py --gan runs/gan --shards {shards} --mix {mix} --out {out}"


def train_counts(real: ShardSet, synthetic: ShardSet | None) -> dict[str, dict[str, int]]:
    """``{class: {origin: images}}``: numbers of images in the train splits."""
    counts = {name: {"real": real.samples("train", name, "real")} for name in real.classes}
    if synthetic is not None:
        for name in real.classes:
            counts[name]["synthetic"] = synthetic.samples("train", name, "synthetic")
    return counts


def repeats(quotas: Counts, counts: Counts) -> dict[str, dict[str, float]]:
    """``{class: {origin: times}}``: mean number of uses of each image in an epoch, of strata that are used and have
    images."""
    return {
        name: {
            origin: quota / available
            for origin, quota in origins.items()
            if quota and (available := counts[name].get(origin, 0))
        }
        for name, origins in quotas.items()
    }


@dataclass(frozen=True)
class Repeat:
    """A stratum of which an epoch takes more images than there are."""

    class_name: str
    origin: str
    quota: int
    available: int

    @property
    def times(self) -> float:
        """Mean number of uses of each image in an epoch."""
        return self.quota / self.available

    def __str__(self) -> str:
        return (
            f"{self.class_name}: {self.quota:,} {self.origin} images an epoch from {self.available:,}, so each is "
            f"used about {self.times:.1f} times"
        )


def repeated_strata(quotas: Counts, counts: Counts) -> list[Repeat]:
    """The strata of which an epoch takes more images than there are."""
    return [
        Repeat(name, origin, quotas[name][origin], counts[name][origin])
        for name, origins in repeats(quotas, counts).items()
        for origin, times in origins.items()
        if times > 1
    ]
