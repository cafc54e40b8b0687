"""The samples of a stratum at a URL, by blocks: block g of a shard has rows [g n, (g + 1) n), n = ``block_rows``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cxrdist.data.storage.block_reader import BlockReader
from cxrdist.data.storage.blocks import Block, block_of

if TYPE_CHECKING:
    from cxrdist.data.shards.shard_set import StratumReader


def read_spans(reader: StratumReader, blocks: BlockReader, shard: int, rows: np.ndarray) -> list[memoryview]:
    """The encoded images of rows [n] int of a shard; blocks that are not at hand are fetched at the same time."""
    numbers, places = (part.tolist() for part in np.divmod(rows, reader.block_rows))
    _fetch(reader, blocks, ((shard, number) for number in dict.fromkeys(numbers)))
    return [
        blocks.sample(_key(reader, shard, number), partial(_block, reader, shard, number), place)
        for number, place in zip(numbers, places)
    ]


def fetch_ahead(reader: StratumReader, blocks: BlockReader, samples: np.ndarray) -> None:
    """Have the blocks of samples [n] int fetched, in this order."""
    _fetch(reader, blocks, _blocks_of(reader, samples))


def note_used(reader: StratumReader, blocks: BlockReader, samples: np.ndarray) -> None:
    """Another process has read samples [n] int."""
    for shard, number in _blocks_of(reader, samples):
        blocks.note_used(_key(reader, shard, number))


def _blocks_of(reader: StratumReader, samples: np.ndarray) -> Iterable[tuple[int, int]]:
    """Shard and number of each block, once, in the order of samples [n] int."""
    shards = np.searchsorted(reader.ends, samples, side="right")
    numbers = (samples - np.append(0, reader.ends)[shards]) // reader.block_rows
    return dict.fromkeys(zip(shards.tolist(), numbers.tolist()))


def _fetch(reader: StratumReader, blocks: BlockReader, wanted: Iterable[tuple[int, int]]) -> None:
    for shard, number in wanted:
        if not blocks.prefetch(_key(reader, shard, number), partial(_block, reader, shard, number)):
            break


def _key(reader: StratumReader, shard: int, number: int) -> tuple[str, int, int, int]:
    return reader.entry["table"], reader.block_rows, shard, number


def _block(reader: StratumReader, shard: int, number: int) -> Block:
    first = number * reader.block_rows
    return block_of(reader.shards[shard], reader.index(shard)[first : first + reader.block_rows])
