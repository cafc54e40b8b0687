"""The outcome of a synthesis: printed, written to the run's ``summary.json``, and sent to W&B."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrdist.cards.dataset import write_dataset_card
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
from cxrdist.synth.generators.sources import UNKNOWN

CARD = "card"


def report(
    config: SynthConfig,
    manifest: Manifest,
    real: ShardSet,
    pictures: Mapping[str, Path],
    seconds: float,
    dist: Dist,
) -> None:
    """Rank 0 alone calls this, after the manifest is written. ``pictures``: by name, of
    images and scores."""
    provenance = manifest.provenance.json_value()
    gates = provenance["gates"]
    for line in table(gates):
        say(line)
    if provenance.get("training_data") == UNKNOWN:
        say(f"{config.generator} does not say what it learned from: it may have seen images of val and test")
    summary = {
        "job": "synth",
        "status": "finished",
        "shards": {"real": manifest.lineage.real_digest, "synthetic": manifest.digest},
        "generators": provenance["generators"],
        "training_data": provenance.get("training_data"),
        "data": synth_data(manifest, real),
        "metrics": {"gates": gates["classes"]},
        "images_made": manifest.samples,
        "seconds": round(seconds, 1),
        "world_size": dist.world_size,
        "device": dist.device_name,
        **environment(),
    }
    write_dataset_card(config.run_folder / CARD, ShardSet(config.out_place), real)
    tracker = start(config.run_folder, config.tracking, describe_synth(config, manifest, real, dist))
    write_summary(config.run_folder, summary)
    tracker.use_artifact("real-set", real.digest, Path(str(real)).name)
    for run in config.gan_runs if config.generator is None else ():
        if (run / SUMMARY).exists():  # absent if the training of other models of the run goes on
            tracker.use_artifact("gan", read_json(run / SUMMARY)["weights_sha256"], run.name)
    tracker.log_artifact("synthetic-set", manifest.digest, Path(config.out_place).name)
    tracker.log(manifest.samples, pass_rates(gates))
    tracker.table("gates/scores", score_rows(gates))
    for name, path in pictures.items():
        tracker.picture(manifest.samples, f"gates/{name}", path)
    tracker.finish(summary)


def table(gates: Mapping[str, Any]) -> list[str]:
    """A line per class: images, candidates, and how many each gate lets pass."""
    lines = []
    for name, of in gates["classes"].items():
        words = [f"{of['admitted']:,} of {of['tried']:,} images admitted"]
        words += [f"{gate} {passed / of['tried']:.0%}" for gate, passed in of.get("passed", {}).items()]
        if of["duplicates"]:
            words.append(f"{of['duplicates']:,} duplicates")
        if of.get("coverage"):
            words.append("coverage " + ", ".join(f"{value:.0%}" for value in of["coverage"].values()))
        if "copy_rate" in of:
            words.append(f"near copies {of['copy_rate']:.1%} (real: {of['copy_null_rate']:.1%})")
        lines.append(f"  {name}: {'; '.join(words)}")
    return lines


def pass_rates(gates: Mapping[str, Any]) -> dict[str, float]:
    """``{class/gate: share}`` for a chart."""
    rates = {}
    for name, of in gates["classes"].items():
        rates[f"gates/{name}/admitted"] = of["admitted"] / of["tried"]
        rates |= {f"gates/{name}/{gate}": n / of["tried"] for gate, n in of.get("passed", {}).items()}
    return rates


def score_rows(gates: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The distribution of each gate's scores, of synthetic candidates beside real validation images."""
    return [
        {"class": name, "gate": gate, "images": origin, "threshold": of["thresholds"][gate]}
        | dict(zip(("q05", "q25", "q50", "q75", "q95"), values))
        for name, of in gates["classes"].items()
        for gate, scores in of.get("scores", {}).items()
        for origin, values in scores.items()
    ]


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
