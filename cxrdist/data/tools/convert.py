"""Conversion of a set to another encoding or a smaller size, with the same keys, classes, splits and metadata.

A synthetic set whose keys an earlier version truncated (see ``synthetic_keys``) is read from its tars alone, and gets
new keys where the old ones are too long; nothing else needs to change.

    source's strata, in their own order
      -> shard tasks          per stratum, a fixed number of samples each
      -> worker processes     read a source shard sequentially, decode, resize, encode, write the tar
      -> tables, manifest     written last

png and npy keep every pixel, so going between them loses nothing. As with an import, neither the number of
workers nor how often the job was killed shows in the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cxrdist.console import say
from cxrdist.data.imaging.codecs import ENCODINGS, EncodingName, encode
from cxrdist.data.imaging.radiograph import smaller
from cxrdist.data.shards.index import ShardRow, write_table
from cxrdist.data.shards.lineage import converted
from cxrdist.data.shards.manifest import (
    Manifest,
    Provenance,
    StratumEntry,
    check_classes,
    read_manifest,
    write_manifest,
)
from cxrdist.data.shards.open import DEFAULT_SET
from cxrdist.data.shards.schema import MANIFEST, Problem, ShardSetError
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.stratum import StratumReader
from cxrdist.data.shards.synthetic_keys import replaced
from cxrdist.data.shards.tar import Sample, cuts, samples_per_shard
from cxrdist.data.shards.writing.write_job import (
    FOUND_LATER,
    UNUSED_TARS,
    claimed,
    finished_set,
    mark_finished,
)
from cxrdist.data.shards.writing.write_pool import Outcome, ShardResult, ShardTask, rows_of, write_all
from cxrdist.data.storage.store import Store, store_of
from cxrdist.errors import OptionError, UserError, check_choice


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Write a shard set again in another encoding or a smaller size: keys, classes, splits and metadata are kept.
    Removed images are left out for good. Synthetic sets whose keys an earlier version truncated get whole ones.

    The same command again finishes an unfinished set, bit for bit the same; a finished one is left as it is.
    """

    set: str = DEFAULT_SET
    """Folder of the set, or its URL."""
    out: str | None = None
    """Folder of the new set, or its URL; by default named after the set, such as shards/phantom-64-npy."""
    size: int | None = None
    """Side of the square images, in pixels; by default the set's own, and never larger."""
    encoding: EncodingName | None = None
    """png (lossless, small), npy (lossless, fastest) or jpg (quality 95, smallest); by default the set's own, or npy
    where nothing else is asked for."""
    min_shards: int | None = None
    """Shards of every class in every split, where it has so many images; by default as the set was made for."""
    workers: int = 0
    """Processes that decode and write; 0: one per core."""

    def __post_init__(self) -> None:
        if self.encoding is not None:
            check_choice("encoding", self.encoding, ENCODINGS)
        if self.size is not None and self.size < 16:
            raise OptionError("size", f"must be 16 pixels or more, not {self.size}")
        if self.min_shards is not None and self.min_shards < 1:
            raise OptionError("min_shards", f"must be 1 or more, not {self.min_shards}")
        if self.workers < 0:
            raise OptionError("workers", f"must be 0 (one per core) or more, not {self.workers}")


@dataclass(frozen=True)
class Target:
    """What the images become."""

    size: int
    encoding: str
    min_shards: int


@dataclass(frozen=True)
class ConvertTask(ShardTask):
    """One shard of a conversion: samples ``start`` to ``stop`` of a stratum of the source."""

    source: Store
    entry: StratumEntry
    source_class_index: int
    source_encoding: str
    source_size: int
    source_importer: str | None
    size: int
    start: int
    stop: int

    @property
    def images(self) -> int:
        return self.stop - self.start

    @property
    def is_shared(self) -> bool:
        return self.store.is_shared and self.source.is_shared

    def outcomes(self) -> Iterator[Outcome]:
        """Raises UserError, naming shard and key, for an image that does not decode: none is left out."""
        for tar, sample in self.source_samples():
            yield Outcome(Sample(replaced(sample.key), self.image_of(sample, tar), sample.meta))

    def source_samples(self) -> Iterator[tuple[str, Sample]]:
        """Tar and sample, in order. Raises UserError if the source has fewer than its table says."""
        reader = self.reader
        first, _ = reader.locate(self.start)
        last, _ = reader.locate(self.stop - 1)
        read = 0
        for shard in range(first, last + 1):
            before = int(reader.ends[shard] - reader.shard_samples[shard])
            part = slice(max(self.start - before, 0), self.stop - before)
            samples = reader.whole(shard, allow_long_keys=True)
            for sample in itertools.islice(samples, part.start, part.stop):
                read += 1
                yield reader.shards.names[shard], sample
        if read != self.images:
            problem = Problem("count", self.entry.table, "lists more samples than its tars hold")
            raise ShardSetError(self.source, problem, reader.remedy)

    def image_of(self, sample: Sample, tar: str) -> bytes:
        pixels = self.reader.decoded(sample, tar)
        if (self.source_encoding, self.source_size) == (self.encoding, self.size):
            return sample.image  # a JPEG encoded twice would lose twice
        return encode(smaller(pixels, self.size) if self.size < self.source_size else pixels, self.encoding)

    def take_over(self, row: ShardRow, samples: Mapping[str, Any]) -> ShardResult | None:
        if self.reader.has_truncated_keys:
            keys = [replaced(sample.key) for _, sample in self.source_samples()]
        else:
            keys = [self.reader.key(number).decode() for number in range(self.start, self.stop)]
        return ShardResult(row) if keys == [*samples] else None

    @cached_property
    def reader(self) -> StratumReader:
        return StratumReader(
            self.source,
            self.entry,
            self.source_class_index,
            self.source_encoding,
            self.source_size,
            self.source_importer,
        )


def convert(options: ConvertOptions) -> Manifest:
    """Convert a set; returns the new set's manifest.

    A finished set of the same source and options is left as it is. Raises UserError if the source is not whole, if
    there is nothing to change, for a size above the source's, and for classes that would share files.
    """
    source = ShardSet(options.set)
    check_classes(source.classes)
    target = target_of(source, options)
    out = options.out or f"{options.set.rstrip('/')}-{target.size}-{target.encoding}"
    store = store_of(out)
    step = {
        "from": source.digest,
        "size": target.size,
        "encoding": target.encoding,
        "min_shards": target.min_shards,
    }
    of_source = source.manifest.provenance.json_value()
    asked = {name: value for name, value in of_source.items() if name not in FOUND_LATER}
    provenance = Provenance.model_validate(asked | {"converted": [*of_source.get("converted", []), step]})
    if store.exists(MANIFEST):
        if read_manifest(store).digest == source.digest:
            raise UserError(f"{out} is the set itself: name another --out")
        return finished_set(store, provenance)
    say(f"{source}: {source.image_size} px {source.manifest.encoding} -> {target.size} px {target.encoding}")
    say_dropped(source)
    with claimed(store, provenance):
        manifest = fill(source, store, target, provenance, options.workers)
    say(f"{store}: {manifest.samples:,} images, digest {manifest.digest[:12]}")
    return manifest


def say_dropped(source: ShardSet) -> None:
    """Say how many samples of a source were removed, and so are not written again."""
    if removed := source.manifest.removed_samples:
        say(f"{source}: {removed:,} removed samples, which the new set does not hold")


def target_of(source: ShardSet, options: ConvertOptions) -> Target:
    own_size, own_encoding = source.image_size, source.manifest.encoding
    is_only_encoding = options.size is None and options.min_shards is None
    has_truncated_keys = source.has_truncated_keys
    is_for_speed = source.is_external or (is_only_encoding and not has_truncated_keys)
    encoding = options.encoding or ("npy" if is_for_speed else own_encoding)
    size = options.size or own_size
    if size > own_size:
        raise OptionError(
            "size",
            f"{source} has images of {own_size} px, which cannot be enlarged: import its source again at {size} px",
        )
    is_same = (size, encoding) == (own_size, own_encoding) and options.min_shards is None
    if is_same and not has_truncated_keys and not source.manifest.removed_samples:
        raise UserError(
            f"{source} has images of {size} px in {encoding}, so there is nothing to convert: set another --size, "
            "--encoding or --min-shards"
        )
    return Target(size, encoding, options.min_shards or min_shards_of(source.manifest.provenance))


def min_shards_of(provenance: Provenance) -> int:
    """The ``--min-shards`` that a set was made with: that of its last conversion, else of its import."""
    if provenance.converted:
        return provenance.converted[-1].min_shards or 1
    return provenance.option("min_shards", 1)


def tasks_of(
    source: ShardSet, entry: StratumEntry, store: Store, target: Target, *, class_index: int, first: int = 0
) -> list[ConvertTask]:
    """The shards of a stratum of the source, numbered from ``first`` on; ``class_index``: of the new set."""
    length = samples_per_shard(target.size, target.encoding)
    return [
        ConvertTask(
            store,
            number,
            entry.stratum,
            class_index,
            target.encoding,
            source.store,
            entry,
            source.manifest.class_index(entry.class_name),
            source.manifest.encoding,
            source.image_size,
            source.manifest.provenance.importer,
            target.size,
            start,
            stop,
        )
        for number, (start, stop) in enumerate(cuts(entry.samples, length, target.min_shards), first)
    ]


def plan(source: ShardSet, store: Store, target: Target) -> list[ConvertTask]:
    return [
        task
        for entry in source.manifest.strata
        for task in tasks_of(
            source, entry, store, target, class_index=source.manifest.class_index(entry.class_name)
        )
    ]


def fill(source: ShardSet, store: Store, target: Target, provenance: Provenance, workers: int) -> Manifest:
    """Write all files of the set, the manifest last."""
    rows = rows_of(write_all(plan(source, store, target), f"convert to {store}", workers))
    of_source = source.manifest.provenance.json_value()
    found = {name: value for name, value in of_source.items() if name in FOUND_LATER}
    found.pop(UNUSED_TARS, None)  # names of external files are no part of a set of our own
    manifest = write_manifest(
        store,
        classes=source.classes,
        image_size=target.size,
        encoding=target.encoding,
        strata=[write_table(store, stratum, shards) for stratum, shards in rows.items()],
        provenance=provenance.updated(found),
        lineage=converted(source.manifest),
    )
    mark_finished(store)
    return manifest
