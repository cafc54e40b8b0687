"""The findings of a launch whose ranks have reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from cxrdist.console import size_text
from cxrdist.doctor.clocks import CURE, FAR_S, SKEW_S
from cxrdist.doctor.findings import Finding, error, ok, warning
from cxrdist.doctor.launch.exchange import PAIR_BYTES

SLOW_GB_PER_S = 0.1
"""Below this all-reduce is slower than over Ethernet of 1 Gbit/s."""
SLOW_LATENCY_S = 5e-3
SLOW_PAIR = 2.0
"""Times the median."""


def findings(found: Mapping[str, Any], *, planned: int, run: str, shards: str | None) -> Iterator[Finding]:
    """``found``: the result of a rank; ``planned``: processes that the config says."""
    ranks = found["ranks"]
    yield from _connected(found, planned)
    if found["world_size"] > 1:
        yield from _sums(found["wrong_sums"], ranks)
        yield from _speed(found, ranks)
        yield from _pairs(found["pairs"], ranks)
        yield from _clocks(found["ahead_s"], ranks)
    yield from _devices(ranks)
    yield from _versions(ranks)
    yield from _run(found["folders"], ranks, run)
    if shards is not None:
        yield from _set(ranks, shards)


def _connected(found: Mapping[str, Any], planned: int) -> Iterator[Finding]:
    hosts = list(dict.fromkeys(rank["host"] for rank in found["ranks"]))
    where = f"on {', '.join(hosts)}" if len(hosts) <= 4 else f"on {len(hosts)} machines"
    size = found["world_size"]
    if size == planned:
        by = f", connected by {found['backend']}, {found['engine']}" if size > 1 else ""
        yield ok(f"{size} process{'es' * (size > 1)} {where}{by}")
    else:
        yield error(
            f"{size} process{'es' * (size > 1)} {where}, and the config says {planned}",
            "write distributed_type MULTI_GPU; on CPU with use_cpu: true, as configs/accelerate/cpu2.yaml does",
        )


def _sums(wrong: Sequence[str], ranks: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    bad = [f"{named(number, ranks)} got {text}" for number, text in enumerate(wrong) if text]
    if bad:
        yield error(
            f"an all-reduce gives wrong sums: {'; '.join(bad)}",
            "the GPU, its memory or NCCL is broken: try NCCL_P2P_DISABLE=1, then leave the machine out",
        )


def _speed(found: Mapping[str, Any], ranks: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    sizes = [
        f"{size_text(one['size_bytes'])} at {speed_text(one['gb_per_s'])}" for one in found["bandwidths"]
    ]
    best = max(one["gb_per_s"] for one in found["bandwidths"])
    latency = found["latency_s"]
    what = f"all-reduce: right sums; {', '.join(sizes)}; one number in {1e3 * latency:.2g} ms"
    if best < SLOW_GB_PER_S:
        yield warning(
            f"{what}: slower than Ethernet of 1 Gbit/s",
            "name the fast interface with NCCL_SOCKET_IFNAME (GPUs) or GLOO_SOCKET_IFNAME (CPU); see NCCL_DEBUG=INFO",
        )
    elif latency > SLOW_LATENCY_S:
        yield warning(
            f"{what}: every step waits for several small exchanges",
            "end other programs on these machines, or use machines closer to each other",
        )
    else:
        yield ok(what)


def _pairs(of_ranks: Sequence[Mapping[str, float]], ranks: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """``of_ranks``: of each rank, its seconds with others; JSON has made their numbers text."""
    pairs = {
        (a, int(b)): max(seconds, of_ranks[int(b)].get(str(a), 0.0))
        for a, of_rank in enumerate(of_ranks)
        for b, seconds in of_rank.items()
        if a < int(b)
    }
    if len(pairs) < 2:
        return
    # The network between machines is slower than what connects the ranks of one: each pair is compared with its like.
    within = {pair: s for pair, s in pairs.items() if len({ranks[each]["host"] for each in pair}) == 1}
    between = {pair: s for pair, s in pairs.items() if pair not in within}
    kinds = [kind for kind in (within, between) if kind]
    odd = [kind for kind in kinds if len(kind) > 2 and max(kind.values()) > SLOW_PAIR * median(kind.values())]
    alike = max(odd or kinds, key=lambda kind: max(kind.values()))
    (a, b), slowest = max(alike.items(), key=lambda item: item[1])
    usual = median(alike.values())
    speed = PAIR_BYTES / slowest / 1e9
    where = "on one machine" if alike is within else "between machines"
    of_which = f" of pairs {where}" if len(kinds) > 1 else ""
    what = f"slowest pair: {named(a, ranks)} and {named(b, ranks)}, {speed_text(speed)} each way; "
    what += f"the median{of_which} is {speed_text(PAIR_BYTES / usual / 1e9)}"
    if odd:
        yield warning(
            what, "every step waits for it: look at its cable, switch and other load, or leave it out"
        )
    else:
        yield ok(what)


def _clocks(ahead: Mapping[Any, Sequence[float]], ranks: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """``ahead``: of one rank of each other machine, by how many seconds its clock is ahead of rank 0's, and how far
    that may be wrong."""
    if not ahead:
        return
    for number, (seconds, unsure) in ahead.items():
        away = max(0.0, abs(seconds) - unsure)
        side = "ahead of" if seconds > 0 else "behind"
        what = f"the clock of {ranks[int(number)]['host']} is {abs(seconds):.1f} s {side} that of {ranks[0]['host']}"
        if away >= FAR_S:
            yield error(f"{what}: S3 and Kerberos refuse requests", CURE)
        elif away >= SKEW_S:
            yield warning(what, CURE)
    if all(max(0.0, abs(seconds) - unsure) < SKEW_S for seconds, unsure in ahead.values()):
        most = max(abs(seconds) + unsure for seconds, unsure in ahead.values())
        yield ok(f"clocks of the machines agree within {max(most, 0.001):.3f} s")


def _devices(ranks: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    models = sorted({rank["device"] for rank in ranks})
    if len(models) > 1:
        yield warning(
            f"devices of different kinds: {', '.join(models)}: every step waits for the slowest",
            "launch on equal ones",
        )
    holders: dict[tuple[str, str], list[int]] = {}
    for number, rank in enumerate(ranks):
        if rank["gpu"]:
            holders.setdefault((rank["host"], rank["gpu"]), []).append(number)
    for (host, _), sharing in holders.items():
        if len(sharing) > 1:
            yield error(
                f"ranks {' and '.join(map(str, sharing))} share one GPU of {host}",
                "start one process for each GPU; look at gpu_ids and CUDA_VISIBLE_DEVICES",
            )


def _versions(ranks: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    differ = False
    for name, first in ranks[0]["versions"].items():
        others = {
            rank["host"]: rank["versions"].get(name) for rank in ranks if rank["versions"].get(name) != first
        }
        if others:
            differ = True
            host, version = next(iter(others.items()))
            what = f"{name} is {first} on {ranks[0]['host']}, and {version} on {host}"
            yield error(what, "install the same on all machines: weights and results differ otherwise")
    if not differ and len({rank["host"] for rank in ranks}) > 1:
        yield ok("all machines have the same versions and commit")


def _run(
    folders: Mapping[str, Sequence[bool]], ranks: Sequence[Mapping[str, Any]], run: str
) -> Iterator[Finding]:
    blind = _hosts(ranks, folders["seen"])
    unlocked = [host for host in _hosts(ranks, folders["locked"]) if host not in blind]
    if blind:
        yield error(
            f"{run}: {', '.join(blind)} {'does' if len(blind) == 1 else 'do'} not see what {ranks[0]['host']} writes "
            "there: a run can't be resumed, and evaluation and synthesis do not find it",
            "give a --run on a file system that all machines mount, at the same path",
        )
    elif unlocked:
        yield error(
            f"{run}: a lock that {ranks[0]['host']} holds does not hold on {', '.join(unlocked)}",
            "mount it with locks (NFS without nolock, lustre with flock), or start each run from one machine only",
        )
    else:
        machines = len({rank["host"] for rank in ranks})
        seers = f"{machines} machines" if machines > 1 else "processes"
        yield ok(f"{run}: one folder for all {seers}, and a lock of one holds for the others")


def _hosts(ranks: Sequence[Mapping[str, Any]], fine: Sequence[bool]) -> list[str]:
    """Machines with a rank that is not fine."""
    return list(dict.fromkeys(rank["host"] for rank, is_fine in zip(ranks, fine, strict=True) if not is_fine))


def _set(ranks: Sequence[Mapping[str, Any]], shards: str) -> Iterator[Finding]:
    without = {rank["host"]: rank["set_error"] for rank in ranks if rank["set_error"]}
    for host, reason in without.items():
        yield error(f"on {host}: {reason}", f"put the set at {shards} on every machine, or name a URL")
    digests = {rank["host"]: rank["digest"] for rank in ranks if rank["digest"]}
    if len(set(digests.values())) > 1:
        listed = ", ".join(f"{digest[:12]} on {host}" for host, digest in digests.items())
        yield error(f"{shards} is not the same set everywhere: {listed}", "copy one of them to all machines")
    elif not without:
        yield ok(f"{shards}: the same set for all, digest {next(iter(digests.values()))[:12]}")


def speed_text(gb_per_s: float) -> str:
    """``1.5 GB/s``; ``0.84 MB/s`` below a tenth of one."""
    return f"{gb_per_s:.2g} GB/s" if gb_per_s >= 0.1 else f"{1e3 * gb_per_s:.2g} MB/s"


def named(number: int, ranks: Sequence[Mapping[str, Any]]) -> str:
    return f"rank {number} on {ranks[number]['host']}"
