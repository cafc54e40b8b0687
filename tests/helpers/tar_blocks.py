"""A store with one tar of twelve samples, read in blocks of three."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import xxhash

from cxrdist.data.shards.index import INDEX_DTYPE
from cxrdist.data.storage.block_cache import BlockCache
from cxrdist.data.storage.block_reader import BlockReader
from cxrdist.data.storage.blocks import Block, block_of

SAMPLE, STRIDE, SAMPLES = 100, 150, 12
TAR = b"".join(bytes([n]) * SAMPLE + bytes(STRIDE - SAMPLE) for n in range(SAMPLES))
SHA256 = hashlib.sha256(TAR).hexdigest()
ROWS = 3
FETCHED = (ROWS - 1) * STRIDE + SAMPLE
BLOCK = ROWS * SAMPLE


def index(offsets: list[int], tar: bytes = TAR) -> np.ndarray:
    rows = np.zeros(len(offsets), INDEX_DTYPE)
    rows["offset_bytes"], rows["length_bytes"] = offsets, SAMPLE
    rows["xxh3_64"] = [xxhash.xxh3_64_intdigest(tar[at : at + SAMPLE]) for at in offsets]
    return rows


INDEX = index([n * STRIDE for n in range(SAMPLES)])


def block(number: int) -> Block:
    return block_of("a.tar", SHA256, INDEX[number * ROWS : (number + 1) * ROWS])


class Tar:
    """A store with one file: what was asked of it, and what it answers instead."""

    def __init__(self, data: bytes = TAR) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []
        self.instead: Callable[[int], bytes | None] = lambda start: None

    def __str__(self) -> str:
        return "s3://bucket/set"

    def read_range(self, name: str, start: int, length: int) -> bytes:
        assert name == "a.tar"
        self.asked.append((start, length))
        answer = self.instead(start)
        return self.data[start : start + length] if answer is None else answer


def reader_of(tar: Any, cache: BlockCache | None) -> BlockReader:
    return BlockReader(tar, cache)


def sample(reader: BlockReader, number: int) -> bytes:
    return bytes(reader.sample(number // ROWS, lambda: block(number // ROWS), number % ROWS))


def files(cache: BlockCache) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in cache.folder.glob("*") if p.name != ".lock"}


def expected(*numbers: int) -> dict[str, bytes]:
    return {block(n).name: b"".join(bytes([ROWS * n + i]) * SAMPLE for i in range(ROWS)) for n in numbers}


class Gate(Tar):
    """Answers once ``open`` is set; ``inside`` are being answered."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        data = super().read_range(name, start, length)
        self.entered.release()
        assert self.open.wait(30)
        return data


def ask(reader: BlockReader, *numbers: int) -> list[bool]:
    return [reader.prefetch(n, lambda n=n: block(n)) for n in numbers]  # type: ignore[misc]
