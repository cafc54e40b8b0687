"""The card of a shard set: README.md for people, croissant.json for programs, from the manifest alone.

No file may lie in a set that its manifest does not hash, so the cards lie elsewhere, in a run folder by default.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from cxrdist.cards.croissant import croissant
from cxrdist.cards.gates import ClassGate, Gates, gates_of
from cxrdist.cards.markdown import number, render
from cxrdist.cards.real import options_of, real_statements
from cxrdist.cards.statements import (
    MAINTENANCE,
    Statements,
    form_of,
    generators_of,
    knows_training_data,
    size_of,
)
from cxrdist.cards.synthetic import synthetic_statements
from cxrdist.data.shards.lineage import descends_from
from cxrdist.data.shards.manifest import Manifest
from cxrdist.data.shards.schema import MANIFEST, SPLITS, UNLABELLED
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, write_atomic

README = "README.md"
CROISSANT = "croissant.json"


def write_dataset_card(folder: Path, shards: ShardSet, real: ShardSet | None = None) -> list[Path]:
    """Write ``README.md`` and ``croissant.json`` of a set into a folder; returns their paths.

    ``real``: the set that the generators of a synthetic set learned from, or one of its family; without it the card
    does not say what that set holds. The same sets give the same bytes.

    Raises UserError if the folder is or lies in a shard set, and if ``real`` is none of that family or is given for a
    set of real images.
    """
    for place in (folder, folder.parent):
        if (place / MANIFEST).exists():
            raise UserError(
                f"{place} is a shard set, in which every file is hashed: write the card into another folder"
            )
    said = statements_of(shards, real)
    readme = _markdown(shards.manifest, said)
    described = canonical_json(croissant(shards, said))
    write_atomic(folder / README, readme)
    write_atomic(folder / CROISSANT, described)
    return [folder / README, folder / CROISSANT]


def statements_of(shards: ShardSet, real: ShardSet | None) -> Statements:
    manifest = shards.manifest
    if manifest.lineage.kind == "real":
        if real is not None:
            raise UserError(
                f"{shards} is a set of real images: its card needs no other set; leave {real} out"
            )
        return real_statements(manifest)
    if real is not None and not descends_from(manifest.lineage.json_value(), real):
        raise UserError(
            f"{shards} descends from another real set ({str(manifest.lineage.real_digest)[:12]}) than {real} "
            f"({real.digest[:12]}): name that one, or none"
        )
    gates = gates_of(manifest.provenance.json_value())
    return synthetic_statements(manifest, gates, None if real is None else real.manifest)


def _markdown(manifest: Manifest, said: Statements) -> str:
    provenance = manifest.provenance.json_value()
    gates = gates_of(provenance)
    splits = [split for split in SPLITS if any(entry.split == split for entry in manifest.strata)]
    return render(
        "dataset",
        {
            "said": said,
            "manifest": manifest,
            "size": size_of(manifest),
            "form": form_of(manifest),
            "options": options_of(manifest),
            "splits": splits,
            "counts": _counts(manifest, splits),
            "generators": generators_of(manifest),
            "gates": gates,
            "gate_lines": _gate_lines(gates),
            "has": _columns(gates),
            "share": _share,
            "score_rows": _score_rows(gates),
            "knows_training_data": knows_training_data(manifest),
            "maintenance": MAINTENANCE,
        },
    )


def _counts(manifest: Manifest, splits: list[str]) -> list[dict[str, Any]]:
    """A row per class, with its images in each split; unlabelled images last, with the index -1."""
    images: Counter[tuple[str, str]] = Counter()
    for entry in manifest.strata:
        images[entry.class_name, entry.split] += entry.samples
    rows = [*enumerate(manifest.classes)] + ([(-1, UNLABELLED)] if manifest.unlabelled else [])
    return [
        {"index": index, "name": name, "images": [images[name, split] for split in splits]}
        for index, name in rows
    ]


def _gate_lines(gates: Gates) -> list[str]:
    lines = []
    if gates.name:
        lines.append(f"Gates: {gates.name}.")
    if gates.fitted_on:
        lines.append(f"They were fitted on the {gates.fitted_on} split of the real set.")
    if gates.calibrated_on:
        lines.append(f"Their thresholds were chosen on its {gates.calibrated_on} split.")
    if gates.classifiers:
        lines.append(f"They ask the classifiers with the weights {', '.join(gates.classifiers)}.")
    if gates.pooled:
        lines.append(f"Thresholds that rest on the images of all classes: {', '.join(gates.pooled)}.")
    return lines


def _columns(gates: Gates) -> dict[str, Any]:
    """The columns that some class has a value in."""
    found = gates.classes.values()
    return {
        "duplicates": any(one.duplicates is not None for one in found),
        "coverage": any(one.coverage is not None for one in found),
        "passed": [name for name in gates.names if any(name in one.passed for one in found)],
    }


def _share(one: ClassGate, gate: str) -> float | None:
    """Share of the generated images that a gate let pass."""
    passed = one.passed.get(gate)
    return None if passed is None or not one.tried else passed / one.tried


def _score_rows(gates: Gates) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "gate": gate,
            "threshold": one.thresholds.get(gate),
            "synthetic": _spread(one.scores.get(gate, {}).get("synthetic")),
            "real": _spread(one.scores.get(gate, {}).get("real")),
        }
        for name, one in gates.classes.items()
        for gate in gates.names
        if gate in one.thresholds or gate in one.scores
    ]


def _spread(quantiles: list[float] | None) -> str:
    """``[5, 25, 50, 75, 95 %]`` as ``median (low to high)``."""
    if not quantiles:
        return number(None)
    return f"{number(quantiles[len(quantiles) // 2])} ({number(quantiles[0])} to {number(quantiles[-1])})"
