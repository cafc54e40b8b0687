"""``cxrdist synth audit``: look again at a finished synthetic set, without trusting what its manifest says.

real set, synthetic set                                        sets.py
  -> what the manifest says: generators, gates, removals       made.py
  -> today's default gates, fitted on the real set             synth/gates/fit.py
    -> the stored pixels, class by class                       look.py, measure.py, chance.py
      -> what a user must look at                              verdict.py
        -> audit.json, audit.html                              results.py, page.py, pictures.py, chart.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrdist.console import Progress, say
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.errors import OptionError, UserError
from cxrdist.features.classifier import load_classifier
from cxrdist.features.embed import Embedder
from cxrdist.files import canonical_json, write_atomic
from cxrdist.models import TrainedClassifier
from cxrdist.synth.audit.look import chosen, spaces_of
from cxrdist.synth.audit.made import made
from cxrdist.synth.audit.measure import ClassAudit, measure_class
from cxrdist.synth.audit.page import page
from cxrdist.synth.audit.results import results
from cxrdist.synth.audit.sets import Sets, open_sets
from cxrdist.synth.gates.config import GatesConfig, read_gates
from cxrdist.synth.gates.fit import fit
from cxrdist.synth.gates.judge import Judge

JSON_FILE, PAGE_FILE = "audit.json", "audit.html"


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Options of an audit."""

    synthetic: str
    shards: str
    classifiers: Sequence[str] = ()
    """Runs of train_cls.py on real images."""
    images: int = 2000
    """Images of a class that are looked at."""
    allow_other_lineage: bool = False
    real_images: bool = True
    """Whether the page shows real images."""


def audit(options: AuditOptions, out: Path) -> dict[str, Any]:
    """Look at a synthetic set, write ``audit.json`` and ``audit.html`` to the folder ``out``, and return what
    audit.json holds.

    Raises UserError, with nothing written, for sets that do not belong together, a real set that is too small to
    calibrate the gates on, and classifiers that did not learn from its train split alone.
    """
    sets = open_sets(options.synthetic, options.shards, allow_other_lineage=options.allow_other_lineage)
    try:
        with Dist("fp32") as dist:
            classifiers = _classifiers(options.classifiers, sets.real)
            judge = fit(todays_gates(classifiers), sets.real, list(sets.classes), classifiers, dist)
            classes = _measured(sets, judge, classifiers, options.images, dist)
        found = results(sets, made(sets), classes, judge, options.images)
        html = page(found, sets, classes, judge, real_images=options.real_images)
    finally:
        sets.close()
    write_atomic(out / PAGE_FILE, html)
    write_atomic(out / JSON_FILE, canonical_json(found))
    return found


def todays_gates(classifiers: Sequence[TrainedClassifier]) -> GatesConfig:
    """The default gates of this version; without classifiers those that need none."""
    gates = read_gates("default")
    if classifiers:
        return gates
    return dataclasses.replace(gates, realism=None, label=None, coverage=None)


def _classifiers(runs: Sequence[str], real: ShardSet) -> list[TrainedClassifier]:
    try:
        return [load_classifier(Path(run), real) for run in runs]
    except UserError as error:
        raise OptionError("classifiers", str(error)) from None


def _measured(
    sets: Sets, judge: Judge, classifiers: Sequence[TrainedClassifier], images: int, dist: Dist
) -> dict[str, ClassAudit]:
    """``{class: what was measured}``."""
    readers = [sets.readers(name) for name in sets.classes]
    total = sum(min(images, reader.samples) for of in readers for reader in of if reader is not None)
    say(f"audit of {sets.synthetic.manifest.samples:,} synthetic images, gates: {judge.config}")
    found = {}
    with Progress("audit: synthetic and real images", total) as progress:
        spaces = spaces_of(classifiers, sets.real.image_size, dist.device)
        embedder = Embedder(spaces, sets.real.image_size, dist, progress)
        for name, of_class in zip(sets.classes, readers):
            numbers = [None if reader is None else chosen(reader, images) for reader in of_class]
            found[name] = measure_class(name, sets, of_class, numbers, judge, embedder)
    return found
