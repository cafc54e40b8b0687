"""Writing generated images straight into shards: each rank its own shards, one manifest at the end.

    mix rule + real counts -> images to make per class
      -> shard tasks, dealt over the ranks
        -> candidates 0, 1, 2 ... of a shard: z from (seed, class, shard, candidate) -> G -> gate -> tar
      -> tables, manifest with lineage, written last

A shard's bytes are a function of generator, seed, class and shard number: not of the rank that writes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrdist.config import find_named, load_yaml, to_dict
from cxrdist.console import Progress, duration, say
from cxrdist.data.imaging.codecs import encode
from cxrdist.data.ingest.default_set import open_real
from cxrdist.data.loading.mix_sets import train_counts
from cxrdist.data.mix.rules import quotas, rule_from
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.manifest import MANIFEST, Manifest, Stratum, write_manifest, write_table
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.synthetic_keys import candidate_of, key_of, key_prefix
from cxrdist.data.shards.tar import Sample, finished_shard, samples_per_shard, write_shard
from cxrdist.data.shards.write_job import claim, finished_set, mark_finished, remove_leftovers
from cxrdist.data.storage.store import Store, store_of
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.models import TrainedGenerator
from cxrdist.run.folder import SUMMARY, environment, holding, write_summary
from cxrdist.run.tracking import start
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.gates import GreyGate, scores_of
from cxrdist.synth.lineage import load_generators

CANDIDATE_BATCH = 64
PROBED_CANDIDATES = 4 * CANDIDATE_BATCH
LEAST_PASS_RATE = 0.05
LEAST_SHARDS_PER_CLASS = 8


@dataclass(frozen=True)
class SynthTask:
    """One shard to write."""

    class_name: str
    number: int
    samples: int


def synthesize(config: SynthConfig) -> None:
    """Make the synthetic set of a mix, over all processes."""
    began_s = time.monotonic()
    dist = Dist("fp32")  # bf16 would change grey values, for a job that takes seconds
    dist.on_main(lambda: open_real(config.shards).close())
    real = ShardSet(config.shards)
    wanted = images_to_make(config, real)
    generators = load_generators(Path(config.gan), wanted, real)
    gates = {name: GreyGate.from_real(real, name) for name in wanted}
    provenance = provenance_of(config, generators, gates, wanted)
    store = store_of(config.out_place)
    with holding(config.run_folder, "synth", to_dict(config), dist):
        if manifest := dist.on_main(lambda: finished_before(store, provenance)):
            if dist.is_main and not (config.run_folder / SUMMARY).exists():
                report(config, manifest, time.monotonic() - began_s, dist)
            dist.close()
            return
        for name in wanted:
            generators[name].network.to(dist.device)
            probe(generators[name], name, gates[name], config)
        say(f"synthesis of {sum(wanted.values()):,} images for {config.mix}; {dist.describe()}")
        releases: list[Callable[[], None]] = []
        dist.on_main(lambda: releases.append(claim(store, provenance)))
        try:
            rows = write_my_shards(store, config, real, wanted, generators, gates, dist)
            manifest = dist.on_main(lambda: conclude(store, real, config, provenance, rows))
        finally:
            for release in releases:
                release()
        seconds = time.monotonic() - began_s
        if dist.is_main:
            report(config, manifest, seconds, dist)
    say(f"{store}: {sum(wanted.values()):,} images in {duration(seconds)}, digest {manifest['digest'][:12]}")
    dist.close()


def finished_before(store: Store, provenance: dict[str, Any]) -> Manifest | None:
    return finished_set(store, provenance) if store.exists(MANIFEST) else None


def images_to_make(config: SynthConfig, real: ShardSet) -> dict[str, int]:
    """``{class: images}``, those of one epoch. Raises UserError for a mix that uses no synthetic images."""
    rule = rule_from(load_yaml(find_named("mix", config.mix)))
    if not rule.needs_synthetic:
        raise UserError(f"{rule.name} uses no synthetic images: take a mix that does, such as --mix DS3")
    quota = quotas(rule, train_counts(real, None))
    wanted = {name: q["synthetic"] for name, q in quota.items() if q.get("synthetic")}
    if not wanted:
        raise UserError(
            f"an epoch of {rule.name} on {real} takes no synthetic image: raise what the rule asks of them"
        )
    return wanted


def provenance_of(
    config: SynthConfig,
    generators: dict[str, TrainedGenerator],
    gates: dict[str, GreyGate],
    wanted: dict[str, int],
) -> dict[str, Any]:
    return {
        "importer": "synthesis",
        "release": "generated images",
        "is_phantom": False,
        "options": {
            "encoding": config.encoding,
            "seed": config.seed,
            "mix": config.mix,
            "images": wanted,
            "label_rule": None,
        },
        "generators": {name: g.weights_sha256 for name, g in generators.items()},
        "grey_ranges": {
            name: {
                "brightness": [gate.brightness.low, gate.brightness.high],
                "contrast": [gate.contrast.low, gate.contrast.high],
            }
            for name, gate in gates.items()
        },
    }


def probe(generator: TrainedGenerator, class_name: str, gate: GreyGate, config: SynthConfig) -> None:
    """Raises UserError, before anything is written, where hardly an image of a generator passes its gate."""
    z = generator.z(config.seed, f"probe {class_name}", range(PROBED_CANDIDATES))
    images = generator.images(class_name, z)
    passed = sum(gate.admits(*scores_of(image)) for image in images)
    if passed < LEAST_PASS_RATE * PROBED_CANDIDATES:
        raise UserError(
            f"of {PROBED_CANDIDATES} images of {class_name} only {passed} have the brightness and "
            f"contrast of real ones: look at its samples in {config.gan}, and train it longer (--budget)"
        )


def plan(wanted: dict[str, int], image_size: int, encoding: str) -> list[SynthTask]:
    """The shards of all classes; enough of them that several ranks have work, a function of counts alone."""
    tasks = []
    for name, images in wanted.items():
        length = min(
            samples_per_shard(image_size, encoding),
            max(CANDIDATE_BATCH, -(-images // LEAST_SHARDS_PER_CLASS)),
        )
        for number, first in enumerate(range(0, images, length)):
            tasks.append(SynthTask(name, number, min(length, images - first)))
    return tasks


def write_my_shards(
    store: Store,
    config: SynthConfig,
    real: ShardSet,
    wanted: dict[str, int],
    generators: dict[str, TrainedGenerator],
    gates: dict[str, GreyGate],
    dist: Dist,
) -> list[tuple[str, int, dict[str, Any]]]:
    """Write this rank's shards; returns those of all ranks as (class, number, row of the table)."""
    tasks = plan(wanted, real.image_size, config.encoding)
    mine = tasks[dist.rank :: dist.world_size]
    rows = []
    total = sum(task.samples for task in mine)
    title = (
        "synthesis"
        if dist.world_size == 1
        else f"synthesis, this process's share of {sum(wanted.values()):,}:"
    )
    with Progress(title, total) as progress:
        for task in mine:
            stratum = Stratum("train", task.class_name, "synthetic")
            label = real.classes.index(task.class_name)
            done = finished_shard(
                store, task.number, stratum, label, config.encoding, lambda sample: sample.meta
            )
            prefix = key_prefix(generators[task.class_name].weights_sha256, config.seed, task.class_name)
            # An earlier version gave other keys: a shard of such a job is written again.
            if done and all(key == key_of(prefix, task.number, candidate_of(key)) for key in done[1]):
                row = done[0] | {"tried": candidate_of([*done[1]][-1]) + 1}
                progress.advance(task.samples)
            else:
                tried: list[int] = []
                samples = admitted(
                    task,
                    generators[task.class_name],
                    gates[task.class_name],
                    config,
                    tried,
                    progress,
                )
                row = write_shard(store, task.number, stratum, label, config.encoding, samples)
                row["tried"] = tried[-1] + 1
            rows.append((task.class_name, task.number, row))
    return dist.gather_objects(rows)


def admitted(
    task: SynthTask,
    generator: TrainedGenerator,
    gate: GreyGate,
    config: SynthConfig,
    tried: list[int],
    progress: Progress,
) -> Iterator[Sample]:
    """The first candidates of a shard that pass the gate, as many as the shard holds; ``tried`` gets the
    numbers of all that were looked at."""
    made = first = 0
    purpose = f"synthesis {task.class_name} {task.number}"
    prefix = key_prefix(generator.weights_sha256, config.seed, task.class_name)
    while made < task.samples:
        z = generator.z(config.seed, purpose, range(first, first + CANDIDATE_BATCH))
        for number, image in enumerate(generator.images(task.class_name, z), first):
            tried.append(number)
            brightness, contrast = scores_of(image)
            if gate.admits(brightness, contrast):
                meta = {
                    "patient": None,
                    "origin": "synthetic",
                    "source": generator.architecture,
                    "generator_sha256": generator.weights_sha256,
                    "seed": config.seed,
                    "shard": task.number,
                    "candidate": number,
                    "scores": {"brightness": brightness, "contrast": contrast},
                }
                yield Sample(key_of(prefix, task.number, number), encode(image, config.encoding), meta)
                made += 1
                progress.advance()
                if made == task.samples:
                    return
        first += CANDIDATE_BATCH


def conclude(
    store: Store,
    real: ShardSet,
    config: SynthConfig,
    provenance: dict[str, Any],
    rows: list[tuple[str, int, dict[str, Any]]],
) -> dict[str, Any]:
    """Tables and manifest, on rank 0, when all ranks have written their shards."""
    shards: dict[str, list[dict[str, Any]]] = {}
    gates: dict[str, dict[str, int]] = {}
    for name, _, row in sorted(rows, key=lambda r: r[:2]):
        tried = row.pop("tried")
        gate = gates.setdefault(name, {"tried": 0, "admitted": 0})
        gate["tried"] += tried
        gate["admitted"] += row["samples"]
        shards.setdefault(name, []).append(row)
    strata = [
        write_table(store, Stratum("train", name, "synthetic"), rows_) for name, rows_ in shards.items()
    ]
    remove_leftovers(store, strata, shards.values())
    manifest = write_manifest(
        store,
        classes=real.classes,
        image_size=real.image_size,
        encoding=config.encoding,
        strata=strata,
        provenance=provenance | {"gates": gates},
        lineage={"kind": "synthetic", **made_from(real), "generators": provenance["generators"]},
    )
    mark_finished(store)
    return manifest


def report(config: SynthConfig, manifest: dict[str, Any], seconds: float, dist: Dist) -> None:
    for name, gate in manifest["provenance"]["gates"].items():
        say(f"  {name}: {gate['admitted']:,} images, {gate['admitted'] / gate['tried']:.1%} of those made")
    summary = {
        "job": "synth",
        "status": "finished",
        "shards": {"real": manifest["lineage"]["real_digest"], "synthetic": manifest["digest"]},
        "generators": manifest["provenance"]["generators"],
        "metrics": {"gates": manifest["provenance"]["gates"]},
        "images_made": sum(s["samples"] for s in manifest["strata"]),
        "seconds": round(seconds, 1),
        "world_size": dist.world_size,
        "device": dist.device_name,
        **environment(),
    }
    tracker = start(config.run_folder, config.tracking, job="synth", settings=to_dict(config), is_main=True)
    write_summary(config.run_folder, summary)
    tracker.finish(summary)
