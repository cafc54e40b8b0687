"""The outcome of a synthesis: printed, written to the run's ``summary.json``, and sent to W&B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cxrdist.config.parser import to_dict
from cxrdist.console import say
from cxrdist.data.shards.manifest import Manifest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.files import read_json
from cxrdist.run.folder import SUMMARY, environment, write_summary
from cxrdist.run.tracking.description import Description, data_of, describe
from cxrdist.run.tracking.start import start
from cxrdist.synth.config import SynthConfig


def report(config: SynthConfig, manifest: Manifest, real: ShardSet, seconds: float, dist: Dist) -> None:
    """Rank 0 alone calls this, after the manifest is written."""
    provenance = manifest.provenance.json_value()
    gates = provenance["gates"]
    for name, gate in gates.items():
        share = gate["admitted"] / gate["tried"]
        say(f"  {name}: {gate['admitted']:,} images, {share:.1%} of those generated passed the gate")
    summary = {
        "job": "synth",
        "status": "finished",
        "shards": {"real": manifest.lineage.real_digest, "synthetic": manifest.digest},
        "generators": provenance["generators"],
        "data": synth_data(manifest, real),
        "metrics": {"gates": gates},
        "images_made": manifest.samples,
        "seconds": round(seconds, 1),
        "world_size": dist.world_size,
        "device": dist.device_name,
        **environment(),
    }
    tracker = start(config.run_folder, config.tracking, describe_synth(config, manifest, real, dist))
    write_summary(config.run_folder, summary)
    tracker.use_artifact("real-set", real.digest, Path(str(real)).name)
    if (Path(config.gan) / SUMMARY).exists():  # absent if the training of other models of the run goes on
        weights = read_json(Path(config.gan) / SUMMARY)["weights_sha256"]
        tracker.use_artifact("gan", weights, Path(config.gan).name)
    tracker.log_artifact("synthetic-set", manifest.digest, Path(config.out_place).name)
    tracker.finish(summary)


def describe_synth(config: SynthConfig, manifest: Manifest, real: ShardSet, dist: Dist) -> Description:
    mix = manifest.provenance.json_value()["options"]["mix"] or "count"
    name = f"synth-{mix}-{real.image_size}px" + (f"-seed{config.seed}" if config.seed else "")
    return describe("synth", name, [mix], to_dict(config), synth_data(manifest, real), dist)


def synth_data(manifest: Manifest, real: ShardSet) -> dict[str, Any]:
    return data_of(
        real_digest=real.digest,
        synthetic_digest=manifest.digest,
        image_size=real.image_size,
        classes=real.classes,
        train_counts=real.manifest.counts["train"],
        epoch_counts=manifest.counts["train"],
    )
