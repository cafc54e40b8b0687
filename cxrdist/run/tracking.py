"""Metrics of a run: in ``metrics.jsonl``, and in W&B unless disabled. The only module that imports W&B."""

from __future__ import annotations

import json
import logging
import netrc
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cxrdist.errors import UserError
from cxrdist.files import write_atomic

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where metrics are logged in addition to metrics.jsonl."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: W&B online if an API key is found, else offline; disabled: no W&B."""
    project: str = "cxrdist"
    """W&B project."""
    group: str | None = None
    """W&B group: the study that this run belongs to."""


class MetricsFile:
    """``metrics.jsonl``: one JSON line per call of ``log``. Lines after ``resumed_images`` are removed on opening."""

    def __init__(self, folder: Path, resumed_images: int) -> None:
        self.path = folder / METRICS
        folder.mkdir(parents=True, exist_ok=True)
        kept = []
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    values = json.loads(line)
                except ValueError:
                    continue  # the last line of a killed run may be incomplete
                if values["images"] <= resumed_images:
                    kept.append(line)
        write_atomic(self.path, "".join(line + "\n" for line in kept))

    def log(self, images: int, values: Mapping[str, Any]) -> None:
        """Append metrics at a number of images seen."""
        with self.path.open("a") as file:
            file.write(json.dumps({"images": images, **values}) + "\n")


class NoTracker:
    """A tracker that does nothing, for the other ranks: callers need not check their rank."""

    def log(self, images: int, values: Mapping[str, Any]) -> None: ...

    def picture(self, images: int, name: str, path: Path) -> None: ...

    def finish(self, summary: Mapping[str, Any]) -> None: ...


class WandbTracker(NoTracker):
    """A W&B run of one job. Host, user, code, git remote and console output are not sent: a path or file name in them
    could identify a patient or a colleague."""

    def __init__(
        self, folder: Path, config: TrackingConfig, job: str, settings: Mapping[str, Any], mode: str
    ) -> None:
        logging.getLogger("wandb").setLevel(logging.ERROR)
        import wandb

        self.wandb, self.lost = wandb, False
        self.run = wandb.init(
            project=config.project,
            group=config.group,
            job_type=job,
            name=folder.name,
            dir=str(folder),
            config=without_paths(settings),
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                disable_job_creation=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                host="",
                username="",
            ),
        )
        self.run.define_metric("images")
        self.run.define_metric("*", step_metric="images")
        if mode == "offline":
            log.info("W&B offline: `wandb sync %s/wandb/offline-run-*` uploads this run later", folder)

    def log(self, images: int, values: Mapping[str, Any]) -> None:
        self._attempt(lambda: self.run.log({"images": images, **values}))

    def picture(self, images: int, name: str, path: Path) -> None:
        self._attempt(lambda: self.run.log({"images": images, name: self.wandb.Image(str(path))}))

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._attempt(lambda: self.run.summary.update(dict(summary)))
        self._attempt(self.run.finish)

    def _attempt(self, send: Callable[[], object]) -> None:
        """Call a function of W&B. The first exception is logged as a warning, and nothing is sent after it: training
        must not fail because of its tracker."""
        if self.lost:
            return
        try:
            send()
        except Exception as error:
            self.lost = True
            log.warning(
                "W&B failed (%s: %s); from here on metrics are only in %s",
                type(error).__name__,
                error,
                METRICS,
            )


def without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with absolute paths reduced to their last part: a path may contain the name of a person or place."""
    return {
        key: without_paths(value)
        if isinstance(value, Mapping)
        else Path(value).name
        if isinstance(value, str) and Path(value).expanduser().is_absolute()
        else value
        for key, value in settings.items()
    }


def start(
    folder: Path, config: TrackingConfig, *, job: str, settings: Mapping[str, Any], is_main: bool
) -> NoTracker:
    """The tracker of a job: W&B on rank 0 unless disabled, else one that does nothing. Raises UserError if ``mode``
    is online and W&B does not start."""
    mode = resolve_mode(config.mode)
    if not is_main or mode == "disabled":
        return NoTracker()
    try:
        return WandbTracker(folder, config, job, settings, mode)
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        if config.mode == "online":
            raise UserError(
                f"W&B failed to start ({why}): set WANDB_API_KEY and check the network, or use "
                "--tracking.mode offline"
            ) from None
        log.warning("W&B failed to start (%s); continuing offline", why)
        return WandbTracker(folder, config, job, settings, "offline")


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
