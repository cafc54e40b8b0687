"""Write generated images straight into shards: each rank writes its own shards, rank 0 the manifest.

    mix rule + real counts -> images per class            plan.py
      -> generators of the GAN run, grey gates            lineage.py, gates.py
        -> shard tasks, every world_size-th for this rank
          -> candidates 0, 1, 2 ... of a shard: z from (seed, class, shard, candidate) -> G -> gate -> tar
            -> tables, then the manifest with the lineage

A shard's bytes are a function of generator, seed, class and shard number, and not of the rank that writes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrdist.config.parser import to_dict
from cxrdist.console import Progress, duration, say
from cxrdist.data.imaging.codecs import encode
from cxrdist.data.ingest.default_set import open_real
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.manifest import (
    MANIFEST,
    Manifest,
    Stratum,
    check_classes,
    write_manifest,
    write_table,
)
from cxrdist.data.shards.schema import check_provenance
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.synthetic_keys import candidate_of, key_of, key_prefix
from cxrdist.data.shards.tar import Sample, finished_shard, write_shard
from cxrdist.data.shards.write_job import claimed, finished_set, mark_finished, remove_leftovers
from cxrdist.data.storage.store import Store, store_of
from cxrdist.distributed.dist import Dist
from cxrdist.models import TrainedGenerator
from cxrdist.run.folder import SUMMARY, locked_run
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.gates import GreyGate, scores_of
from cxrdist.synth.lineage import load_generators
from cxrdist.synth.plan import (
    CANDIDATE_BATCH,
    Source,
    SynthTask,
    check_pass_rate,
    images_to_make,
    provenance_of,
    shard_tasks,
)
from cxrdist.synth.report import report


@dataclass(frozen=True)
class WrittenShard:
    """One finished shard; ranks send each other these."""

    task: SynthTask
    row: dict[str, Any]
    """Its row of the shard table."""
    tried: int
    """Candidates that were generated for it."""


def synthesize(config: SynthConfig) -> None:
    """Write the synthetic set of a mix, over all processes."""
    began_s = time.monotonic()
    dist = Dist("fp32")  # bf16 would change grey values, for a job that takes seconds
    dist.on_main(lambda: open_real(config.shards).close())
    real = ShardSet(config.shards)
    check_classes(real.classes)
    sources = find_sources(config, real)
    total = sum(source.images for source in sources)
    provenance = provenance_of(config, sources)
    check_provenance(provenance, f"--out {config.out_place}")
    store = store_of(config.out_place)
    with locked_run(config.run_folder, "synth", to_dict(config), dist):
        if manifest := dist.on_main(lambda: finished_before(store, provenance)):
            if dist.is_main and not (config.run_folder / SUMMARY).exists():
                report(config, manifest, time.monotonic() - began_s, dist)
            dist.close()
            return
        for source in sources:
            source.generator.network.to(dist.device)
            check_pass_rate(source, config)
        say(f"synthesis of {total:,} images for {config.mix}; {dist.describe()}")
        with dist.hold_on_main(claimed(store, provenance)):
            shards = dist.gather_objects(write_my_shards(store, config, sources, real, dist))
            manifest = dist.on_main(lambda: conclude(store, real, config, provenance, shards))
        seconds = time.monotonic() - began_s
        if dist.is_main:
            report(config, manifest, seconds, dist)
    say(f"{store}: {total:,} images in {duration(seconds)}, digest {manifest['digest'][:12]}")
    dist.close()


def find_sources(config: SynthConfig, real: ShardSet) -> list[Source]:
    """The classes that the mix needs synthetic images of, in the order of the mix."""
    wanted = images_to_make(config, real)
    generators = load_generators(Path(config.gan), wanted, real)
    return [
        Source(name, images, generators[name], GreyGate.from_real(real, name))
        for name, images in wanted.items()
    ]


def finished_before(store: Store, provenance: dict[str, Any]) -> Manifest | None:
    return finished_set(store, provenance) if store.exists(MANIFEST) else None


def write_my_shards(
    store: Store, config: SynthConfig, sources: Sequence[Source], real: ShardSet, dist: Dist
) -> list[WrittenShard]:
    """Write every ``world_size``-th shard."""
    mine = shard_tasks(sources, real.image_size, config.encoding)[dist.rank :: dist.world_size]
    of_class = {source.class_name: source for source in sources}
    title = "synthesis"
    if dist.world_size > 1:
        title += f", this process's share of {sum(source.images for source in sources):,}:"
    with Progress(title, sum(task.samples for task in mine)) as progress:
        return [
            write_one(
                store, config, task, of_class[task.class_name], real.classes.index(task.class_name), progress
            )
            for task in mine
        ]


def write_one(
    store: Store, config: SynthConfig, task: SynthTask, source: Source, label: int, progress: Progress
) -> WrittenShard:
    """Write a shard, or take over the one that an earlier, killed job finished."""
    stratum = Stratum("train", task.class_name, "synthetic")
    admitted = AdmittedSamples(task, source.generator, source.gate, config)
    done = finished_shard(store, task.number, stratum, label, config.encoding, lambda sample: sample.meta)
    # An earlier version gave other keys: a shard of such a job is written again.
    if done and all(key == admitted.key(candidate_of(key)) for key in done[1]):
        row, samples = done
        progress.advance(task.samples)
        return WrittenShard(task, row, tried=candidate_of([*samples][-1]) + 1)
    row = write_shard(store, task.number, stratum, label, config.encoding, counted(admitted, progress))
    return WrittenShard(task, row, admitted.tried)


def counted(samples: Iterable[Sample], progress: Progress) -> Iterator[Sample]:
    for sample in samples:
        yield sample
        progress.advance()


class AdmittedSamples:
    """The samples of one shard: the first candidates that pass the gate, as many as the shard holds."""

    def __init__(
        self, task: SynthTask, generator: TrainedGenerator, gate: GreyGate, config: SynthConfig
    ) -> None:
        self.task, self.generator, self.gate, self.config = task, generator, gate, config
        self.prefix = key_prefix(generator.weights_sha256, config.seed, task.class_name)
        self.tried = 0
        """Candidates up to the last sample yielded, itself included."""

    def key(self, candidate: int) -> str:
        return key_of(self.prefix, self.task.number, candidate)

    def __iter__(self) -> Iterator[Sample]:
        admitted = 0
        for candidate, image in self._candidates():
            brightness, contrast = scores_of(image)
            self.tried = candidate + 1
            if not self.gate.admits(brightness, contrast):
                continue
            meta = {
                "patient": None,
                "origin": "synthetic",
                "source": self.generator.architecture,
                "generator_sha256": self.generator.weights_sha256,
                "seed": self.config.seed,
                "shard": self.task.number,
                "candidate": candidate,
                "scores": {"brightness": brightness, "contrast": contrast},
            }
            yield Sample(self.key(candidate), encode(image, self.config.encoding), meta)
            admitted += 1
            if admitted == self.task.samples:
                return

    def _candidates(self) -> Iterator[tuple[int, Any]]:
        """(number, image [H, W] uint8), without end."""
        purpose = f"synthesis {self.task.class_name} {self.task.number}"
        first = 0
        while True:
            z = self.generator.z(self.config.seed, purpose, range(first, first + CANDIDATE_BATCH))
            yield from enumerate(self.generator.images(self.task.class_name, z), first)
            first += CANDIDATE_BATCH


def conclude(
    store: Store, real: ShardSet, config: SynthConfig, provenance: dict[str, Any], shards: list[WrittenShard]
) -> Manifest:
    """Write tables and manifest, on rank 0, after all ranks have written their shards."""
    rows: dict[str, list[dict[str, Any]]] = {}
    gates: dict[str, dict[str, int]] = {}
    for shard in sorted(shards, key=lambda s: (s.task.class_name, s.task.number)):
        gate = gates.setdefault(shard.task.class_name, {"tried": 0, "admitted": 0})
        gate["tried"] += shard.tried
        gate["admitted"] += shard.row["samples"]
        rows.setdefault(shard.task.class_name, []).append(shard.row)
    strata = [
        write_table(store, Stratum("train", name, "synthetic"), of_class) for name, of_class in rows.items()
    ]
    remove_leftovers(store, strata, rows.values())
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
