"""What a classifier's run says of itself to the tracker: its description and artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrdist.cls.config import ClsConfig
from cxrdist.config.parser import to_dict
from cxrdist.data.loading.mix_sets import train_counts
from cxrdist.data.mix.rules import MixRule, quotas
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.run.tracking.description import Description, cls_name, data_of, describe
from cxrdist.run.tracking.no_tracker import NoTracker


def describe_cls(
    config: ClsConfig, rule: MixRule, real: ShardSet, synthetic: ShardSet | None, dist: Dist
) -> Description:
    """The W&B run of a classifier."""
    data = data_of(
        real_digest=real.digest,
        synthetic_digest=synthetic.digest if synthetic else None,
        image_size=real.image_size,
        classes=real.classes,
        train_counts=real.manifest.counts["train"],
        epoch_counts=quotas(rule, train_counts(real, synthetic)),
    )
    return describe("cls", cls_name(rule.name, config.seed), [rule.name], to_dict(config), data, dist)


def log_cls(
    tracker: NoTracker, real: ShardSet, synthetic: ShardSet | None, summary: Mapping[str, Any]
) -> None:
    """The artifacts of a classifier: the sets that it has learned from, and its weights."""
    tracker.use_artifact("real-set", real.digest, Path(str(real)).name)
    if synthetic is not None:
        tracker.use_artifact("synthetic-set", synthetic.digest, Path(str(synthetic)).name)
    tracker.log_artifact("classifier", summary["weights_sha256"], cls_name(summary["mix"], summary["seed"]))
