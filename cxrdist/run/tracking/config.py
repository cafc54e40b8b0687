"""Options of tracking, and the mode that they mean on this machine."""

from __future__ import annotations

import netrc
import os
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where metrics are logged in addition to metrics.jsonl."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: W&B online if an API key is found, else offline; disabled: no W&B."""
    project: str = "cxrdist"
    """W&B project."""
    group: str | None = None
    """W&B group: the study that this run belongs to; null: <study> if the run's folder is runs/<study>/<run>."""
    system_metrics: bool = False
    """Also send the use of CPU, memory, disk, network and GPU."""
    thumbnails: bool = False
    """Also send small pictures of real films with their predictions; those of phantoms are always sent."""


def resolve_mode(mode: str) -> str:
    """The W&B mode: that of the config unless it is ``auto``, else WANDB_MODE, else online if there is an API key."""
    if mode != "auto":
        return mode
    if chosen := os.environ.get("WANDB_MODE"):
        return chosen
    return "online" if os.environ.get("WANDB_API_KEY") or _has_netrc_key() else "offline"


def _has_netrc_key() -> bool:
    try:
        return "api.wandb.ai" in netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
