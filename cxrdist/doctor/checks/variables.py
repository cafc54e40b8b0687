"""Variables of the environment that launchers, torch and the jobs obey: left by an earlier job, refused, or odd."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from cxrdist.distributed import launch_settings
from cxrdist.doctor.findings import Finding, error, ok, warning
from cxrdist.doctor.options import DoctorOptions
from cxrdist.errors import UserError
from cxrdist.process import available_cores

OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")


def look(_: DoctorOptions) -> Iterator[Finding]:
    found = [*_of_ranks(), *_of_launchers(), *_threads(), *_interfaces()]
    yield from found or [ok("nothing that an earlier job left, and nothing that jobs refuse")]


def _of_ranks() -> Iterator[Finding]:
    left = [name for name in OF_RANKS if os.environ.get(name)]
    try:
        launch_settings.check_ranks(os.environ)
    except UserError as failure:
        yield error(str(failure))
        return
    if left:
        values = ", ".join(f"{name}={os.environ[name]}" for name in left)
        yield warning(
            f"{values}: set in this shell, though launchers set them for their ranks",
            f"unset {' '.join(left)}, unless you start the ranks by hand",
        )


def _of_launchers() -> Iterator[Finding]:
    try:
        asked = list(launch_settings.asked(os.environ))
    except ValueError:  # WORLD_SIZE is no number, as _of_ranks says
        return
    for setting, what in asked:
        if setting.treatment == "refused":
            yield error(f"{what} is refused by the jobs", setting.why)
        else:
            yield warning(f"{what} is not used by the jobs", setting.why)


def _threads() -> Iterator[Finding]:
    cores = available_cores()
    for name in THREADS:
        text = os.environ.get(name, "").split(",")[0]
        if not text:
            continue
        if not text.isdecimal() or int(text) < 1:
            yield warning(
                f"{name}={os.environ[name]} is no number of threads, so it is ignored", f"unset {name}"
            )
        elif int(text) > cores:
            yield warning(
                f"{name}={text} threads for each process, on {cores} cores: they wait for each other",
                f"unset {name}: each process then takes its share of the cores",
            )
        else:
            yield ok(f"{name}={text}: threads of each process on CPU")


def _interfaces() -> Iterator[Finding]:
    there = [name for _, name in socket.if_nameindex()]
    for name in INTERFACES:
        # NCCL takes a list, ^ for "all but", = for "exactly"; a name is a prefix.
        words = os.environ.get(name, "").lstrip("^=").split(",")
        missing = [word for word in words if word and not any(each.startswith(word) for each in there)]
        if missing and not os.environ[name].startswith("^"):
            yield error(
                f"{name}={os.environ[name]}, and this machine has no such network interface",
                f"set it to one of {', '.join(there)}, or unset it",
            )
