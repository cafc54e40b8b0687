"""One shard of synthetic images: candidates are drawn block by block, judged, and written if the gates admit them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from cxrdist.data.imaging.codecs import LOSSLESS, encode
from cxrdist.data.imaging.radiograph import decode
from cxrdist.data.shards.index import ShardRow
from cxrdist.data.shards.synthetic_keys import index_of, key_of, key_prefix
from cxrdist.data.shards.tar import Sample
from cxrdist.data.shards.writing.write_pool import Outcome, ShardResult, ShardTask
from cxrdist.errors import UserError
from cxrdist.features.spaces import pixel_space
from cxrdist.synth.gates.copies import coarse
from cxrdist.synth.gates.judge import Judge, Judged
from cxrdist.synth.gates.record import dtype_of, read_record, write_record
from cxrdist.synth.generators.sources import BLOCK
from cxrdist.synth.plan import Task

T = TypeVar("T")

TRIED_BEFORE_GIVING_UP = 16 * BLOCK
SLACK = 0.5
"""A shard is given up at this fraction of the least pass rate: the candidates of one shard are few."""


@dataclass(frozen=True)
class Candidate:
    """An image that the gates have judged."""

    index: int
    image: np.ndarray
    """[H, W] uint8."""
    scores: dict[str, float]
    """To six digits."""


@dataclass
class Found:
    """What is known of a shard's images besides the shard."""

    rows: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """[candidates] of gates.record.dtype_of."""
    keys: list[str] = field(default_factory=list)
    coarse: list[np.ndarray] = field(default_factory=list)
    """[256] float16 of each, for the search for duplicates."""
    rejected: list[Sample] = field(default_factory=list)
    """The first images that were refused, as many as are kept."""


@dataclass(frozen=True)
class CandidateTask(ShardTask):
    """A shard that is written, or taken over from an earlier, killed job."""

    task: Task
    judge: Judge
    seed: int
    run_folder: Path
    least_pass_rate: float
    keep_rejected: int
    encoders: int = 1
    """Threads that encode images."""
    found: Found = field(default_factory=Found)

    @property
    def images(self) -> int:
        return self.task.samples

    @property
    def prefix(self) -> str:
        """What the keys of the class begin with."""
        return key_prefix(self.task.source.digest, self.seed, self.task.class_name)

    @property
    def record(self) -> str:
        """The name of the file of scores."""
        return f"{Path(self.tar.name).stem}"

    def inspect(self, sample: Sample) -> tuple[dict[str, Any], bytes]:
        return sample.meta, sample.image

    def take_over(
        self, row: ShardRow, samples: Mapping[str, tuple[dict[str, Any], bytes]]
    ) -> ShardResult | None:
        task, rows = self.task, self._rows_of(samples)
        if rows is None or len(samples) != task.samples:
            return None
        if [key_of(self.prefix, int(index)) for index in rows["index"][rows["admitted"]]] != [*samples]:
            return None
        if self.keep_rejected and not rows["admitted"].all():
            return None
        # More may have been removed since a job that filled the set up was killed: then others share the blocks.
        blocks = [*dict.fromkeys((rows["index"] // BLOCK).tolist())]
        if blocks != [task.first_block + turn * task.stride for turn in range(len(blocks))]:
            return None
        self.found.rows = rows
        self.found.keys[:] = samples
        if self.judge.duplicate_limit is not None:
            self.found.coarse[:] = [self._coarse_of(image) for _, image in samples.values()]
        return ShardResult(row, tried=len(rows))

    def _rows_of(self, samples: Mapping[str, Any]) -> np.ndarray | None:
        """What is known of the candidates of a shard. Their scores are part of the set's manifest: a shard without
        them is made again."""
        if self.judge.gates:
            return read_record(self.run_folder, self.record, self.judge)
        try:
            return np.array([(index_of(key), True) for key in samples], dtype_of(self.judge))
        except ValueError:
            return None

    def outcomes(self) -> Iterator[Outcome]:
        task, prefix = self.task, self.prefix
        rows: list[tuple[Any, ...]] = []
        admitted = 0
        with ThreadPoolExecutor(self.encoders) as pool:
            for judged, candidates in self._blocks():
                wanted = [c.image for place, c in enumerate(candidates) if judged.admitted[place]]
                wanted = wanted[: task.samples - admitted]
                # Each thread takes a run of images: handing over one at a time costs as much as encoding it.
                parts = np.array_split(np.arange(len(wanted)), self.encoders)
                runs = pool.map(lambda part, images=wanted: [self._encoded(images[i]) for i in part], parts)
                encoded = itertools.chain.from_iterable(runs)
                for place, candidate in enumerate(candidates):
                    is_admitted = bool(judged.admitted[place])
                    scores = (values[place] for values in judged.scores.values())
                    rows.append((candidate.index, is_admitted, *scores))
                    if not is_admitted:
                        self._keep_rejected(candidate, judged.refused_by(place))
                        yield Outcome()
                        continue
                    key, image = key_of(prefix, candidate.index), next(encoded)
                    self.found.keys.append(key)
                    if judged.coarse is not None:
                        is_exact = self.encoding in LOSSLESS
                        self.found.coarse.append(judged.coarse[place] if is_exact else self._coarse_of(image))
                    admitted += 1
                    if admitted == task.samples:
                        self._record(rows)
                    yield Outcome(Sample(key, image, self._meta(candidate)))
                    if admitted == task.samples:
                        return
                self._check_pass_rate(admitted, len(rows))

    def _encoded(self, image: np.ndarray) -> bytes:
        return encode(image, self.encoding)

    def _record(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Before the shard is complete: one without its scores is made again."""
        self.found.rows = np.array(rows, dtype_of(self.judge))
        if self.judge.gates:
            write_record(self.run_folder, self.record, self.found.rows)

    def _keep_rejected(self, candidate: Candidate, refused_by: list[str]) -> None:
        if len(self.found.rejected) < self.keep_rejected:
            meta = self._meta(candidate) | {"refused_by": refused_by}
            key = key_of(self.prefix, candidate.index)
            self.found.rejected.append(Sample(key, encode(candidate.image, self.encoding), meta))

    def _check_pass_rate(self, admitted: int, tried: int) -> None:
        if tried >= TRIED_BEFORE_GIVING_UP and admitted < SLACK * self.least_pass_rate * tried:
            raise UserError(
                f"{self.task.class_name}: only {admitted:,} of {tried:,} generated images passed the gates, under "
                f"half of --least-pass-rate {self.least_pass_rate:g}: train the generator longer (--budget), or "
                "loosen a gate"
            )

    def _blocks(self) -> Iterator[tuple[Judged, list[Candidate]]]:
        """Without end. On a GPU the next block is drawn while this one is encoded; on CPU both use the same cores."""
        blocks = self._each_block()
        return blocks if self.judge.device.type == "cpu" else ahead(blocks)

    def _each_block(self) -> Iterator[tuple[Judged, list[Candidate]]]:
        task = self.task
        for number in itertools.count(task.first_block, task.stride):
            images = task.source.block(task.class_name, self.seed, number)
            judged = self.judge.judge(task.class_name, images)
            yield (
                judged,
                [
                    Candidate(
                        number * BLOCK + place,
                        image,
                        {name: float(f"{scores[place]:.6g}") for name, scores in judged.scores.items()},
                    )
                    for place, image in enumerate(images)
                ],
            )

    def _meta(self, candidate: Candidate) -> dict[str, Any]:
        return {
            "patient": None,
            "origin": "synthetic",
            "class": self.task.class_name,
            "source": self.task.source.kind,
            "generator_sha256": self.task.source.digest,
            "seed": self.seed,
            "index": candidate.index,
            "scores": candidate.scores,
        }

    def _coarse_of(self, image: bytes) -> np.ndarray:
        size = self.task.source.image_size
        pixels = torch.from_numpy(decode(image, self.encoding, size))[None, None]
        found: np.ndarray = coarse(pixel_space().embed(pixels))[0].half().numpy()
        return found


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, each computed in another thread while the one before is used."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator)
        while True:
            try:
                item = coming.result()
            except StopIteration:
                return
            coming = pool.submit(next, iterator)
            yield item
