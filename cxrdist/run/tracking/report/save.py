"""A W&B Report of a study, through wandb-workspaces (extra ``wandb-report``).

<folder>/wandb-report.json   its URL, so that the same Report is written again
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from cxrdist.errors import UserError
from cxrdist.files import canonical_json, read_json, write_atomic
from cxrdist.run.tracking.config import TrackingConfig, resolve_mode
from cxrdist.run.tracking.report.blocks import Content, blocks_of, title_of
from cxrdist.run.tracking.tracker import one_line

log = logging.getLogger(__name__)

REPORT = "wandb-report.json"


def can_report(tracking: TrackingConfig) -> bool:
    """Whether a Report can be written; if the runs do not go online, a warning says why not. Raises UserError without
    the extra."""
    try:
        import wandb_workspaces.reports.v2  # noqa: F401
    except ImportError:
        raise UserError(
            "--wandb-report needs wandb-workspaces: pip install 'cxrdist[wandb-report]', or leave out --wandb-report"
        ) from None
    if (why := _why_not_online(tracking)) is not None:
        log.warning("no W&B Report will be written: %s", why)
    return why is None


def _why_not_online(tracking: TrackingConfig) -> str | None:
    mode = resolve_mode(tracking.mode)
    if mode == "online":
        return None
    if tracking.mode != "auto":
        return f"--tracking.mode is {mode}"
    if os.environ.get("WANDB_MODE"):
        return f"WANDB_MODE is {mode}"
    return "W&B has no API key for this machine; run `wandb login` or set WANDB_API_KEY"


def save_report(folder: Path, content: Content) -> str | None:
    """Write the Report of a study, or write it again. Returns its URL; None, after a warning, if W&B fails."""
    try:
        return _save(folder, content)
    except Exception as error:  # W&B raises its own kinds, and those of its libraries
        log.warning("the W&B Report is not written (%s)", one_line(error))
        return None


def _save(folder: Path, content: Content) -> str:
    import wandb
    import wandb_workspaces.reports.v2 as wr

    api = wandb.Api()
    # The line that it prints has the URL, which the caller shows.
    wandb.termsetup(wandb.Settings(silent=True), None)
    # The entity that wandb.init() takes: of WANDB_ENTITY or W&B's settings, else that of the key.
    entity = str(api.settings["entity"] or api.default_entity)
    title = title_of(content.title)
    report = _earlier(folder, entity, content.project)
    if report is None:
        report = wr.Report(project=content.project, entity=entity, title=title)
    report.title, report.width, report.blocks = title, "fluid", blocks_of(content, entity)
    report.save()
    url = str(report.url)
    write_atomic(folder / REPORT, canonical_json({"url": url}))
    return url


def _earlier(folder: Path, entity: str, project: str) -> Any:
    """The Report that the folder has in this project, or None."""
    import wandb_workspaces.reports.v2 as wr

    if not (folder / REPORT).exists():
        return None
    url = "of an earlier study"
    try:
        url = str(read_json(folder / REPORT)["url"])
        report = wr.Report.from_url(url)
    except Exception as error:
        log.warning("the W&B Report %s cannot be read (%s); a new one is written", url, one_line(error))
        return None
    return report if (report.entity, report.project) == (entity, project) else None
