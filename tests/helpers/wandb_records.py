"""What the offline ``.wandb`` files of a run folder hold, as `wandb sync` would send it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrdist.run.tracking.identity import read_identity
from cxrdist.run.tracking.record_file import files_of, records

TIMEOUT_S = 60


@dataclass
class Recorded:
    """All files of one run, in the order in which they were written."""

    runs: list[Any] = field(default_factory=list)
    """The ``run`` record of each file: id, name, tags, group, job type."""
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    """``{name or glob: define_metric record}``."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    """Without the tables that W&B makes of charts."""

    @property
    def used(self) -> list[str]:
        return [one.name for one in self.artifacts if one.use_after_commit]

    @property
    def made(self) -> list[str]:
        return [one.name for one in self.artifacts if not one.use_after_commit]

    def steps(self) -> list[int]:
        return [row["_step"] for row in self.rows]


def recorded(folder: Path) -> Recorded:
    """The W&B run of a folder. Waits for W&B's own process, which writes after ``finish()`` has returned."""
    identity = read_identity(folder)
    assert identity is not None
    found, end_s = Recorded(), time.monotonic() + TIMEOUT_S
    for path in files_of(folder, identity.id):
        while not any(one.WhichOneof("record_type") == "exit" for one in records(path)):
            if path != files_of(folder, identity.id)[-1]:
                break  # of a killed job
            assert time.monotonic() < end_s, f"{path}: no exit record"
            time.sleep(0.1)
        for record in records(path):
            _add(found, record)
    return found


def _add(found: Recorded, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        found.runs.append(record.run)
        _update(found.config, record.run.config.update)
    elif kind == "config":
        _update(found.config, record.config.update)
    elif kind == "metric":
        found.metrics[record.metric.name or record.metric.glob_name] = record.metric
    elif kind == "history":
        row: dict[str, Any] = {}
        _update(row, record.history.item)
        found.rows.append(row)
    elif kind == "summary":
        _update(found.summary, record.summary.update)
    elif kind == "artifact" and record.artifact.type != "run_table":
        found.artifacts.append(record.artifact)


def _update(values: dict[str, Any], items: Any) -> None:
    for item in items:
        *path, last = [*item.nested_key] or [item.key]
        place = values
        for key in path:
            if not isinstance(place.get(key), dict):
                place[key] = {}
            place = place[key]
        place[last] = json.loads(item.value_json)
