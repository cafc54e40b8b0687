"""The outcome of a synthesis: printed, written to the run's ``summary.json``, and sent to W&B."""

from __future__ import annotations

from cxrdist.config.parser import to_dict
from cxrdist.console import say
from cxrdist.data.shards.manifest import Manifest
from cxrdist.distributed.dist import Dist
from cxrdist.run.folder import environment, write_summary
from cxrdist.run.tracking import start
from cxrdist.synth.config import SynthConfig


def report(config: SynthConfig, manifest: Manifest, seconds: float, dist: Dist) -> None:
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
        "metrics": {"gates": gates},
        "images_made": manifest.samples,
        "seconds": round(seconds, 1),
        "world_size": dist.world_size,
        "device": dist.device_name,
        **environment(),
    }
    tracker = start(config.run_folder, config.tracking, job="synth", settings=to_dict(config), is_main=True)
    write_summary(config.run_folder, summary)
    tracker.finish(summary)
