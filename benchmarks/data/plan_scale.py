"""The order of a mix at sizes that no disk here holds: time, memory, and what a rank of many would fetch."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import CLONE, Row, device, parser, report, report_progress, versions
from cxrdist.data.mix.order import Order, StratumQuota

STRATA = 10
SHARD_SAMPLES = 1000
# 256 px as npy: 64 KiB of pixels, and what a tar adds.
SAMPLE_BYTES = 256**2 + 128 + 3072 + 384
BLOCK_SAMPLES = 4 * 2**20 // SAMPLE_BYTES
BATCHES = 20
FAR_STEP = 10**7
COLUMNS = (
    *("what", "samples", "shards", "ranks", "batch", "first_s", "batch_ms", "far_ms", "peak_MiB"),
    *("fetched_over_needed", "live_shards"),
)


def order_of(samples: int, batch: int) -> Order:
    """A balanced mix of ``STRATA`` strata that together have so many samples."""
    shards = samples // STRATA // SHARD_SAMPLES
    strata = [
        StratumQuota(f"stratum-{i}", np.full(shards, SHARD_SAMPLES), samples // STRATA, BLOCK_SAMPLES)
        for i in range(STRATA)
    ]
    return Order(tuple(strata), seed=0, batch=batch)


def planned(samples: int, ranks: int, batch: int) -> Row:
    """Rank 1's first batch from nothing, the next ones, and one far away; in a process of its own."""
    began_s = time.perf_counter()
    order = order_of(samples, batch)
    rank = min(1, ranks - 1)

    def plan(step: int) -> float:
        start_s = time.perf_counter()
        order.at(range(step * batch + rank, (step + 1) * batch, ranks))
        return time.perf_counter() - start_s

    plan(0)
    first_s = time.perf_counter() - began_s
    batches_s = [plan(step) for step in range(1, BATCHES + 1)]
    plan(FAR_STEP)  # the cycle that it lies in
    far_s = [plan(FAR_STEP + step) for step in range(1, BATCHES + 1)]
    return {
        "what": "plan",
        "samples": samples,
        "shards": samples // SHARD_SAMPLES,
        "ranks": ranks,
        "batch": batch,
        "first_s": round(first_s, 3),
        "batch_ms": round(1000 * median(batches_s), 3),
        "far_ms": round(1000 * median(far_s), 3),
        "peak_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def local(samples: int, ranks: int, batch: int) -> Row:
    """What rank 1 reads of one stratum in a whole cycle: blocks fetched over samples needed, and of how many shards
    it has a block open at a time, over all strata."""
    order = order_of(samples, batch)
    shuffle, interleave = order.shuffles[0], order.interleave
    drawn = interleave.drawn_before_draw(0, shuffle.samples)
    fetched = needed = 0
    live = 0.0
    for lane in range(min(1, ranks - 1), interleave.count, ranks):
        run = np.arange(int(drawn[lane]))
        sample = shuffle.samples_at(np.zeros_like(run), np.full_like(run, lane), run)
        shard = sample // SHARD_SAMPLES
        block = shard * SHARD_SAMPLES + sample % SHARD_SAMPLES // shuffle.chunk_samples
        _, first, which = np.unique(block, return_index=True, return_inverse=True)
        last = np.zeros(len(first), np.int64)
        np.maximum.at(last, which, run)
        size = np.minimum(
            shuffle.chunk_samples,
            SHARD_SAMPLES - (block[first] - shard[first] * SHARD_SAMPLES) * shuffle.chunk_samples,
        )
        fetched += int(size.sum())
        needed += len(run)
        # Open from a block's first use to its last: on average over the cycle.
        live += float((last - first + 1).sum()) / len(run)
    return {
        "what": "read",
        "samples": samples,
        "shards": samples // SHARD_SAMPLES,
        "ranks": ranks,
        "batch": batch,
        "fetched_over_needed": round(fetched / needed, 4),
        "live_shards": round(live * STRATA, 1),
        "block_MiB": round(shuffle.chunk_samples * SAMPLE_BYTES / 2**20, 1),
    }


SIDES = {"planned": planned, "local": local}


def run(side: str, *numbers: int) -> Row:
    report_progress(f"{side}: {numbers[0]:,} samples, {numbers[1]:,} ranks, batches of {numbers[2]:,}")
    command = [sys.executable, "-m", "benchmarks.data.plan_scale", side, *map(str, numbers)]
    done = subprocess.run(command, cwd=CLONE, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout)
    return row


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in SIDES:
        print(json.dumps(SIDES[sys.argv[1]](*map(int, sys.argv[2:]))))
        return
    chosen = parser(
        __doc__ or "", "python -m benchmarks.data.plan_scale --json benchmarks/results/plan_scale.json"
    ).parse_args()
    plans = [run("planned", 10**n, 8, 1024) for n in (6, 7, 8, 9)]
    many = run("planned", 10**9, 4096, 65_536)
    reads = [run("local", 10**8, ranks, 1024) for ranks in (1, 8, 64)]
    reads += [run("local", 10**9, 4096, 65_536)]
    result: dict[str, Any] = {
        "device": device(),
        "versions": versions("cxrdist", "numpy"),
        "rows": [*plans, many, *reads],
        "ratios": {
            "first batch of 10^9 samples, s": plans[-1]["first_s"],
            "peak memory of 10^9 samples, MiB": plans[-1]["peak_MiB"],
            "batch of 10^9 samples over 10^6": round(plans[-1]["batch_ms"] / plans[0]["batch_ms"], 3),
            "far batch over first ones, 10^9": round(plans[-1]["far_ms"] / plans[-1]["batch_ms"], 3),
            "fetched over needed, 4,096 ranks": reads[-1]["fetched_over_needed"],
            "live shards a rank, 4,096 ranks": reads[-1]["live_shards"],
        },
    }
    report(result, COLUMNS, chosen.json)


if __name__ == "__main__":
    main()
