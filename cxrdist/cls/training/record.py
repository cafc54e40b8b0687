"""What a finished classifier run leaves: predictions, metrics with intervals, the exported network, the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cxrdist.cls.config import ClsConfig
from cxrdist.cls.training.evaluate import with_attributes
from cxrdist.cls.training.networks import config_for
from cxrdist.cls.training.sources import describe_data, digests_of
from cxrdist.cls.training.stages import StagePlan
from cxrdist.cls.training.tracking import arm_name
from cxrdist.console import duration, say
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.metrics.classification import metrics_of
from cxrdist.metrics.evidence import evidence_of
from cxrdist.metrics.predictions import Predictions, write_predictions
from cxrdist.models import export_classifier
from cxrdist.run.folder import environment, write_summary
from cxrdist.run.stretches import Stretch
from cxrdist.seeds import derive

EXPORTED = ("accuracy", "balanced_accuracy", "macro_auroc")
"""Test metrics in ``model.json``."""


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """How far a training came, and how."""

    step: int
    kept_step: int
    order_sha256: str
    substituted: int
    data_wait: float
    seconds: float
    stretches: list[Stretch]
    storage: Mapping[str, Any]
    """What was exchanged with stores at URLs, for the summary: see ``traffic``."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A training that has ended, and what it was."""

    config: ClsConfig
    stages: Sequence[StagePlan]
    real: ShardSet
    synthetic: ShardSet | None
    network: nn.Module
    """The kept weights."""
    progressed: Progressed


def record(finished: Finished, predictions: Mapping[str, Predictions], dist: Dist) -> dict[str, Any]:
    """Write the files of a finished run, the summary last, which marks it as finished. Only rank 0 calls this.

    ``predictions``: of ``val`` and ``test``. Returns the summary.
    """
    config, progressed = finished.config, finished.progressed
    folder = Path(config.run_folder)
    described = {
        split: with_attributes(of_split, finished.real, split) for split, of_split in predictions.items()
    }
    for split, of_split in described.items():
        write_predictions(folder / f"predictions-{split}.csv", of_split)
    test = evidence_of(described["test"], derive(config.seed, "bootstrap"))
    digests = digests_of(config, finished.real, finished.synthetic)
    weights = export_classifier(
        folder,
        finished.network,
        config=config_for(config, finished.real),
        classes=finished.real.classes,
        lineage=made_from(finished.real)
        | {
            "synthetic_digest": digests["synthetic"],
            "other_lineage_allowed": config.allow_other_lineage,
            "fit": finished.real.manifest.provenance.option("fit", "pad"),
        },
        metrics={name: test[name] for name in EXPORTED if test[name] is not None},
    )
    stages = [_stage(stage, config.batch, progressed.step) for stage in finished.stages]
    summary = {
        "job": "cls",
        "status": "finished",
        "mix": arm_name(config, finished.stages),
        "seed": config.seed,
        "classes": finished.real.classes,
        "counts": finished.stages[-1].quotas,
        "stages": stages,
        "shards": digests,
        "other_lineage_allowed": config.allow_other_lineage,
        "synthetic_training_data": (
            finished.synthetic and finished.synthetic.manifest.provenance.training_data
        ),
        "data": describe_data(finished.real),
        "metrics": {"val": metrics_of(predictions["val"]), "test": test},
        "network": config.network,
        "parameters": sum(weight.numel() for weight in finished.network.parameters()),
        "best_images": progressed.kept_step * config.batch,
        "epochs": round(sum(stage["epochs"] for stage in stages), 4),
        "images_seen": progressed.step * config.batch,
        "steps": progressed.step,
        "world_size": dist.world_size,
        "device": dist.device_name,
        "precision": dist.precision,
        "threads": dist.threads,
        "stretches": progressed.stretches,
        "weights_sha256": weights,
        "order_sha256": progressed.order_sha256,
        "substituted": progressed.substituted,
        "data_wait": round(progressed.data_wait, 4),
        "seconds": round(progressed.seconds, 1),
        **progressed.storage,
        **environment(),
    }
    write_summary(folder, summary)
    say(f"{folder}: {_result(test)}; {duration(progressed.seconds)}")
    return summary


def _stage(stage: StagePlan, batch: int, steps: int) -> dict[str, Any]:
    """``steps``: that were trained in all stages; the last stage may have ended early."""
    end = min(stage.end, steps)
    return {
        "mix": stage.rule.name,
        "counts": stage.quotas,
        "images_seen": (end - stage.first) * batch,
        "epochs": round(stage.epoch_at(end), 4),
        "learning_rate": stage.learning_rate,
        "frozen": stage.is_frozen,
    }


def _result(test: Mapping[str, Any]) -> str:
    """``test accuracy 80.1% (76.0 to 84.2), ...``: each with its 95 % interval over patients."""
    parts = []
    for name, metric in (("accuracy", "accuracy"), ("balanced", "balanced_accuracy")):
        interval = test["intervals"].get(metric)
        within = f" ({interval[0] * 100:.1f} to {interval[1] * 100:.1f})" if interval else ""
        parts.append(f"{name} {test[metric]:.1%}{within}" if test[metric] is not None else f"{name} unknown")
    auroc = test["macro_auroc"]
    parts.append(f"macro AUROC {auroc:.3f}" if auroc is not None else "macro AUROC unknown")
    return "test " + ", ".join(parts)
