"""A job that only reads: run under `accelerate launch` by tests/launch/test_stream.py.

    stream_job.py '{"set": .., "synthetic": .., "quotas": .., "batch": 16, "start": 0, "stop": 9, "workers": [0, 1]}'

Rank 0 prints, for each number of workers, a JSON line with one SHA-256 per global batch. ``slow_rank`` sleeps at each
step. Every rank prints how many steps it took when it ends by an error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    from cxrdist.data.loading.config import LoaderConfig
    from cxrdist.data.loading.order_digest import OrderDigest
    from cxrdist.data.loading.prefetch import read_ahead
    from cxrdist.data.loading.stream import Stream, StreamOptions
    from cxrdist.data.shards.shard_set import ShardSet
    from cxrdist.distributed.dist import Dist
    from cxrdist.errors import UserError

    given: dict[str, Any] = json.loads(sys.argv[1])
    dist = Dist("fp32")
    synthetic = ShardSet(given["synthetic"]) if given.get("synthetic") else None
    stream = Stream(
        ShardSet(given["set"]),
        synthetic,
        given["quotas"],
        StreamOptions(batch=given["batch"], seed=3, rank=dist.rank, world_size=dist.world_size),
    )
    for workers in given["workers"]:
        config = LoaderConfig(workers=workers, on_corrupt=given.get("on_corrupt", "raise"))
        digests, steps = [], 0
        try:
            with read_ahead(stream, given["start"], given["stop"], config, peers=dist) as batches:
                for batch in batches:
                    if dist.rank == given.get("slow_rank"):
                        time.sleep(0.05)
                    assert batch.pixels.shape[0] * dist.world_size == given["batch"]
                    one = OrderDigest()
                    one.saw(batch)
                    digests.append(one.flush(dist.gather, dist.world_size, dist.device))
                    steps += 1
        except UserError as error:
            # One write: the lines of several ranks do not mix.
            os.write(
                1, (json.dumps({"rank": dist.rank, "steps": steps, "error": str(error)}) + "\n").encode()
            )
            dist.barrier()
            raise
        if dist.is_main:
            found = {"workers": workers, "digests": digests, "substituted": batches.substituted}
            os.write(1, (json.dumps(found) + "\n").encode())
    dist.close()


if __name__ == "__main__":
    from cxrdist import process

    process.main(main)
