"""``cxrdist study``: plan the jobs, run them, write the report.

runs/<name>/study.json   what the study compares, for the report
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cxrdist.config.parser import to_dict
from cxrdist.console import duration, say
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, write_atomic
from cxrdist.run.tracking.report.save import can_report
from cxrdist.study.arms.config import StudyConfig
from cxrdist.study.arms.dry_run import describe
from cxrdist.study.arms.execute import Executor, Failure
from cxrdist.study.arms.jobs import Plan, plan_study
from cxrdist.study.arms.power import show_power, warn_of_power
from cxrdist.study.arms.rates import known_rate
from cxrdist.study.arms.state import Share
from cxrdist.study.online_report import charts_of, write_online_report
from cxrdist.study.report.reading.description import STUDY
from cxrdist.study.report.terminal import print_results
from cxrdist.study.report.write import read_results, write_report
from cxrdist.study.tracking import track_study

REPORT = "report"
"""Its name among the jobs of a study that is shared."""


def run_study(config: StudyConfig) -> int:
    """Run what is not done yet. Raises UserError, naming each failed job and its log, after the others have ended."""
    began_s = time.monotonic()
    plan = plan_study(config)
    if config.power:
        show_power(plan)
        return 0
    if config.dry_run:
        describe(plan)
        say("")
        try:
            show_power(plan)
        except UserError as error:
            say(f"what the study can show is not known: {error}")
        return 0
    reports = config.wandb_report and can_report(config.tracking)
    warn_of_power(plan)
    say(f"study {config.name}: {len(plan.jobs)} jobs, then the report")
    # Before the jobs, too: a report can be written while they run.
    write_atomic(config.folder / STUDY, canonical_json(described(plan)))
    share = Share(config.folder, config.share) if config.share is not None else None
    executor = Executor(plan.jobs, config.folder, config.parallel, share)
    failures = executor.run()
    if executor.left:
        say(f"nothing is left for this process; others run {', '.join(executor.left)}, and write the report")
        return 0
    if share is not None and (not share.take(REPORT) or share.end_of(REPORT) is not None):
        say("another process writes the report")
        return 0
    if not any(config.folder.glob("**/cls-*/summary.json")):
        raise UserError(_text(failures))
    write_atomic(config.folder / STUDY, canonical_json(described(plan)))
    results = read_results([config.folder])
    page = write_report(results, Path(config.report))
    study, charts = results.study, charts_of(page)
    # Without these, so that the W&B run of the study stays the same one with and without a Report, and however its
    # jobs are divided.
    options = {key: value for key, value in to_dict(config).items() if key not in ("wandb_report", "share")}
    track_study(study, config.folder, config.name, config.tracking, options, charts)
    url = None
    if reports:
        url = write_online_report(study, config.folder, config.name, config.tracking, page, charts)
    if share is not None:
        share.end(REPORT, None)
    say("")
    print_results(results)
    say(f"\n{duration(time.monotonic() - began_s)} in all. Report: {page}")
    if url is not None:
        say(f"W&B Report: {url}")
    if failures:
        raise UserError(_text(failures))
    return 0


def described(plan: Plan) -> dict[str, Any]:
    """What the report needs to know of a study beside its runs, as JSON."""
    config = plan.config
    return {
        "name": config.name,
        "reference": config.reference,
        "margin_points": config.margin_points,
        "folds": config.folds,
        "seeds": list(config.seeds),
        "gan_seeds": list(config.gan_seeds),
        "budget": config.budget,
        "learning_rates": list(config.learning_rates),
        "chosen_rates": {
            arm.name: rate for arm in plan.arms if (rate := known_rate(config, arm)) is not None
        },
        "arms": [
            {"name": arm.name, "about": arm.about, "mixes": list(arm.mixes), "synthetic": arm.needs_synthetic}
            for arm in plan.arms
        ],
    }


def _text(failures: list[Failure]) -> str:
    """The failures with their logs, and how many jobs were not started for them."""
    causes = [failure for failure in failures if not failure.follows]
    parts = [
        f"{failure.job} failed: {failure.reason}" + (f" (log: {failure.log})" if failure.log else "")
        for failure in causes
    ]
    if others := len(failures) - len(causes):
        parts.append(f"{others} jobs that need them were not started")
    return "; ".join(parts) + "; the same command runs what is missing"
