"""What a classifier's run says of itself to the tracker: its description, charts of the test, and artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.cls.config import ClsConfig
from cxrdist.cls.training.stages import StagePlan
from cxrdist.config.parser import to_dict
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.metrics.predictions import Predictions
from cxrdist.run.tracking.description import Description, cls_name, data_of, describe
from cxrdist.run.tracking.no_tracker import NoTracker

TABLE_IMAGES = 500
"""Rows of the table of predictions: the images with the largest loss."""


def arm_name(config: ClsConfig, stages: Sequence[StagePlan]) -> str:
    return config.arm or " then ".join(stage.rule.name for stage in stages)


def describe_cls(
    config: ClsConfig, stages: Sequence[StagePlan], real: ShardSet, synthetic: ShardSet | None, dist: Dist
) -> Description:
    """The W&B run of a classifier."""
    data = data_of(
        real_digest=real.digest,
        synthetic_digest=synthetic.digest if synthetic else None,
        image_size=real.image_size,
        classes=real.classes,
        train_counts=real.manifest.counts["train"],
        epoch_counts=stages[-1].quotas,
    )
    arm = arm_name(config, stages)
    tags = list(dict.fromkeys([arm, *(stage.rule.name for stage in stages)]))
    return describe("cls", cls_name(arm, config.seed), tags, to_dict(config), data, dist)


def log_cls(
    tracker: NoTracker,
    real: ShardSet,
    synthetic: ShardSet | None,
    summary: Mapping[str, Any],
    test: Predictions,
) -> None:
    """Charts of the test split, and the artifacts of a classifier: the sets that it has learned from, its weights."""
    classes = list(test.classes)
    tracker.confusion("test/confusion", test.labels, test.probabilities, classes)
    tracker.pr_curves("test/pr", test.labels, test.probabilities, classes)
    rows, pixels = worst(test, real)
    is_phantom = bool(real.manifest.provenance.is_phantom)
    tracker.prediction_table("test/predictions", rows, pixels, is_phantom=is_phantom)
    tracker.use_artifact("real-set", real.digest, Path(str(real)).name)
    if synthetic is not None:
        tracker.use_artifact("synthetic-set", synthetic.digest, Path(str(synthetic)).name)
    tracker.log_artifact("classifier", summary["weights_sha256"], cls_name(summary["mix"], summary["seed"]))


def worst(test: Predictions, real: ShardSet) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The images with the lowest probability of their class, as rows of a table, and their pixels [n, H, W] uint8."""
    own = test.probabilities[np.arange(len(test.labels)), test.labels]
    order = np.argsort(own, kind="stable")[:TABLE_IMAGES]
    places = {
        reader.key(number).decode(): (reader, number)
        for name in real.classes
        if real.samples("test", name, "real")
        for reader in [real.stratum("test", name, "real")]
        for number in range(reader.samples)
    }
    rows, pixels = [], []
    for n in order:
        reader, number = places[str(test.keys[n])]
        pixels.append(reader.pixels(number))
        rows.append(
            {
                "key": str(test.keys[n]),
                "class": test.classes[test.labels[n]],
                "predicted": test.classes[int(test.probabilities[n].argmax())],
                **{
                    f"p:{name}": float(p) for name, p in zip(test.classes, test.probabilities[n], strict=True)
                },
            }
        )
    size = real.image_size
    return rows, np.stack(pixels) if pixels else np.zeros((0, size, size), np.uint8)
