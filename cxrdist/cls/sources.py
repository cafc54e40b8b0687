"""What a classifier learns from: the synthetic set that a mix needs, counts, digests, and where it all is from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cxrdist.cls.config import ClsConfig
from cxrdist.data.mix import MixRule
from cxrdist.data.open import synthetic_place
from cxrdist.data.shard_set import ShardSet
from cxrdist.data.store import store_of
from cxrdist.errors import UserError
from cxrdist.progress import say


def synthetic_path(config: ClsConfig, rule: MixRule) -> str | None:
    """Where the synthetic set of a mix lies; None for a mix that uses none.

    Raises UserError, with the commands that make it, where there is none.
    """
    if not rule.needs_synthetic:
        return None
    path = config.synthetic or synthetic_place(config.shards)
    if not store_of(path).is_there():
        raise UserError(
            f"{rule.name} needs synthetic images, and there are none in {path}. These two commands make them: "
            f"`accelerate launch launch/train_gan.py --shards {config.shards} --run runs/gan` and "
            f"`accelerate launch launch/synthesize.py --gan runs/gan --shards {config.shards} --mix {config.mix} "
            f"--out {path}`"
        )
    return path


def digests_of(real: ShardSet, synthetic: ShardSet | None) -> dict[str, str | None]:
    return {"real": real.digest, "synthetic": synthetic.digest if synthetic else None}


def train_counts(real: ShardSet, synthetic: ShardSet | None) -> dict[str, dict[str, int]]:
    """``{class: {origin: images}}`` of the train splits."""
    counts = {name: {"real": real.samples("train", name, "real")} for name in real.classes}
    if synthetic is not None:
        for name in real.classes:
            counts[name]["synthetic"] = synthetic.samples("train", name, "synthetic")
    return counts


def warn_of_repeats(
    quotas_: Mapping[str, Mapping[str, int]], counts: Mapping[str, Mapping[str, int]]
) -> None:
    for name, origins in quotas_.items():
        for origin, quota in origins.items():
            available = counts[name].get(origin, 0)
            if available and quota > available:
                say(
                    f"warning: {name}: {quota:,} {origin} images an epoch from {available:,}, so each comes about "
                    f"{quota / available:.1f} times"
                )


def describe_data(real: ShardSet) -> dict[str, Any]:
    """Where the images come from, for reports."""
    provenance = real.manifest["provenance"]
    return {
        "importer": provenance["importer"],
        "release": provenance["release"],
        "is_phantom": provenance["is_phantom"],
        "image_size": real.image_size,
        "label_rule": provenance["options"]["label_rule"],
        "counts": real.manifest["counts"],
    }
