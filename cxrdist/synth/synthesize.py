"""Write generated images straight into shards: each rank writes its own shards, rank 0 the manifest.

    mix rule + real counts -> images per class            plan.py
      -> generators of the GAN run, grey gates            lineage.py, gates.py
        -> shard tasks, every world_size-th for this rank
          -> candidates 0, 1, 2 ... of a shard: z from (seed, class, shard, candidate) -> G -> gate -> tar
            -> tables, then the manifest with the lineage

A shard's bytes are a function of generator, seed, class and shard number, and not of the rank that writes it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrdist.config.parser import to_dict
from cxrdist.console import Progress, duration, say
from cxrdist.data.imaging.codecs import encode
from cxrdist.data.ingest.default_set import open_real
from cxrdist.data.shards.index import ShardRow, write_table
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.manifest import Lineage, Manifest, Provenance, Stratum, check_classes, write_manifest
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.synthetic_keys import candidate_of, key_of, key_prefix
from cxrdist.data.shards.tar import Sample
from cxrdist.data.shards.write_job import claimed, finished_set, mark_finished, remove_leftovers
from cxrdist.data.shards.write_pool import Outcome, ShardResult, ShardTask, write_or_take_over
from cxrdist.data.storage.store import Store, store_of
from cxrdist.distributed.dist import Dist
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
class CandidateTask(ShardTask):
    """One shard of synthetic images: the first candidates that pass the gate, as many as the shard holds."""

    source: Source
    samples: int
    seed: int

    @property
    def images(self) -> int:
        return self.samples

    @property
    def prefix(self) -> str:
        """What all keys of the class begin with."""
        return key_prefix(self.source.generator.weights_sha256, self.seed, self.source.class_name)

    def take_over(self, row: ShardRow, samples: Mapping[str, Any]) -> ShardResult | None:
        # An earlier version gave other keys: a shard of such a job is written again.
        if any(key != key_of(self.prefix, self.number, candidate_of(key)) for key in samples):
            return None
        return ShardResult(row, tried=candidate_of([*samples][-1]) + 1)

    def outcomes(self) -> Iterator[Outcome]:
        prefix, generator = self.prefix, self.source.generator
        admitted = 0
        for candidate, image in self._candidates():
            brightness, contrast = scores_of(image)
            if not self.source.gate.admits(brightness, contrast):
                yield Outcome()
                continue
            meta = {
                "patient": None,
                "origin": "synthetic",
                "class": self.source.class_name,
                "source": generator.architecture,
                "generator_sha256": generator.weights_sha256,
                "seed": self.seed,
                "shard": self.number,
                "candidate": candidate,
                "scores": {"brightness": brightness, "contrast": contrast},
            }
            key = key_of(prefix, self.number, candidate)
            yield Outcome(Sample(key, encode(image, self.encoding), meta))
            admitted += 1
            if admitted == self.samples:
                return

    def _candidates(self) -> Iterator[tuple[int, Any]]:
        """(number, image [H, W] uint8), without end."""
        class_name, generator = self.source.class_name, self.source.generator
        purpose = f"synthesis {class_name} {self.number}"
        for first in itertools.count(0, CANDIDATE_BATCH):
            z = generator.z(self.seed, purpose, range(first, first + CANDIDATE_BATCH))
            yield from enumerate(generator.images(class_name, z), first)


@dataclass(frozen=True)
class WrittenShard:
    """A shard that this process wrote, or took over from an earlier, killed job."""

    task: SynthTask
    row: ShardRow
    tried: int
    """Candidates that were generated for it."""


def synthesize(config: SynthConfig) -> None:
    """Write the synthetic set of a mix, over all processes."""
    with Dist(
        "fp32", threads=config.threads
    ) as dist:  # bf16 would change grey values, for a job that takes seconds
        dist.on_main(lambda: open_real(config.shards).close())
        real = dist.agree(lambda: ShardSet(config.shards))
        check_classes(real.classes)
        sources = dist.agree(lambda: find_sources(config, real))
        with locked_run(config.run_folder, "synth", to_dict(config), dist):
            write_set(config, real, sources, dist)


def write_set(config: SynthConfig, real: ShardSet, sources: Sequence[Source], dist: Dist) -> None:
    """Write the set, unless it is finished, and the run's summary."""
    began_s = time.monotonic()
    total = sum(source.images for source in sources)
    provenance, store = provenance_of(config, sources), store_of(config.out_place)
    if manifest := dist.on_main(lambda: finished_before(store, provenance)):
        if dist.is_main and not (config.run_folder / SUMMARY).exists():
            report(config, manifest, real, time.monotonic() - began_s, dist)
        return
    for source in sources:
        source.generator.network.to(dist.device)
        check_pass_rate(source, config)
    wanted = config.mix_name if config.count is None else f"--count {config.count}"
    say(f"synthesis of {total:,} images for {wanted}; {dist.describe()}")
    with dist.hold_on_main(claimed(store, provenance)):
        shards = dist.gather_objects(write_my_shards(store, config, sources, real, dist))
        manifest = dist.on_main(lambda: conclude(store, real, config, provenance, shards))
    seconds = time.monotonic() - began_s
    if dist.is_main:
        report(config, manifest, real, seconds, dist)
    say(f"{store}: {total:,} images in {duration(seconds)}, digest {manifest.digest[:12]}")


def find_sources(config: SynthConfig, real: ShardSet) -> list[Source]:
    """The classes that the mix needs synthetic images of, in the order of the mix."""
    wanted = images_to_make(config, real)
    generators = load_generators(Path(config.gan), wanted, real)
    return [
        Source(name, images, generators[name], GreyGate.from_real(real, name))
        for name, images in wanted.items()
    ]


def finished_before(store: Store, provenance: Provenance) -> Manifest | None:
    return finished_set(store, provenance) if store.exists(MANIFEST) else None


def write_my_shards(
    store: Store, config: SynthConfig, sources: Sequence[Source], real: ShardSet, dist: Dist
) -> list[WrittenShard]:
    """Write every ``world_size``-th shard, or take over what an earlier, killed job finished."""
    mine = shard_tasks(sources, real.image_size, config.encoding)[dist.rank :: dist.world_size]
    of_class = {source.class_name: source for source in sources}
    title = "synthesis"
    if dist.world_size > 1:
        title += f", this process's share of {sum(source.images for source in sources):,}:"
    written = []
    with Progress(title, sum(task.samples for task in mine)) as progress:
        for task in mine:
            result = write_or_take_over(
                CandidateTask(
                    store=store,
                    number=task.number,
                    stratum=Stratum("train", task.class_name, "synthetic"),
                    class_index=real.classes.index(task.class_name),
                    encoding=config.encoding,
                    source=of_class[task.class_name],
                    samples=task.samples,
                    seed=config.seed,
                ),
                progress.advance,
            )
            assert result.row is not None  # a task has at least one sample
            written.append(WrittenShard(task, result.row, result.tried))
    return written


def conclude(
    store: Store, real: ShardSet, config: SynthConfig, provenance: Provenance, shards: list[WrittenShard]
) -> Manifest:
    """Write tables and manifest, on rank 0, after all ranks have written their shards."""
    rows: dict[str, list[ShardRow]] = {}
    gates: dict[str, dict[str, int]] = {}
    for shard in sorted(shards, key=lambda s: (s.task.class_name, s.task.number)):
        gate = gates.setdefault(shard.task.class_name, {"tried": 0, "admitted": 0})
        gate["tried"] += shard.tried
        gate["admitted"] += shard.row.samples
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
        provenance=provenance.updated({"gates": gates}),
        lineage=Lineage(kind="synthetic", **made_from(real), generators=provenance.generators),
    )
    mark_finished(store)
    return manifest
