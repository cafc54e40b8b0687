"""Options of tracking, and the mode that they mean on this machine."""

from __future__ import annotations

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
    return "online" if os.environ.get("WANDB_API_KEY") or _has_stored_key() else "offline"


def _has_stored_key() -> bool:
    """Whether `wandb login` has stored a key for the server that wandb talks to. wandb knows which: since 0.31 not
    api.wandb.ai but another host, unless WANDB_BASE_URL or W&B's own settings name a third."""
    # As the deprecated wandb.api.api_key does it; wandb.login(prompt=False) asks the server, and waits for it.
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    settings = wandb_setup.singleton().settings
    try:
        return bool(settings.api_key or wbauth.read_netrc_auth(host=settings.base_url))
    except Exception:  # a key that cannot be one
        return False
