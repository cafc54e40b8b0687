"""The data of a classifier: the synthetic set of its mix, the digests of its sets, and their provenance."""

from __future__ import annotations

from typing import Any

from cxrdist.cls.config import ClsConfig
from cxrdist.data.loading.mix_sets import synthetic_of
from cxrdist.data.mix.rules import MixRule
from cxrdist.data.shards.shard_set import ShardSet


def synthetic_path(config: ClsConfig, rule: MixRule) -> str | None:
    """Path of the synthetic set of a mix; None for a mix that uses none.

    Raises UserError with the commands that create it if it does not exist.
    """
    return synthetic_of(rule, mix=config.mix, shards=config.shards, synthetic=config.synthetic)


def digests_of(real: ShardSet, synthetic: ShardSet | None) -> dict[str, str | None]:
    return {"real": real.digest, "synthetic": synthetic.digest if synthetic else None}


def describe_data(real: ShardSet) -> dict[str, Any]:
    """Provenance of the real set, for reports."""
    provenance = real.manifest.provenance
    return {
        "importer": provenance.importer,
        "release": provenance.release,
        "is_phantom": provenance.is_phantom,
        "image_size": real.image_size,
        "label_rule": provenance.option("label_rule"),
        "counts": real.manifest.counts,
    }
