"""Runs that were sent to W&B, read through its API."""

from __future__ import annotations

from typing import Any

from cxrdist.errors import UserError


def open_api() -> Any:
    """``wandb.Api()``. Raises UserError without an API key, or if W&B cannot be reached."""
    import wandb

    try:
        return wandb.Api()
    except Exception as error:
        why = " ".join(str(error).split())
        raise UserError(
            f"W&B has no API key for this machine, or cannot be reached ({why}): run `wandb login` or set "
            "WANDB_API_KEY, or compare the local folders without --wandb"
        ) from None
