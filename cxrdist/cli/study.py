"""``cxrdist study`` and ``cxrdist report``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrdist.config.parser import parse
from cxrdist.config.yaml_files import find_named


@dataclass(frozen=True, kw_only=True)
class Report:
    """What finished runs show: an HTML page, a Markdown file and CSV tables."""

    runs: tuple[str, ...] = ("runs",)
    """Run folders, or folders that hold some."""
    out: str = "report"
    """Folder of the report."""


def report(argv: Sequence[str]) -> None:
    options = parse(
        Report,
        argv,
        prog="cxrdist report",
        example="cxrdist report runs/cls-* --out report",
        positional=("runs",),
    )
    from cxrdist.study.report.terminal import print_results
    from cxrdist.study.report.write import read_results, write_report

    results = read_results([Path(run) for run in options.runs])
    page = write_report(results, Path(options.out))
    print_results(results)
    print(f"report: {page}")


def study(argv: Sequence[str]) -> int:
    from cxrdist.study.arms.config import StudyConfig
    from cxrdist.study.arms.run import run_study

    # `cxrdist study FILE` is `cxrdist study --config FILE`: a study is its YAML.
    words = [*(("--config",) if argv and not argv[0].startswith("-") else ()), *argv]
    default = None if "--config" in words or any(w.startswith("--config=") for w in words) else find_study()
    config = parse(
        StudyConfig,
        words,
        prog="cxrdist study",
        example="cxrdist study configs/study/demo.yaml",
        default_config=default,
    )
    return run_study(config)


def find_study() -> Path:
    return find_named("study", "demo")
