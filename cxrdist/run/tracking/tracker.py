"""The W&B run of one run folder: rows, pictures, charts, artifacts, summary."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.run.tracking.charts import confusion_rows, pr_rows
from cxrdist.run.tracking.config import TrackingConfig
from cxrdist.run.tracking.description import Description
from cxrdist.run.tracking.figures import flat_summary
from cxrdist.run.tracking.identity import Identity
from cxrdist.run.tracking.metrics_file import METRICS, Row
from cxrdist.run.tracking.no_tracker import NoTracker
from cxrdist.run.tracking.record_file import rows_logged

log = logging.getLogger(__name__)

SUMMARIES = {"val/balanced_accuracy": "max"}
"""What the summary of an unfinished run keeps of a metric, instead of its last value; a finished run's has the
figures of the kept checkpoint."""
MAX_ROWS = 10_000
"""Of a W&B table."""


class WandbTracker(NoTracker):
    """Sends to W&B. The first exception of W&B is logged as a warning, and nothing is sent after it (after one at a
    chart or an artifact, no more of those): training must not fail because of its tracker.

    Rows are numbered over all processes of a run folder, and W&B's step is that number. A resumed job computes the
    rows after its checkpoint again, with the same values, so rows that W&B has are not sent again, and ``replay``
    sends those that it lost. The x axis is ``images``.
    """

    is_on = True

    def __init__(
        self, folder: Path, config: TrackingConfig, description: Description, identity: Identity
    ) -> None:
        self.folder, self.config, self.description, self.identity = folder, config, description, identity
        self.lost = False
        self.without: set[str] = set()
        """What W&B does not take of this run: charts, artifacts."""
        self.row = 0
        """Number of the next row."""
        self.used: dict[str, list[str]] = {}
        """``{kind: digests}`` of the artifacts used."""

    def open(self, mode: str, *, joins: bool) -> None:
        """Start or resume the W&B run. ``joins``: rows are appended to a finished run. Raises what W&B raises."""
        logging.getLogger("wandb").setLevel(logging.ERROR)
        import wandb

        self.wandb = wandb
        _unset_empty_variables()
        logged = rows_logged(self.folder, self.identity.id)
        self.run = wandb.init(
            id=self.identity.id,
            resume="allow",
            project=self.config.project_name,
            group=self.identity.group,
            job_type=os.environ.get("WANDB_JOB_TYPE") or self.identity.job,
            name=os.environ.get("WANDB_NAME") or self.identity.name,
            tags=[*self.identity.tags, *filter(None, os.environ.get("WANDB_TAGS", "").split(","))],
            dir=str(self.folder),
            config=dict(self.description.config),
            mode=mode,  # type: ignore[arg-type]
            settings=self._settings(),
        )
        # Offline, W&B starts at step 0 each time; its server would append rows of another file to those it has.
        self.known = self.run.starting_step if mode == "online" else logged
        self.row = self.known if joins else 0
        self.run.define_metric("images")
        self.run.define_metric("*", step_metric="images")
        for name, kept in SUMMARIES.items():
            self.run.define_metric(name, step_metric="images", summary=kept)

    def _settings(self) -> Any:
        """Host, user, code, git remote and console output are not sent: a path or file name in them could identify a
        patient or a colleague."""
        return self.wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            disable_job_creation=True,
            x_disable_stats=not self.config.system_metrics,
            x_disable_meta=True,
            x_disable_machine_info=True,
            host="",
            username="",
        )

    def replay(self, rows: Iterable[Row]) -> None:
        for images, values in rows:
            self.log(images, values)

    def log(self, images: int, values: Mapping[str, Any]) -> None:
        number, self.row = self.row, self.row + 1
        if number >= self.known:
            self._attempt(lambda: self.run.log({"images": images, **values}, step=number, commit=True))

    def picture(self, images: int, name: str, path: Path) -> None:
        if self.row >= self.known:
            self._attempt(
                lambda: self.run.log({"images": images, name: self.wandb.Image(str(path))}, step=self.row)
            )

    def confusion(
        self, name: str, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
    ) -> None:
        def chart() -> Any:
            columns = ["Actual", "Predicted", "nPredictions"]
            return self._chart(
                "wandb/confusion_matrix/v1",
                columns,
                confusion_rows(labels, probabilities, classes),
                columns,
                name,
            )

        self._add(name, chart)

    def pr_curves(
        self, name: str, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
    ) -> None:
        def chart() -> Any:
            rows, fields = pr_rows(labels, probabilities, classes), ["class", "x", "y"]
            return self._chart(
                "wandb/area-under-curve/v0", ["class", "recall", "precision"], rows, fields, name
            )

        self._add(name, chart)

    def _chart(
        self,
        kind: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        fields: Sequence[str],
        title: str,
    ) -> Any:
        """A chart of W&B's own kinds; ``fields``: what each column is in it."""
        return self.wandb.plot_table(
            vega_spec_name=kind,
            data_table=self.wandb.Table(columns=list(columns), data=[list(row) for row in rows]),
            fields=dict(zip(fields, columns, strict=True)),
            string_fields={"title": title},
        )

    def prediction_table(
        self,
        name: str,
        rows: Sequence[Mapping[str, Any]],
        thumbnails: np.ndarray | None = None,
        *,
        is_phantom: bool = False,
    ) -> None:
        columns = _columns(rows)
        shows = thumbnails is not None and (is_phantom or self.config.thumbnails)

        def table() -> Any:
            shown = [[row[column] for column in columns] for row in rows[:MAX_ROWS]]
            if shows:
                assert thumbnails is not None
                shown = [[*row, self.wandb.Image(film)] for row, film in zip(shown, thumbnails)]
            return self.wandb.Table(columns=[*columns, *(["film"] if shows else [])], data=shown)

        self._add(name, table)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        columns = _columns(rows)
        data = [[row[column] for column in columns] for row in rows[:MAX_ROWS]]
        self._add(name, lambda: self.wandb.Table(columns=columns, data=data))

    def chart(self, name: str, path: Path) -> None:
        self._add(name, lambda: self.wandb.Image(str(path)))

    def _add(self, name: str, content: Callable[[], Any]) -> None:
        """Log something that belongs to the end of a run, as a row without images."""
        step = max(self.row, self.known)
        self._attempt_extra(lambda: self.run.log({name: content()}, step=step), "charts")

    def use_artifact(self, kind: str, digest: str, name: str) -> None:
        self.used.setdefault(kind, []).append(digest)
        self._attempt_extra(lambda: self._use(self._artifact(kind, digest, name, {})), "artifacts")

    def _use(self, artifact: Any) -> None:
        if not self.run.offline:
            self.run.use_artifact(artifact)
            return
        # use_artifact() refuses offline, though its record can wait for `wandb sync` as any other; this is the record
        # that it writes online.
        self.run._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    def log_artifact(self, kind: str, digest: str, name: str) -> None:
        made = lambda: self.run.log_artifact(self._artifact(kind, digest, name, self.used))  # noqa: E731
        self._attempt_extra(made, "artifacts")

    def _artifact(self, kind: str, digest: str, name: str, made_from: Mapping[str, Sequence[str]]) -> Any:
        """An artifact that holds a digest and no data: equal digests are one artifact in all runs."""
        metadata = {"sha256": digest, "name": name, "made_from": dict(made_from)}
        artifact = self.wandb.Artifact(
            f"{kind}-{digest[:16]}", type=kind, description=name, metadata=metadata
        )
        with artifact.new_file("digest.txt") as file:
            file.write(f"{kind} sha256:{digest}\n")
        return artifact

    def interrupt(self, exit_code: int) -> None:
        self._attempt(lambda: self.run.mark_preempting())
        self._attempt(lambda: self.run.finish(exit_code=exit_code))

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._attempt(lambda: self.run.summary.update(flat_summary(summary)))
        self._attempt(lambda: self.run.finish())

    def _attempt(self, send: Callable[[], object]) -> None:
        if self.lost:
            return
        try:
            send()
        except Exception as error:
            self.lost = True
            log.warning("W&B failed (%s); from here on metrics are only in %s", one_line(error), METRICS)

    def _attempt_extra(self, send: Callable[[], object], what: str) -> None:
        """The same of charts and artifacts, without which the metrics still are of use."""
        if self.lost or what in self.without:
            return
        try:
            send()
        except Exception as error:
            self.without.add(what)
            log.warning("W&B failed to take %s (%s); this run has none", what, one_line(error))


def _unset_empty_variables() -> None:
    """`export WANDB_MODE=` means none to a shell's user; wandb refuses some variables that are empty."""
    for name in [name for name in os.environ if name.startswith("WANDB_") and not os.environ[name]]:
        del os.environ[name]


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of a table: those of its first row. Raises ValueError for patients: they must not leave."""
    columns = list(rows[0]) if rows else []
    if "patient" in columns:
        raise ValueError("a table must not have the patients")
    return columns


def one_line(error: Exception) -> str:
    """Kind and message of an exception."""
    return " ".join(f"{type(error).__name__}: {error}".split())
