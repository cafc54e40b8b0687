"""Connects the ranks of a job: their store, and torch's main process group."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta

import torch
from torch.distributed import distributed_c10d

from cxrdist.errors import UserError
from cxrdist.ranks import place

CONNECT_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others to start."""
_POLL_S = 0.02
_STARTS = "cxrdist/starts"


def connect(backend: str, timeout: timedelta, within: timedelta = CONNECT_TIMEOUT) -> torch.distributed.Store:
    """Make the main process group of a launched job; its collectives fail after ``timeout``. Returns the store that
    the ranks share, for keys of this start of the job only. Raises UserError if a rank does not start, or the address
    cannot be used.

    torch would make the group itself, but torchrun has one store for all restarts of a job (2.13): a restarted rank
    reads there where the ranks before it listened, and waits for them.
    """
    os.environ.setdefault("MASTER_PORT", "29500")
    found, rank, size = _met(within)
    store = torch.distributed.PrefixStore(agreed_start(found, rank, size, within), found)
    check_backend(store, rank, backend)
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    return store


def _met(within: timedelta) -> tuple[torch.distributed.Store, int, int]:
    """The store of the ranks, this rank, and the number of ranks."""
    try:
        return next(torch.distributed.rendezvous("env://", timeout=within))
    except (torch.distributed.DistNetworkError, torch.distributed.DistStoreError) as error:
        # The C++ stack trace follows.
        reason = str(error).strip().splitlines()[0].removesuffix(".")
        raise UserError(
            f"{place() or 'rank 0'} did not meet the other processes at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']}: {reason}; see the others' errors, the address and the port",
            is_named=True,
        ) from None


def check_backend(store: torch.distributed.Store, rank: int, backend: str) -> None:
    """Raises UserError on a rank with another backend than rank 0: it would wait for ranks that speak otherwise."""
    if not rank:
        store.set("backend", backend)
    elif store.get("backend").decode() != backend:
        here, there = ("no GPU", "one") if backend == "gloo" else ("a GPU", "none")
        raise UserError(
            f"{here} is used here, but {there} by rank 0: start on hosts that have GPUs, or with "
            "ACCELERATE_USE_CPU=true on all"
        )


@contextlib.contextmanager
def groups_within(timeout: timedelta) -> Iterator[None]:
    """Process groups that are made in the ``with`` block, by code that gives them no timeout, have this one."""
    before = set(distributed_c10d._world.pg_map)
    yield
    for group in set(distributed_c10d._world.pg_map) - before:
        set_timeout(group, timeout)


def set_timeout(group: torch.distributed.ProcessGroup, timeout: timedelta) -> None:
    """Of the operations of a group from now on."""
    distributed_c10d._set_pg_timeout(timeout, group)


def agreed_start(
    store: torch.distributed.Store, rank: int, size: int, within: timedelta = CONNECT_TIMEOUT
) -> str:
    """A name that rank 0 gives to this start of the job, on all ranks, in a store that has keys of earlier ones.

    Each other rank asks under a number of its own, so that it takes no answer to a rank of an earlier start for its
    own; rank 0 answers until all have understood. Raises UserError for a rank that does not ask or answer.
    """
    until_s = time.monotonic() + within.total_seconds()
    minutes = f"{within.total_seconds() / 60:g} minutes"
    if rank:
        mine = uuid.uuid4().hex
        store.set(f"{_STARTS}/asks/{rank}", mine)
        answer = f"{_STARTS}/answers/{mine}"
        while not store.check([answer]):
            if time.monotonic() > until_s:
                raise UserError(f"rank 0 of {size} did not start within {minutes}: see its error")
            time.sleep(_POLL_S)
        start = store.get(answer).decode()
        store.set(f"{_STARTS}/{start}/{rank}", "")
        return start
    start = uuid.uuid4().hex
    answered: dict[int, bytes] = {}
    missing = set(range(1, size))
    while missing:
        for other in sorted(missing):
            asks = f"{_STARTS}/asks/{other}"
            if store.check([f"{_STARTS}/{start}/{other}"]):
                missing.remove(other)
            elif store.check([asks]) and answered.get(other) != (number := store.get(asks)):
                answered[other] = number
                store.set(f"{_STARTS}/answers/{number.decode()}", start)
        if missing and time.monotonic() > until_s:
            ranks = ", ".join(map(str, sorted(missing)))
            raise UserError(
                f"rank{'s' if len(missing) > 1 else ''} {ranks} of {size} did not start within {minutes}: look there "
                "for the reason"
            )
        time.sleep(_POLL_S)
    return start
