"""What a run was computed with, stretch by stretch: it may go on on another machine after an interruption.

A stretch is ``{"from_images", "world_size", "engine", "device", "precision", "threads", "torch"}``. A different
precision is refused, as another config is (see folder.py). The others change a result by rounding, and the log says
so.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from cxrdist.distributed.dist import Dist

log = logging.getLogger(__name__)

Stretch = dict[str, Any]


def stretch_of(dist: Dist, from_images: int) -> Stretch:
    """The stretch that begins now."""
    return {
        "from_images": from_images,
        "world_size": dist.world_size,
        "engine": dist.engine_kind,
        "device": dist.device_name,
        "precision": dist.precision,
        "threads": dist.threads,
        "torch": torch.__version__,
    }


def continued(before: list[Stretch], now: Stretch) -> list[Stretch]:
    """The stretches of a run that resumes as ``now``. A change is logged, by what differs from the last stretch."""
    kept = [each for each in before if each["from_images"] < now["from_images"]]
    if not kept:
        return [now]
    last = kept[-1]
    differing = [
        f"{name.replace('_', ' ')} {last[name]}, now {now[name]}"
        for name in now
        if name != "from_images" and now[name] != last[name]
    ]
    if not differing:
        return kept
    log.warning(
        "resumed at %s images with other resources (%s): the order of images is the same, and weights differ by "
        "rounding from those of an uninterrupted run",
        f"{now['from_images']:,}",
        "; ".join(differing),
    )
    return [*kept, now]
