"""Reading a set by blocks of three samples; as a program, another process that does."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.stratum import StratumReader
from tests.helpers.launching import CLONE

ROWS = 3


def open_set(place: str | Path) -> list[StratumReader]:
    """The train strata."""
    shards = ShardSet(place)
    return [shards.stratum("train", name, "real").with_block_rows(ROWS) for name in shards.classes]


def digest_of(readers: list[StratumReader], seed: int) -> str:
    """Of all images, read in a random order."""
    numbers = [(r, n) for r, reader in enumerate(readers) for n in range(reader.samples)]
    order = np.random.default_rng(seed).permutation(len(numbers)).tolist()
    found = {numbers[i]: readers[numbers[i][0]].image_bytes(numbers[i][1]) for i in order}
    return hashlib.sha256(b"".join(found[number] for number in numbers)).hexdigest()


def reading(place: str, seed: int) -> subprocess.Popen[str]:
    """Another process that reads all of a set, and prints the digest."""
    command = [sys.executable, "-m", "tests.helpers.read_set", place, str(seed)]
    return subprocess.Popen(command, cwd=CLONE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


if __name__ == "__main__":
    print(digest_of(open_set(sys.argv[1]), int(sys.argv[2])))
