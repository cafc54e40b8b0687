"""The report on a reading: ``report.json``, ``report.md``, ``figures/*.png``.

store -> decisions.py (Reading) -> findings.py, gates.py (JSON value) -> charts.py, page.py -> files
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import from_os
from cxrdist.files import canonical_json, write_atomic
from cxrdist.synth.review.decisions import read_decisions
from cxrdist.synth.review.report.charts import accuracy_png, calibration_png
from cxrdist.synth.review.report.findings import findings
from cxrdist.synth.review.report.gates import compare_gates, read_scores
from cxrdist.synth.review.report.page import markdown


def write_report(store: Path, out: Path, synthetic: str | None) -> dict[str, Any]:
    """Write the files of the report to ``out``, the JSON last; returns its value.

    ``synthetic``: place of the set that was read, for the scores of its gates. The same store gives the same bytes.
    Raises UserError if a file cannot be read or written, or the set is another one.
    """
    reading = read_decisions(store)
    gates, digests = None, []
    if synthetic is not None:
        shards = ShardSet(synthetic)
        gates = compare_gates(reading, read_scores(shards, reading))
        digests = [shards.digest, *shards.manifest.earlier_digests]
    found = findings(reading, gates, digests)
    blinded = [reader for reader in found["readers"] if reader["blinded"]]
    files: dict[str, bytes | str] = {"report.md": markdown(found)}
    if blinded:
        files["figures/accuracy.png"] = accuracy_png(blinded)
        files["figures/calibration.png"] = calibration_png(blinded)
    try:
        for name, data in {**files, "report.json": canonical_json(found)}.items():
            write_atomic(out / name, data)
    except OSError as error:
        raise from_os(error) from error
    return found
