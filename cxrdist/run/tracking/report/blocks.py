"""What a W&B Report of a study shows: Markdown, and panels over the runs of its W&B group."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHOWN = 100
"""Runs or arms in a panel, where W&B would show 10."""
COLUMNS, PANEL_WIDTH, PANEL_HEIGHT = 2, 12, 8
"""Panels side by side, and their size in units of W&B, which has 24 in a row."""
TITLE_CHARACTERS = 128
"""W&B refuses longer ones."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """A W&B Report before it is written."""

    title: str
    sections: tuple[str, ...]
    """Markdown, a block each."""
    project: str
    group: str
    """The W&B group whose runs the panels show."""
    left_out: tuple[str, ...] = ()
    """W&B ids of runs in the group that are no results."""
    classes: tuple[str, ...] = ()
    """Classes of the classifiers."""
    models: tuple[str, ...] = ()
    """Names of the GANs' models."""
    pictures: tuple[str, ...] = ()
    """Names of the pictures of the study's own run."""


def title_of(title: str) -> str:
    """A title as the library can take it: it is part of the URL as it is."""
    return re.sub(r"[^\w .,()-]", "-", title)[:TITLE_CHARACTERS]


def blocks_of(content: Content, entity: str) -> list[Any]:
    """The blocks of the Report."""
    import wandb_workspaces.reports.v2 as wr

    def grid(title: str, job: str, panels: Sequence[Any]) -> list[Any]:
        runs = wr.Runset(
            entity=entity, project=content.project, name=f"{job} runs", filters=_filters(content, job)
        )
        for number, panel in enumerate(panels):
            row, column = divmod(number, COLUMNS)
            panel.layout = wr.Layout(
                x=column * PANEL_WIDTH, y=row * PANEL_HEIGHT, w=PANEL_WIDTH, h=PANEL_HEIGHT
            )
        return [wr.H2(text=title), wr.PanelGrid(runsets=[runs], panels=list(panels))] if panels else []

    by_arm = {"groupby": wr.Config("arm"), "groupby_aggfunc": "mean", "max_runs_to_show": SHOWN}
    validation = wr.LinePlot(
        title="Balanced accuracy on val: mean, lowest and highest run of each arm",
        x="images",
        y=["val/balanced_accuracy"],
        title_x="images seen",
        groupby_rangefunc="minmax",
        **by_arm,
    )
    bars = [
        wr.BarPlot(
            title=f"{words}: mean and standard deviation of each arm",
            metrics=[f"test/{metric}"],
            groupby_rangefunc="stddev",
            max_bars_to_show=SHOWN,
            **by_arm,
        )
        for metric, words in _test_metrics(content.classes)
    ]
    losses = [
        wr.LinePlot(
            title=f"Loss of {words}",
            x="images",
            y=[f"{model}/{loss}" for model in content.models],
            title_x="images seen",
            max_runs_to_show=SHOWN,
        )
        for loss, words in (("loss_d", "D"), ("loss_g", "G"))
        if content.models
    ]
    pictures = [wr.MediaBrowser(title=name, media_keys=[name], num_columns=1) for name in content.pictures]
    return [
        *(wr.MarkdownBlock(text=section) for section in content.sections),
        *grid("Validation during training", "cls", [validation]),
        *grid("Test metrics", "cls", bars),
        *grid("Losses of the GANs", "gan", losses),
        *grid("Charts of the study", "study", pictures),
    ]


def _test_metrics(classes: Sequence[str]) -> list[tuple[str, str]]:
    """The metrics on test of which bars are drawn: key, and its name in words."""
    return [
        ("balanced_accuracy", "Balanced accuracy on test"),
        ("macro_auroc", "Macro AUROC on test"),
        ("accuracy", "Accuracy on test"),
        *((f"per_class/{name}", f"Recall of {name} on test") for name in classes),
    ]


def _filters(content: Content, job: str) -> str:
    """The runs of one job in the study's group, as an expression of wandb-workspaces."""
    parts = [f"Metric('Group') == {_quoted(content.group)}", f"Metric('JobType') == {_quoted(job)}"]
    if content.left_out and job != "study":
        parts.append(f"Metric('ID') not in [{', '.join(map(_quoted, content.left_out))}]")
    return " and ".join(parts)


def _quoted(text: str) -> str:
    """A string of the expression. It is escaped, since the library rewrites ``=``, ``<`` and ``>`` in strings, too,
    before it reads the expression as Python."""
    return "'" + re.sub(r"[^A-Za-z0-9 _./-]", lambda found: f"\\U{ord(found[0]):08x}", text) + "'"
