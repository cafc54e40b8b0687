"""What a rank tells the doctor that started it: one file of JSON lines per process, on its machine.

{"stage": "connect"} when it begins something, {"error": "..."} if it fails, {"result": {...}} at the end.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAGES = ("start", "connect", "sums", "all-reduce", "pairs", "clocks", "folders", "end")
"""In the order in which ranks reach them."""


class Reporter:
    """Of one rank."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / f"rank-{rank}-{os.getpid()}.jsonl"

    def write(self, **line: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Report:
    """What one rank has told so far."""

    rank: int
    stage: str
    error: str | None = None
    result: dict[str, Any] | None = None


def read_reports(folder: Path) -> list[Report]:
    """Of all processes of this machine, by rank. Two with one rank are two jobs."""
    return sorted((_read(path) for path in folder.glob("rank-*.jsonl")), key=lambda report: report.rank)


def _read(path: Path) -> Report:
    found: dict[str, Any] = {}
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):  # else it is being written
            found |= json.loads(line)
    rank = int(path.name.split("-")[1])
    return Report(rank, found.get("stage", STAGES[0]), found.get("error"), found.get("result"))
