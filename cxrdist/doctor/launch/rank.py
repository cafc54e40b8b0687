"""One rank of the launch that the doctor starts: ``accelerate launch ... --module cxrdist.doctor.launch.rank JSON``.

It joins the others as a job does, exchanges data with them, and writes what it found to a file for the doctor.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxrdist.doctor.launch.reports import Reporter
from cxrdist.errors import UserError, from_os
from cxrdist.ranks import rank as rank_of_environment


@dataclass(frozen=True)
class Task:
    """What the doctor asks of its ranks. ``reports``: folder for their files; ``run``, ``shards``: as they were
    given."""

    reports: str
    run: str
    shards: str | None


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    reporter = Reporter(Path(task.reports), rank_of_environment())
    reporter.write(stage="start")
    try:
        reporter.write(result=examine(task, reporter))
    except (UserError, OSError) as failure:
        reporter.write(error=str(failure if isinstance(failure, UserError) else from_os(failure)))
    except Exception as failure:
        text = f"{type(failure).__name__}: {failure}".splitlines()[0]
        reporter.write(error=f"{reporter.path.name.split('-')[1]}: {text}")
    reporter.write(stage="end")


def examine(task: Task, reporter: Reporter) -> dict[str, Any]:
    """What all ranks found together, the same on each."""
    from cxrdist.distributed.dist import Dist
    from cxrdist.doctor.launch import exchange

    reporter.write(stage="connect")
    # As a training is launched: under DeepSpeed, too.
    with Dist(engines=("doctor",), zero_stages=(1, 2, 3)) as dist:
        found: dict[str, Any] = {"world_size": dist.world_size, "engine": dist.engine_kind}
        if dist.world_size > 1:
            reporter.write(stage="sums")
            found["backend"] = exchange.dist.get_backend()
            found["wrong_sums"] = dist.meet(exchange.wrong_sum(dist.world_size, dist.rank, dist.device))
            reporter.write(stage="all-reduce")
            found["latency_s"] = exchange.latency_s(dist.device)
            found["bandwidths"] = [asdict(one) for one in exchange.bandwidths(dist.world_size, dist.device)]
            reporter.write(stage="pairs")
            gloo = exchange.dist.new_group(backend="gloo")
            pairs = exchange.pair_seconds(dist.rank, dist.world_size, dist.device, gloo)
            found["pairs"] = dist.meet(pairs)
            reporter.write(stage="clocks")
            hosts = dist.meet(socket.gethostname())
            firsts = [rank for rank, host in enumerate(hosts) if rank and host not in hosts[:rank]]
            found["ahead_s"] = dist.meet(exchange.ahead_s(dist.rank, firsts, gloo))[0]
        reporter.write(stage="folders")
        found["folders"] = folders(task, dist)
        found["ranks"] = dist.meet(facts(task, dist))
        return found


def facts(task: Task, dist: Any) -> dict[str, Any]:
    """Of this rank: its machine, device and versions, and the digest of the set that it opens."""
    import torch

    from cxrdist.run.folder import environment

    known = environment(("torch", "accelerate", "numpy"))
    found = {
        "host": socket.gethostname(),
        "device": dist.device_name,
        "gpu": "",
        "versions": {**known["versions"], "commit": known["git_commit"] or "unknown"},
        "digest": None,
        "set_error": None,
    }
    if dist.device.type == "cuda":
        properties = torch.cuda.get_device_properties(dist.device)
        found["gpu"] = str(getattr(properties, "uuid", dist.device.index))
        found["versions"]["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    if task.shards is not None:
        from cxrdist.data.shards.shard_set import ShardSet

        try:
            found["digest"] = ShardSet(task.shards).digest
        except UserError as failure:
            found["set_error"] = str(failure)
    return found


def folders(task: Task, dist: Any) -> dict[str, Any]:
    """Whether each rank sees what rank 0 writes to the run's folder, and is refused the lock that rank 0 holds."""
    from cxrdist.doctor.launch.same_folder import is_refused_lock, sees, token

    with ExitStack() as stack:
        path = None
        if dist.is_main:
            path = stack.enter_context(token(Path(task.run).absolute()))
            descriptor = os.open(path, os.O_RDWR)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shown = dist.meet(path)[0]
        assert shown is not None
        is_seen = sees(shown)
        found = {
            "seen": dist.meet(is_seen),
            "locked": dist.meet(is_seen and (dist.is_main or is_refused_lock(shown))),
        }
        dist.meet(None)  # rank 0 keeps the token until all have looked
        return found


if __name__ == "__main__":
    from cxrdist import process

    process.main(main)
