"""A job on several hosts: what all of them must have alike, and whether they see the folder of the run.

Nothing else would notice: each host trains on what it has, and the result is a mixture. On one host there is nothing
to compare, and none of these functions does anything.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import cxrdist
from cxrdist import ranks
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.files import is_listed, nearest_folder, write_atomic
from cxrdist.run.checkpoint import Loaded, images_reached, load_checkpoint, snapshot

log = logging.getLogger(__name__)

PLACES = frozenset(
    {"run", "shards", "synthetic", "gan", "init", "out", "classifier", "classifiers", "soft_labels"}
    | {"loader", "threads", "tracking"}
)
"""Options that may differ between hosts: where things lie, what is compared by its content, and local resources."""
SEEN_WITHIN_S = 3.0
"""A network file system shows a new file to other hosts after this time at the latest, if they list its folder."""


def check_options(dist: Dist, job: str, options: Mapping[str, Any]) -> None:
    """Raises UserError on all ranks if another host has started the job with other options, or has other versions."""
    _check_alike(dist, versions(), "install the same versions on every host")
    mine = {f"--{name.replace('_', '-')}": value for name, value in options.items() if name not in PLACES}
    _check_alike(dist, {"the job": job, **mine}, "start the same command on every host")


def versions() -> dict[str, str]:
    """What computes: another version may compute otherwise."""
    return {"cxrdist": cxrdist.__version__, "torch": torch.__version__}


def check_data(dist: Dist, digests: Mapping[str, str | None]) -> None:
    """Raises UserError on all ranks if another host reads other data. ``digests``: by what is read."""
    short = {what: digest[:12] if digest else digest for what, digest in digests.items()}
    _check_alike(dist, short, "copy it from one host to the others, or name one place that all of them see")


def _check_alike(dist: Dist, mine: Mapping[str, Any], cure: str) -> None:
    if not ranks.spans_hosts():
        return
    places, values = zip(*dist.gather_objects([(ranks.place(), dict(mine))]), strict=True)
    for place, theirs in zip(places, values, strict=True):
        for name in dict.fromkeys((*values[0], *theirs)):
            first, other = values[0].get(name), theirs.get(name)
            if first != other:
                raise UserError(
                    f"{name} is {other!s:.100} for {place}, and {first!s:.100} for {places[0]}: {cure}",
                    is_named=True,
                )


def check_seen(dist: Dist, folder: Path, why: str) -> None:
    """Raises UserError on all ranks, before anything is written, if a host does not see this folder of rank 0's.
    ``why``: what the job needs that for."""
    if blind := blind_hosts(dist, folder):
        raise UserError(
            f"{folder}: {' and '.join(blind)} {'does' if len(blind) == 1 else 'do'} not see the folder that "
            f"{_main_host(dist)} has there, but {why}: give a folder that all hosts see, or use one host",
            is_named=True,
        )


def check_left_behind(dist: Dist, folder: Path) -> None:
    """For a job whose files rank 0 alone writes. Says which hosts do not see them. Raises UserError on all ranks if
    one of these hosts has got further with a run in a folder of this name than rank 0's has: it was rank 0's then."""
    if not (blind := blind_hosts(dist, folder)):
        return
    log.info(
        "%s: written on %s alone; %s has another folder there, or none",
        folder,
        _main_host(dist),
        " and ".join(blind),
    )
    hosts, reached = zip(*dist.gather_objects([(socket.gethostname(), _reached(folder))]), strict=True)
    for host, theirs in zip(hosts, reached, strict=True):
        if host not in blind:
            continue
        for model, images in theirs.items():
            if images > reached[0].get(model, 0):
                raise UserError(
                    f"{folder}: {host} has this run with {images:,} images, and {hosts[0]}, which rank 0 is on now, "
                    f"{'has an earlier state of it' if reached[0] else 'has none'}: start the job with rank 0 "
                    f"on {host} (--machine_rank 0 there), copy the folder to {hosts[0]}, or give another --run",
                    is_named=True,
                )


def blind_hosts(dist: Dist, folder: Path) -> list[str]:
    """Hosts that do not see what rank 0 writes to ``folder``, or, if there is none yet, to where it will be made."""
    if not ranks.spans_hosts():
        return []
    name, below = dist.on_main(lambda: _mark(folder))
    found = dist.gather_objects([(socket.gethostname(), _appears(name, folder, below))])
    if dist.is_main:
        _above(folder, below).joinpath(name).unlink(missing_ok=True)
    return list(dict.fromkeys(host for host, is_seen in found if not is_seen))


def _mark(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Write a file that no other folder has. Returns its name, and the part of the path of ``folder`` below it."""
    there = nearest_folder(folder)
    # remove_temporaries knows such a name, if this process is killed.
    name = f".seen-{secrets.token_hex(16)}.0.tmp"
    write_atomic(there / name, b"")
    return name, folder.absolute().relative_to(there).parts


def _above(folder: Path, below: tuple[str, ...]) -> Path:
    path = folder.absolute()
    return path.parents[len(below) - 1] if below else path


def _appears(name: str, folder: Path, below: tuple[str, ...]) -> bool:
    """Whether this rank sees the file, beside the same path of its own ``folder``."""
    if below and folder.absolute().parts[-len(below) :] != below:
        return False
    end_s = time.monotonic() + SEEN_WITHIN_S
    while True:
        with contextlib.suppress(OSError):
            if is_listed(_above(folder, below) / name):
                return True
        if time.monotonic() > end_s:
            return False
        time.sleep(0.2)


def _reached(folder: Path) -> dict[str, int]:
    """Images of the newest checkpoint of each model in a run's folder."""
    reached: dict[str, int] = {}
    for checkpoints in folder.glob("**/checkpoints"):
        if (images := images_reached(checkpoints)) is not None:
            reached[str(checkpoints.relative_to(folder))] = images
    return reached


def load_on_all(dist: Dist, path: Path, models: Mapping[str, nn.Module]) -> Loaded:
    """Load a checkpoint on rank 0 (see ``load_checkpoint``), and give it to all ranks: other hosts need not see it,
    and what they see there may be another one."""

    def read() -> tuple[Loaded, dict[str, Any]]:
        loaded = load_checkpoint(path, models)
        return loaded, snapshot(loaded.images, models, {}, {}).weights if dist.world_size > 1 else {}

    loaded, weights = dist.on_main(read)
    if not dist.is_main:
        for name, model in models.items():
            model.load_state_dict(weights[name])
    return loaded


def _main_host(dist: Dist) -> str:
    return dist.on_main(socket.gethostname)
