"""Write checkpoints at once, and one whose numbers all follow from one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cxrdist.run.checkpoint import RankState, snapshot, write_checkpoint


def save_checkpoint(
    folder: Path,
    images: int,
    models: Mapping[str, nn.Module],
    optimizers: Mapping[str, dict[str, Any]],
    state: Mapping[str, Any],
    *,
    keep: int,
    ranks: list[RankState] | None = None,
) -> None:
    write_checkpoint(folder, snapshot(images, models, optimizers, state, ranks), keep=keep)


def save(folder: Path, images: int, keep: int = 2) -> None:
    """A checkpoint in which every number is that of the images seen."""
    net = nn.Linear(64, 64)
    nn.init.constant_(net.weight, images)
    states = {"net": {"state": {0: {"step": torch.tensor(float(images))}}, "param_groups": []}}
    save_checkpoint(folder, images, {"net": net, "ema": net}, states, {"images": images}, keep=keep)
