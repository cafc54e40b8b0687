"""Options of tracking, and the mode that they mean on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from cxrdist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where metrics are logged in addition to metrics.jsonl."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: W&B online if an API key is found, else offline; disabled: no W&B."""
    project: str | None = None
    """W&B project; null: that of WANDB_PROJECT, else cxrdist."""
    group: str | None = None
    """W&B group: the study that this run belongs to; null: that of WANDB_RUN_GROUP, else <study> if the run's folder
    is runs/<study>/<run>."""
    system_metrics: bool = False
    """Also send the use of CPU, memory, disk, network and GPU."""
    thumbnails: bool = False
    """Also send small pictures of real films with their predictions; those of phantoms are always sent."""

    @property
    def project_name(self) -> str:
        return self.project or os.environ.get("WANDB_PROJECT") or "cxrdist"


MODES = {
    **{mode: mode for mode in ("online", "offline", "disabled")},
    **{"run": "online", "dryrun": "offline"},  # what wandb called them first
}
"""WANDB_MODE -> mode."""


def mode_of_environment() -> str | None:
    """The mode that WANDB_MODE or WANDB_DISABLED asks for; None if neither does. Raises UserError for another word,
    on every rank."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        return "disabled"
    word = os.environ.get("WANDB_MODE")
    if word and word not in MODES:
        raise UserError(f"WANDB_MODE is {word!r}: set it to online, offline or disabled")
    return MODES[word] if word else None


def resolve_mode(mode: str) -> str:
    """The W&B mode: that of the config unless it is ``auto``, else that of the environment, else online if there is
    an API key. Raises UserError for a WANDB_MODE that is none."""
    if mode != "auto":
        return mode
    if chosen := mode_of_environment():
        return chosen
    return "online" if os.environ.get("WANDB_API_KEY") or has_stored_key() else "offline"


def has_stored_key() -> bool:
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
