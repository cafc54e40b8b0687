"""Write the shards of all classes, over all processes, until each class has its images.

    round 1: shards for all images that are wanted ──> duplicates among them ──> round 2: shards for as many ...

Each rank draws, judges and writes whole shards of its own. After a round the ranks exchange what is known of each
image, 0.5 KB of it, and rank 0 finds the duplicates. Which images a shard holds is a function of the plan alone, so
the set is the same for any number of ranks, and a killed job takes over what it finds.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from cxrdist.console import Progress, say, size_text
from cxrdist.data.shards.index import ShardRow
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.synthetic_keys import index_of
from cxrdist.data.shards.tar import Sample
from cxrdist.data.shards.writing.write_pool import write_or_take_over
from cxrdist.data.storage.store import Store
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.process import available_cores
from cxrdist.ranks import local_world_size
from cxrdist.synth.candidates import CandidateTask
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.gates.duplicates import duplicates
from cxrdist.synth.gates.judge import Judge
from cxrdist.synth.generators.sources import BLOCK, ImageSource
from cxrdist.synth.plan import ClassProgress, Task, plan_shards


@dataclass(frozen=True)
class Written:
    """A shard that was written, or taken over from an earlier, killed job."""

    class_name: str
    number: int
    source: str
    """Digest of the generator."""
    row: ShardRow
    record: np.ndarray
    """[candidates] of gates.record.dtype_of."""
    keys: list[str]
    coarse: np.ndarray
    """[samples, 256] float16, for the search for duplicates; [0] without it."""
    rejected: list[Sample]
    """Candidates that were refused and are kept to be looked at."""

    @property
    def next_block(self) -> int:
        return int(self.record["index"][-1]) // BLOCK + 1


@dataclass
class ClassShards:
    """What a class consists of so far."""

    wanted: int
    progress: ClassProgress
    shards: list[Written] = field(default_factory=list)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    """Key -> [256] float16 of the images that duplicates are searched among, in the order in which they stay."""
    duplicates: list[str] = field(default_factory=list)
    """Keys of images that are too similar to an earlier one."""
    before: int = 0
    """Images that the set had already."""

    @property
    def records(self) -> np.ndarray:
        """What the gates said of all candidates, [candidates] of gates.record.dtype_of."""
        return np.concatenate([shard.record for shard in self.shards])

    @property
    def images(self) -> int:
        """That count."""
        return self.before + sum(shard.row.samples for shard in self.shards) - len(self.duplicates)


@dataclass(frozen=True)
class Job:
    """What all rounds share."""

    config: SynthConfig
    store: Store
    real: ShardSet
    sources: Mapping[str, Sequence[ImageSource]]
    judge: Judge
    dist: Dist


def write_rounds(job: Job, classes: Mapping[str, ClassShards]) -> None:
    """Write shards until each class has the images that are wanted. All ranks call this, with equal ``classes``, and
    have equal ones afterwards. Raises UserError if a generator draws too many duplicates."""
    turn = 0
    while True:
        turn += 1
        missing = {name: of.wanted - of.images for name, of in classes.items() if of.wanted > of.images}
        if not missing:
            return
        if turn > 1:
            say(f"round {turn}, images in place of duplicates: {sum(missing.values()):,}")
        progress = {name: of.progress for name, of in classes.items()}
        tasks = plan_shards(missing, job.sources, progress, job.real.image_size, job.config.encoding)
        mine = job.dist.agree(partial(_write_mine, job, tasks))
        written = job.dist.gather_objects(mine)
        for shard in sorted(written, key=lambda s: (s.class_name, s.number)):
            of = classes[shard.class_name]
            of.shards.append(shard)
            of.progress.next_number = max(of.progress.next_number, shard.number + 1)
            blocks = of.progress.next_blocks
            blocks[shard.source] = max(blocks.get(shard.source, 0), shard.next_block)
        for name in missing:
            _find_duplicates(job, name, classes[name])


def _write_mine(job: Job, tasks: Sequence[Task]) -> list[Written]:
    """Every ``world_size``-th shard."""
    mine = tasks[job.dist.rank :: job.dist.world_size]
    title = "synthesis"
    if job.dist.world_size > 1:
        title += f", this process's share of {sum(task.samples for task in tasks):,}:"
    written: list[Written] = []
    with Progress(title, sum(task.samples for task in mine)) as progress:
        for task in mine:
            candidates = CandidateTask(
                store=job.store,
                number=task.number,
                stratum=Stratum("train", task.class_name, "synthetic"),
                class_index=job.real.classes.index(task.class_name),
                encoding=job.config.encoding,
                task=task,
                judge=job.judge,
                seed=job.config.seed,
                run_folder=job.config.run_folder,
                least_pass_rate=job.config.least_pass_rate,
                keep_rejected=job.config.keep_rejected,
                encoders=max(1, available_cores() // local_world_size()),
            )
            try:
                result = write_or_take_over(candidates, progress.advance)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise UserError(disk_full(job.store, tasks, mine, written)) from None
            assert result.row is not None  # a task has at least one sample
            found = candidates.found
            written.append(
                Written(
                    task.class_name,
                    task.number,
                    task.source.digest,
                    result.row,
                    found.rows,
                    found.keys,
                    np.stack(found.coarse) if found.coarse else np.zeros(0, np.float16),
                    found.rejected,
                )
            )
    return written


def disk_full(store: Store, tasks: Sequence[Task], mine: Sequence[Task], written: Sequence[Written]) -> str:
    """What to say of a full disk: shards that are complete stay, and the one that was being written is gone."""
    done = sum(shard.row.samples for shard in written)
    wanted, share = sum(task.samples for task in tasks), sum(task.samples for task in mine)
    said = f"{store}: the disk is full; {done:,} of this process's {share:,} images are written"
    if done:
        each_bytes = sum(shard.row.bytes for shard in written) / done
        missing_bytes = each_bytes * wanted * (1 - done / share)
        said += f", and about {size_text(round(missing_bytes))} are missing for all {wanted:,}"
    return f"{said}. Free some space, and run the same command again: it goes on from there"


def _find_duplicates(job: Job, name: str, of: ClassShards) -> None:
    """Among the images of the last round, and between them and earlier ones."""
    limit = job.judge.duplicate_limit
    if limit is None:
        return
    before = {*of.duplicates}
    new = {
        key: coarse
        for shard in of.shards
        for key, coarse in zip(shard.keys, shard.coarse)
        if key not in of.known and key not in before
    }
    # The order of their indices, generator by generator: not that of the shards, between which blocks alternate.
    order = sorted(new, key=lambda key: (key.rpartition("-")[0], index_of(key)))
    known = [*of.known.values()]

    def search() -> np.ndarray:
        images = torch.from_numpy(np.stack([*known, *(new[key] for key in order)])).to(job.dist.device)
        return duplicates(images, limit, known=len(known))

    is_duplicate = job.dist.on_main(search)
    found = [key for key, duplicate in zip(order, is_duplicate) if duplicate]
    of.duplicates += found
    of.known |= {key: new[key] for key, duplicate in zip(order, is_duplicate) if not duplicate}
    tried = sum(len(shard.record) for shard in of.shards)
    kept = len(of.known)
    if found and kept < job.config.least_pass_rate * tried:
        raise UserError(
            f"{name}: {len(of.duplicates):,} of {kept + len(of.duplicates):,} admitted images are duplicates of "
            "earlier ones, so the generator draws few different images: train it longer, or with another preset"
        )


def rejected_samples(classes: Mapping[str, ClassShards]) -> dict[str, list[Sample]]:
    """``{class: samples}`` that the gates refused and that are kept to be looked at."""
    return {
        name: [sample for shard in of.shards for sample in shard.rejected] for name, of in classes.items()
    }
