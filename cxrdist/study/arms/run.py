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
from cxrdist.study.arms.config import StudyConfig
from cxrdist.study.arms.dry_run import describe
from cxrdist.study.arms.execute import Executor, Failure
from cxrdist.study.arms.jobs import Plan, plan_study
from cxrdist.study.arms.power import show_power, warn_of_power
from cxrdist.study.arms.rates import known_rate
from cxrdist.study.report.reading.description import STUDY
from cxrdist.study.report.terminal import print_results
from cxrdist.study.report.write import read_results, write_report
from cxrdist.study.tracking import track_study


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
    warn_of_power(plan)
    say(f"study {config.name}: {len(plan.jobs)} jobs, then the report")
    failures = Executor(plan.jobs, config.folder, config.parallel).run()
    if not any(config.folder.glob("**/cls-*/summary.json")):
        raise UserError(_text(failures))
    write_atomic(config.folder / STUDY, canonical_json(described(plan)))
    results = read_results([config.folder])
    page = write_report(results, Path(config.report))
    track_study(results.study, config.folder, config.name, config.tracking, to_dict(config))
    say("")
    print_results(results)
    say(f"\n{duration(time.monotonic() - began_s)} in all. Report: {page}")
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
