"""What all benchmarks share: where they ran, the table that they print, the JSON that they write."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from cxrdist.process import available_cores

CLONE = Path(__file__).resolve().parents[1]

Row = dict[str, Any]


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser with ``--json``, whose help ends with an example."""
    made = argparse.ArgumentParser(
        description=description,
        epilog=f"example: {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="where the figures go, beside the table")
    return made


def python_path() -> str:
    """For processes of a benchmark: this clone before whatever the caller has there."""
    return os.pathsep.join(filter(None, (str(CLONE), os.environ.get("PYTHONPATH"))))


def device() -> str:
    """``AMD EPYC, 2 cores, 47 GiB``."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{_cpu_model()}, {available_cores()} cores, {pages / 2**30:.0f} GiB"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(*packages: str) -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def load() -> float:
    """Processes that ran or waited for a core, on average over the last minute: this benchmark's own included."""
    return round(os.getloadavg()[0], 2)


def median_ratio(over: list[float], under: list[float]) -> float:
    """Median of the ratios of runs made one after the other, which share what else the machine was doing."""
    return round(median(a / b for a, b in zip(over, under, strict=True)), 3)


def report_progress(message: str) -> None:
    """Progress, on stderr: stdout holds the table alone."""
    print(message, file=sys.stderr, flush=True)


def report(result: dict[str, Any], columns: tuple[str, ...], json_file: Path | None) -> None:
    """Print the rows as one table, then the ratios; write everything as JSON where a file is named.

    ``result`` has ``device``, ``versions``, ``rows`` and ``ratios``, and may have more; ``columns`` are the keys of
    the rows that the table shows.
    """
    print(result["device"])
    print(", ".join(f"{name} {value}" for name, value in result["versions"].items()))
    table = [columns, *(tuple(_cell(row.get(name)) for name in columns) for row in result["rows"])]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    for name, value in result["ratios"].items():
        print(f"{name:<48} {value:g}")
    write_json(result, json_file)


def write_json(result: dict[str, Any], json_file: Path | None) -> None:
    """Where a file is named."""
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=1) + "\n")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        is_small = 0 < abs(value) < 0.1  # a rate of 0.012 would be 0.01
        return f"{value:.2g}" if is_small else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
