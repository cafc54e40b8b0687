"""Start the tracker of a job."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from cxrdist.errors import UserError
from cxrdist.run.tracking.config import TrackingConfig, mode_of_environment, resolve_mode
from cxrdist.run.tracking.description import Description
from cxrdist.run.tracking.identity import group_of, identity_of
from cxrdist.run.tracking.no_tracker import NoTracker
from cxrdist.run.tracking.record_file import settle
from cxrdist.run.tracking.tracker import WandbTracker

log = logging.getLogger(__name__)


def start(
    folder: Path,
    config: TrackingConfig,
    description: Description,
    *,
    is_main: bool = True,
    joins: bool = False,
) -> NoTracker:
    """The tracker of a job: W&B on rank 0 unless disabled, else one that does nothing.

    A folder has one W&B run, over all processes that resume it. ``joins``: log to the run that the folder has,
    whatever its config, as the evaluation of a GAN does. Raises UserError if ``mode`` is online and W&B does not
    start.
    """
    if config.mode == "auto":
        mode_of_environment()  # on all ranks: an error of one would leave the others waiting
    mode = resolve_mode(config.mode) if is_main else "disabled"
    if mode == "disabled":
        return NoTracker()
    identity = identity_of(folder, description, group_of(folder, config.group), joins=joins)
    tracker = WandbTracker(folder, config, description, identity)
    try:
        settle(folder, identity.id)
        tracker.open(mode, joins=joins)
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        if config.mode == "online":
            raise UserError(
                f"W&B failed to start ({why}): set WANDB_API_KEY and check the network, or use "
                "--tracking.mode offline"
            ) from None
        log.warning("W&B failed to start (%s); continuing offline", why)
        mode = "offline"
        try:
            tracker.open(mode, joins=joins)
        except Exception as failed:
            log.warning("W&B failed to start offline too (%s); metrics are only in files", failed)
            return NoTracker()
    if mode == "offline":
        place = shlex.quote(str(folder / "wandb"))
        log.info("W&B offline: `wandb sync %s/offline-run-*` uploads this run later", place)
    return tracker
