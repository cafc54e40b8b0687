"""The data of a classifier: the synthetic set of its mix, the digests of its sets, and their provenance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxrdist.cls.config import ClsConfig
from cxrdist.data.loading.mix_sets import synthetic_of
from cxrdist.data.mix.rules import MixRule
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.files import sha256_file


def synthetic_path(config: ClsConfig, rules: Sequence[MixRule]) -> str | None:
    """Path of the synthetic set of the stages' mixes; None if they use none.

    Raises UserError with the commands that create it if it does not exist.
    """
    paths = [
        synthetic_of(rule, mix=mix, shards=config.shards, synthetic=config.synthetic)
        for mix, rule in zip(config.mixes, rules, strict=True)
    ]
    return next((path for path in paths if path is not None), None)


def digests_of(config: ClsConfig, real: ShardSet, synthetic: ShardSet | None) -> dict[str, str | None]:
    """Of all that a classifier is trained on; ``soft_labels`` only if it has some."""
    digests = {"real": real.digest, "synthetic": synthetic.digest if synthetic else None}
    return digests | ({"soft_labels": soft_labels_digest(config)} if config.soft_labels is not None else {})


def soft_labels_digest(config: ClsConfig) -> str | None:
    """SHA-256 of the CSV; None without one."""
    return None if config.soft_labels is None else sha256_file(Path(config.soft_labels))


def describe_data(real: ShardSet) -> dict[str, Any]:
    """Provenance of the real set, for reports."""
    provenance = real.manifest.provenance
    return {
        "importer": provenance.importer,
        "release": provenance.release,
        "is_phantom": provenance.is_phantom,
        "image_size": real.image_size,
        "label_rule": provenance.option("label_rule"),
        "fit": provenance.option("fit"),
        "folds": provenance.option("folds"),
        "fold": provenance.option("fold"),
        "counts": real.manifest.counts,
    }
