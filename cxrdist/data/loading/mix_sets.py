"""The sets that a mix takes from: whether it needs a synthetic one, what they hold, and what is taken too often."""

from __future__ import annotations

from collections.abc import Iterator

from cxrdist.data.mix.rules import Counts, MixRule
from cxrdist.data.shards.open import synthetic_place
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage.store import store_of
from cxrdist.errors import UserError


def synthetic_of(rule: MixRule, *, mix: str, shards: str, synthetic: str | None) -> str | None:
    """Where the synthetic set of a mix lies, by default beside the real one; None for a mix that uses none.

    ``mix`` is what the user calls it. Raises UserError, with the commands that make it, where there is none.
    """
    if not rule.needs_synthetic:
        return None
    path = synthetic or synthetic_place(shards)
    if not store_of(path).is_there():
        raise UserError(
            f"{rule.name} needs synthetic images, and there are none in {path}. These two commands make them: "
            f"`accelerate launch launch/train_gan.py --shards {shards} --run runs/gan` and "
            f"`{synthesis_command(mix, shards, path)}`"
        )
    return path


def synthesis_command(mix: str, shards: str, out: str) -> str:
    return f"accelerate launch launch/synthesize.py --gan runs/gan --shards {shards} --mix {mix} --out {out}"


def train_counts(real: ShardSet, synthetic: ShardSet | None) -> dict[str, dict[str, int]]:
    """``{class: {origin: images}}`` of the train splits."""
    counts = {name: {"real": real.samples("train", name, "real")} for name in real.classes}
    if synthetic is not None:
        for name in real.classes:
            counts[name]["synthetic"] = synthetic.samples("train", name, "synthetic")
    return counts


def repeats(quotas: Counts, counts: Counts) -> dict[str, dict[str, float]]:
    """``{class: {origin: times}}``: how often an epoch takes each image of those that it takes and has."""
    return {
        name: {
            origin: quota / available
            for origin, quota in origins.items()
            if quota and (available := counts[name].get(origin, 0))
        }
        for name, origins in quotas.items()
    }


def repeat_lines(quotas: Counts, counts: Counts, *, warn_above: float) -> Iterator[str]:
    """A line where an epoch takes more images than there are: a warning where each comes over so many times."""
    for name, origins in repeats(quotas, counts).items():
        for origin, times in origins.items():
            if times > 1:
                quota, available = quotas[name][origin], counts[name][origin]
                yield (
                    f"{'warning' if times > warn_above else 'note'}: {name}: {quota:,} {origin} images an epoch from "
                    f"{available:,}, so each comes about {times:.1f} times"
                )
