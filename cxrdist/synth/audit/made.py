"""How a synthetic set was made, as its manifest says it; what it does not say is None."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cxrdist.data.shards.manifest import ClassGates, StratumEntry
from cxrdist.data.shards.removed import read_removed
from cxrdist.synth.audit.sets import Sets
from cxrdist.synth.generators.sources import UNKNOWN

OPTIONS = ("mix", "images", "seed", "encoding", "gates", "classifiers")


def made(sets: Sets) -> dict[str, Any]:
    """As JSON. Raises UserError for a damaged list of removed samples."""
    manifest = sets.synthetic.manifest
    provenance, lineage = manifest.provenance, manifest.lineage
    said = provenance.json_value()
    generators = provenance.generators or lineage.generators or {}
    # Before it was recorded, only generators of GAN runs could make a set, which learn from one split.
    training_data = provenance.training_data or f"{lineage.split} split"
    gates = provenance.gates
    entries = {entry.class_name: entry for entry in manifest.strata if entry.origin == "synthetic"}
    return {
        "importer": provenance.importer,
        "generators": {name: [of] if isinstance(of, str) else list(of) for name, of in generators.items()},
        "training_data": training_data,
        "training_data_known": training_data != UNKNOWN,
        "real_digest": lineage.real_digest,
        "split": lineage.split,
        "compared_with": sets.relation,
        "options": {name: value for name in OPTIONS if (value := provenance.option(name)) is not None},
        "merged": said.get("merged"),
        "converted": said.get("converted"),
        "edited": said.get("edited"),
        "gates": None
        if gates is None
        else {
            "name": gates.name,
            "fitted_on": gates.fitted_on,
            "calibrated_on": gates.calibrated_on,
            "classifiers": gates.classifiers,
            "percent": gates.percent,
            "pooled": gates.pooled,
        },
        "classes": {
            name: _of_class(sets, entries[name], gates.classes.get(name) if gates else None)
            for name in sets.classes
        },
    }


def _of_class(sets: Sets, entry: StratumEntry, gates: ClassGates | None) -> dict[str, Any]:
    found: dict[str, Any] = {"images": entry.samples, "removed": _removed(sets, entry), "gates": None}
    if gates is None:
        return found
    found["gates"] = gates.json_value() | {
        "pass_rates": {gate: round(n / gates.tried, 6) for gate, n in (gates.passed or {}).items()}
        if gates.tried
        else {}
    }
    return found


def _removed(sets: Sets, entry: StratumEntry) -> list[dict[str, Any]]:
    """Samples that were removed after the tars were written, by what decided it and the reason."""
    counts = Counter((removal.by, removal.reason) for removal in read_removed(sets.synthetic.store, entry))
    return [{"by": by, "reason": reason, "images": count} for (by, reason), count in sorted(counts.items())]
