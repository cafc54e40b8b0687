"""``cxrdist compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cxrdist.config.parser import parse
from cxrdist.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare finished runs: the options that differ, the final metrics with intervals, paired differences on the
    same test set, and curves over each other."""

    runs: tuple[str, ...] = ()
    """Run folders, or folders that hold some."""
    group: str | None = None
    """Compare the runs of this W&B group: those in runs/, or with --wandb those that were sent."""
    wandb: bool = False
    """Read the runs of --group from W&B instead of local files; the numbers are the same."""
    project: str = "cxrdist"
    """W&B project to read from, or entity/project."""
    job: Literal["cls", "gan"] | None = None
    """Compare only runs of this job; null: all, which must be of one job."""
    out: str = "compare"
    """Folder of the curves (curves.png, curves.svg)."""

    def __post_init__(self) -> None:
        if self.wandb and self.group is None:
            raise OptionError("wandb", "needs --group, the W&B group to read")
        if self.group is None and not self.runs:
            raise OptionError("runs", "name run folders, a folder that holds some (runs/demo), or a --group")
        if self.group is not None and self.runs:
            raise OptionError("group", "name either run folders or a group")


def compare(argv: Sequence[str]) -> None:
    example = "cxrdist compare runs/demo/cls-ds1-seed0 runs/demo/cls-ds3-seed0 --out compare"
    options = parse(Compare, argv, prog="cxrdist compare", example=example, positional=("runs",))
    from cxrdist.run.tracking.api import open_api
    from cxrdist.study.compare.compare import compare as compared
    from cxrdist.study.compare.local import group_folders, local_runs
    from cxrdist.study.compare.online import online_runs

    if options.wandb:
        assert options.group is not None
        runs = online_runs(open_api(), options.project, options.group)
    elif options.group is not None:
        runs = local_runs(group_folders(options.group))
    else:
        runs = local_runs([Path(run) for run in options.runs])
    for line in compared(runs, options.job, Path(options.out)):
        print(line)
