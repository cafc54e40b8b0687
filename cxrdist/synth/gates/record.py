"""What the gates said of each candidate of a shard, in a file of the run, and their sums for the manifest.

    runs/synth-NAME/candidates/<name of the shard>.npy        [candidates] index, admitted, a score of each gate

The file is written before its shard is complete, and a shard without it is made again: so the sums are the same after
a job was killed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.files import write_atomic
from cxrdist.synth.gates.copies import NAME as COPY
from cxrdist.synth.gates.judge import Judge
from cxrdist.synth.gates.thresholds import quantiles

FOLDER = "candidates"


def dtype_of(judge: Judge) -> np.dtype[Any]:
    return np.dtype([("index", "<i8"), ("admitted", "?"), *((gate.name, "<f4") for gate, _ in judge.gates)])


def write_record(folder: Path, shard: str, rows: np.ndarray) -> None:
    """``rows`` [candidates] of ``dtype_of``."""
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    path = folder / FOLDER / f"{shard}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, file.getvalue())


def read_record(folder: Path, shard: str, judge: Judge) -> np.ndarray | None:
    """None if there is no such file, or one of other gates."""
    try:
        with (folder / FOLDER / f"{shard}.npy").open("rb") as file:
            rows = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return rows if isinstance(rows, np.ndarray) and rows.dtype == dtype_of(judge) else None


def of_class(judge: Judge, class_name: str, rows: np.ndarray) -> dict[str, Any]:
    """The figures of one class for the manifest, from the records of its shards: how many candidates each gate lets
    pass for itself, thresholds, and quantiles of the scores beside those of real validation images."""
    figures: dict[str, Any] = {"tried": len(rows)}
    if not judge.gates:
        return figures
    figures["passed"] = {
        gate.name: int(limits.admit(class_name, rows[gate.name]).sum()) for gate, limits in judge.gates
    }
    figures["thresholds"] = {
        name: float(f"{limit:.6g}") for name, limit in judge.thresholds(class_name).items()
    }
    figures["scores"] = {
        gate.name: {"synthetic": quantiles(rows[gate.name]), "real": quantiles(limits.real[class_name])}
        for gate, limits in judge.gates
    }
    for gate, limits in judge.gates:
        if gate.name == COPY:
            figures["copy_rate"] = copy_rate(figures)
            figures["copy_null_rate"] = round(limits.expected_refusals(class_name), 6)
    return figures


def copy_rate(figures: Mapping[str, Any]) -> float:
    """The share of the candidates of a class that the copy gate refuses."""
    return round(1 - figures["passed"][COPY] / max(figures["tried"], 1), 6)


def settings(judge: Judge) -> dict[str, Any]:
    """What the gates of a set are, for its manifest."""
    found: dict[str, Any] = {"name": judge.config.name}
    if judge.config.is_off:
        return found
    pooled = set().union(*(limits.pooled for _, limits in judge.gates))
    return found | {
        "fitted_on": "train",
        "calibrated_on": "val",
        "classifiers": list(judge.classifiers),
        "percent": dict(judge.config.percents),
        "pooled": sorted(pooled),
    }
