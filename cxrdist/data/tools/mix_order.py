"""The order of a mix as training sees it, step by step, for any number of ranks and of planning processes.

    options -> a Stream for each rank, as training builds it -> keys of a step -> lines

No pixel is read.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxrdist.data.loading.mix_sets import synthetic_of, train_counts
from cxrdist.data.mix.order import order_seed
from cxrdist.data.mix.rules import MixRule, quotas
from cxrdist.data.shards.open import DEFAULT_SET, open_finished_real, open_synthetic
from cxrdist.errors import OptionError, UserError
from cxrdist.process import die_with_parent, without_interrupts

if TYPE_CHECKING:
    from cxrdist.data.loading.stream import Stream

STEPS_AHEAD = 4
"""How many steps each worker may be ahead of what is printed."""


@dataclass(frozen=True, kw_only=True)
class OrderOptions:
    """Print which images each process of `train_cls.py` would see with the same mix, sets, batch and seed. A line is
    `step 3 epoch 0 rank 1` and the keys; no pixel is read.
    """

    mix: str = "DS3"
    """DS1, DS2, DS3 or the path of a YAML rule."""
    shards: str = DEFAULT_SET
    """Set of real images."""
    synthetic: str | None = None
    """Set of synthetic images; by default the one beside --shards. Unused by DS1, DS2."""
    batch: int = 128
    """Global batch size, over all ranks."""
    epochs: int = 1
    """Stop after the last step that begins in these epochs."""
    ranks: int = 1
    """Processes of the training; they divide the batch."""
    workers: int = 0
    """Processes that plan the steps in turn; 0: this one. They change nothing but the time it takes."""
    from_step: int = 0
    """Begin here, as a training does that is resumed."""
    seed: int = 0
    """Seed of the training, as in `train_cls.py --seed`: the order's own seed is derived from it."""
    digest: bool = False
    """Per step one line with the SHA-256 over the keys of the global batch, sorted, each ended by a newline: the same
    for any --ranks and --workers."""
    allow_other_lineage: bool = False
    """Accept synthetic images whose generator did not learn from this set's train split (a leak, perhaps)."""

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("epochs", 1), ("ranks", 1), ("workers", 0), ("from_step", 0)):
            value = getattr(self, name)
            if value < least:
                raise OptionError(name, f"must be {least} or more, not {value}")


def order_lines(options: OrderOptions, rule: MixRule) -> Generator[str]:
    """The lines of each step, those of all ranks together.

    Raises UserError where the sets, the rule, the batch and the ranks do not fit.
    """
    streams = streams_of(options, rule)
    epoch_images = streams[0].epoch_images
    steps = range(options.from_step, -(-options.epochs * epoch_images // options.batch))
    if not steps:
        raise OptionError(
            "from_step",
            f"must be at most {steps.stop - 1}, the last step that begins before the end of epochs "
            f"{options.epochs}, not {options.from_step}",
        )
    if not options.workers:
        for step in steps:
            yield lines_of_step(streams, step, options)
        return
    with ExitStack() as stack:
        # One process each rather than a pool of them, so that step k is always the work of worker k mod n.
        workers = [
            ProcessPoolExecutor(
                1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=die_with_parent,
                initargs=(os.getpid(),),
            )
            for _ in range(min(options.workers, len(steps)))
        ]
        for worker in workers:
            stack.callback(worker.shutdown, wait=True, cancel_futures=True)
        ahead: deque[Future[str]] = deque()
        try:
            for step in steps:
                with without_interrupts():
                    ahead.append(workers[step % len(workers)].submit(do_step, options, rule, step))
                if len(ahead) == STEPS_AHEAD * len(workers):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, by the system if memory ran out: run it again with fewer --workers"
            ) from None


def streams_of(options: OrderOptions, rule: MixRule) -> list[Stream]:
    """The stream of each rank, as the training builds it."""
    # Imported late: it takes two seconds of torch, which a mistake in the options need not wait for.
    from cxrdist.data.loading.stream import Stream, StreamOptions

    real = open_finished_real(options.shards)
    place = synthetic_of(rule, mix=options.mix, shards=options.shards, synthetic=options.synthetic)
    synthetic = None
    if place is not None:
        synthetic = open_synthetic(place, real, allow_other_lineage=options.allow_other_lineage)
    of_epoch = quotas(rule, train_counts(real, synthetic))
    return [
        Stream(
            real,
            synthetic,
            of_epoch,
            StreamOptions(
                batch=options.batch, seed=order_seed(options.seed), rank=rank, world_size=options.ranks
            ),
        )
        for rank in range(options.ranks)
    ]


def lines_of_step(streams: Sequence[Stream], step: int, options: OrderOptions) -> str:
    """The line of each rank, or that of the digest."""
    of_ranks = [[key.decode() for key in stream.keys(step).tolist()] for stream in streams]
    if options.digest:
        return f"step {step} {batch_sha256(key for keys in of_ranks for key in keys)}"
    epoch = step * options.batch // streams[0].epoch_images
    return "\n".join(
        f"step {step} epoch {epoch} rank {rank} {' '.join(keys)}" for rank, keys in enumerate(of_ranks)
    )


def batch_sha256(keys: Iterable[str]) -> str:
    """SHA-256 over the keys of a global batch, sorted, each ended by a newline."""
    return hashlib.sha256("".join(f"{key}\n" for key in sorted(keys)).encode()).hexdigest()


# In a worker process.
_streams: list[Stream] = []


def do_step(options: OrderOptions, rule: MixRule, step: int) -> str:
    """The lines of a step; a worker makes streams of its own when it gets its first one."""
    if not _streams:
        _streams.extend(streams_of(options, rule))
    return lines_of_step(_streams, step, options)
