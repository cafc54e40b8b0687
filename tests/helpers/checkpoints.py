"""Write a checkpoint whose numbers all follow from one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from cxrdist.run.checkpoint import save_checkpoint


def save(folder: Path, images: int, keep: int = 2) -> None:
    """A checkpoint in which every number is that of the images seen."""
    net = nn.Linear(64, 64)
    nn.init.constant_(net.weight, images)
    states = {"net": {"state": {0: {"step": torch.tensor(float(images))}}, "param_groups": []}}
    save_checkpoint(folder, images, {"net": net, "ema": net}, states, {"images": images}, keep=keep)
