"""``metrics.jsonl``: the metrics of a run, one JSON line per call of ``log``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrdist.files import write_atomic

METRICS = "metrics.jsonl"

Row = tuple[int, dict[str, Any]]
"""Images seen, ``{metric: value}``."""


def read_rows(folder: Path) -> list[Row]:
    """The rows of a folder's ``metrics.jsonl``, oldest first; without a line that a killed job left incomplete."""
    path = folder / METRICS
    rows: list[Row] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        rows.append((values.pop("images"), values))
    return rows


class MetricsFile:
    """Appends to ``metrics.jsonl``. Lines after ``resumed_images`` are removed on opening; ``kept``: the others."""

    def __init__(self, folder: Path, resumed_images: int) -> None:
        self.path = folder / METRICS
        folder.mkdir(parents=True, exist_ok=True)
        self.kept = [row for row in read_rows(folder) if row[0] <= resumed_images]
        write_atomic(self.path, "".join(_line(images, values) for images, values in self.kept))

    def log(self, images: int, values: Mapping[str, Any]) -> None:
        """Append metrics at a number of images seen."""
        with self.path.open("a") as file:
            file.write(_line(images, values))


def _line(images: int, values: Mapping[str, Any]) -> str:
    return json.dumps({"images": images, **values}) + "\n"
