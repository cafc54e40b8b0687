"""The test patients of a study, of each class and in all folds together."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections import Counter

from cxrdist.data.shards.open import open_finished_real
from cxrdist.data.shards.schema import MANIFEST, SPLITS
from cxrdist.data.storage.store import store_of
from cxrdist.errors import UserError
from cxrdist.study.arms.config import StudyConfig


def test_patients(config: StudyConfig) -> dict[str, int]:
    """``{class: patients}``: as the import of ``source`` would deal them, which decodes no image; without ``source``,
    as the sets say. Raises UserError if neither is known."""
    if config.source is None:
        return _of_sets(config)
    words = shlex.split(config.source)
    if config.folds > 1:
        words += ["--folds", str(config.folds), "--fold", "0"]
    command = [
        sys.executable,
        "-m",
        "cxrdist",
        "import",
        *words,
        "--out",
        config.set_of(0),
        "--plan",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.returncode:
        patients = json.loads(done.stdout)["patients"]
        # Each fold is the test set once.
        splits = SPLITS if config.folds > 1 else ("test",)
        return {name: sum(patients[split][name] for split in splits) for name in patients["test"]}
    if store_of(config.set_of(0)).exists(MANIFEST):
        return _of_sets(config)
    said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
    raise UserError(f"source: cxrdist import {config.source}: {said[-1].removeprefix('error: ')}")


def _of_sets(config: StudyConfig) -> dict[str, int]:
    found: Counter[str] = Counter()
    for fold in range(config.folds):
        shards = open_finished_real(config.set_of(fold))
        for name in shards.classes:
            samples = shards.stratum("test", name, "real").all_samples()
            # An image of an unknown patient counts as a patient.
            found[name] += len({sample.meta.get("patient") or sample.key for sample in samples})
        shards.close()
    return dict(found)
