"""The synthetic set as a whole: what it is made for, its tables and manifest, and going on with a finished one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cxrdist.data.shards.index import ShardRow, read_index, read_table, write_table
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.manifest import (
    Lineage,
    Manifest,
    Provenance,
    Stratum,
    StratumEntry,
    checked_provenance,
    read_manifest,
    write_manifest,
)
from cxrdist.data.shards.open import REJECTED
from cxrdist.data.shards.removed import Reason, without
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample, TarFile, tar_name, write_shard
from cxrdist.data.shards.writing.rewrite import changing, rewrite_manifest
from cxrdist.data.shards.writing.write_job import (
    FOUND_LATER,
    check_same_job,
    claimed,
    mark_finished,
    refuse_other_files,
    remove_leftovers,
)
from cxrdist.data.storage.store import Store, store_of
from cxrdist.features.spaces import pixel_space
from cxrdist.models import TrainedClassifier
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.gates import record
from cxrdist.synth.gates.config import GatesConfig
from cxrdist.synth.gates.copies import coarse
from cxrdist.synth.gates.judge import Judge
from cxrdist.synth.generators.sources import ImageSource
from cxrdist.synth.plan import ClassProgress, mix_rule
from cxrdist.synth.rounds import ClassShards, rejected_samples

DUPLICATES_GATE = "duplicates gate"
BATCH = 256


def provenance_of(
    config: SynthConfig,
    gates: GatesConfig,
    wanted: Mapping[str, int],
    sources: Mapping[str, Sequence[ImageSource]],
    judges: Sequence[TrainedClassifier],
) -> Provenance:
    """As far as it is known before the images are generated. Raises UserError for options that no manifest can
    hold."""
    digests = {name: [source.digest for source in of] for name, of in sources.items()}
    provenance = {
        "importer": "synthesis",
        "release": "generated images",
        "is_phantom": False,
        "options": {
            "encoding": config.encoding,
            "seed": config.seed,
            "mix": mix_rule(config).name if config.count is None else None,
            "images": dict(wanted),
            "gates": str(gates),
            "classifiers": [judge.weights_sha256 for judge in judges],
            "label_rule": None,
        },
        "generators": {name: of[0] if len(of) == 1 else of for name, of in digests.items()},
        "training_data": next(source.training_data for of in sources.values() for source in of),
    }
    return checked_provenance(provenance, f"--out {config.out_place}")


def conclude(
    store: Store,
    real: ShardSet,
    judge: Judge,
    provenance: Provenance,
    classes: Mapping[str, ClassShards],
    coverage: Mapping[str, Mapping[str, float]],
    before: Manifest | None,
) -> Manifest:
    """Write tables and manifest, on rank 0, after all ranks have written their shards. ``before``: the manifest of
    the set that is filled up."""
    strata, rows = [], []
    for name, of in classes.items():
        stratum = Stratum("train", name, "synthetic")
        entry = next((one for one in before.strata if one.stratum == stratum), None) if before else None
        earlier = [*read_table(store, entry)] if entry else []
        of_class: list[ShardRow] = [*earlier, *(shard.row for shard in of.shards)]
        rows.append(of_class)
        strata.append(_without_duplicates(store, write_table(store, stratum, of_class), entry, of))
    gates = record.settings(judge) | {
        "classes": {
            name: _figures(judge, name, of, coverage.get(name), before) for name, of in classes.items()
        }
    }
    if before is not None:
        edit = {"from": before.digest, "removed": 0, "by": "synthesis"}
        edited = [*(before.provenance.json_value().get("edited") or []), edit]
        return rewrite_manifest(
            store,
            before,
            strata=strata,
            provenance=before.provenance.updated({"gates": gates, "edited": edited}),
        )
    remove_leftovers(store, strata, rows)
    manifest = write_manifest(
        store,
        classes=real.classes,
        image_size=real.image_size,
        encoding=str(provenance.option("encoding")),
        strata=strata,
        provenance=provenance.updated({"gates": gates}),
        lineage=Lineage(kind="synthetic", **made_from(real), generators=provenance.generators),
    )
    mark_finished(store)
    return manifest


def _without_duplicates(
    store: Store, entry: StratumEntry, before: StratumEntry | None, of: ClassShards
) -> StratumEntry:
    """The entry of a table of all tars, without what was removed before and the duplicates that were found now."""
    if before is not None and before.removed is not None:
        removed = {"removed": before.removed, "removed_sha256": before.removed_sha256}
        removed |= {"removed_samples": before.removed_samples}  # type: ignore[dict-item]
        left = entry.samples - (before.removed_samples or 0)
        entry = StratumEntry.model_validate(entry.json_value() | removed | {"samples": left})
    why = Reason(reason="too similar to an earlier image", by=DUPLICATES_GATE, reviewer=None, time=None)
    return without(store, entry, dict.fromkeys(of.duplicates, why))


def _figures(
    judge: Judge,
    name: str,
    of: ClassShards,
    coverage: Mapping[str, float] | None,
    before: Manifest | None,
) -> dict[str, Any]:
    """What the gates said of a class. Counts of a set that is filled up are added up; the quantiles of scores are
    those of the images that were added."""
    earlier = before.provenance.json_value()["gates"]["classes"].get(name, {}) if before else {}
    figures = dict(earlier)
    if of.shards:
        figures = record.of_class(judge, name, of.records)
        figures["tried"] += earlier.get("tried", 0)
        for gate, passed in earlier.get("passed", {}).items():
            figures["passed"][gate] += passed
        if "copy_rate" in figures:
            figures["copy_rate"] = record.copy_rate(figures)
    figures["admitted"] = (
        earlier.get("admitted", 0) + sum(s.row.samples for s in of.shards) - len(of.duplicates)
    )
    figures["duplicates"] = earlier.get("duplicates", 0) + len(of.duplicates)
    figures["next_blocks"] = dict(of.progress.next_blocks)
    if coverage:
        figures["coverage"] = dict(coverage)
    return figures


def continued(synthetic: ShardSet, wanted: Mapping[str, int], judge: Judge) -> dict[str, ClassShards]:
    """The classes of a finished set, to go on with: new images have indices that were never drawn, and are compared
    with those that are left."""
    gates = synthetic.manifest.provenance.json_value()["gates"]["classes"]
    classes = {}
    for name, images in wanted.items():
        count = synthetic.samples("train", name, "synthetic")
        progress = ClassProgress(0, dict(gates[name]["next_blocks"]))
        known: dict[str, np.ndarray] = {}
        if count:
            reader = synthetic.stratum("train", name, "synthetic")
            progress.next_number = len(reader.shards)
            if judge.duplicate_limit is not None:
                known = _known(synthetic, name)
        classes[name] = ClassShards(images, progress, known=known, before=count)
    return classes


def _known(synthetic: ShardSet, name: str) -> dict[str, np.ndarray]:
    """Key -> [256] float16 of the images of a class."""
    reader = synthetic.stratum("train", name, "synthetic")
    known: dict[str, np.ndarray] = {}
    for start in range(0, reader.samples, BATCH):
        numbers = range(start, min(start + BATCH, reader.samples))
        pixels = torch.from_numpy(np.stack([reader.pixels(number) for number in numbers])[:, None])
        found = coarse(pixel_space().embed(pixels)).half().numpy()
        known |= {reader.key(number).decode(): of for number, of in zip(numbers, found)}
    return known


# ---- rejected candidates


def rejected_place(config: SynthConfig) -> str:
    return f"{config.out_place.rstrip('/')}-rejected"


def check_rejected(config: SynthConfig, provenance: Provenance) -> None:
    """Raises UserError if something else lies where the rejected candidates are kept."""
    store = store_of(rejected_place(config))
    if not store.exists(MANIFEST):
        refuse_other_files(store)
        return
    there = read_manifest(store).provenance.json_value()
    asked = _as_rejected(provenance).json_value()
    check_same_job(store, {name: there[name] for name in there if name not in FOUND_LATER}, asked)


def _as_rejected(provenance: Provenance) -> Provenance:
    return provenance.updated({"importer": REJECTED, "release": REJECTED})


def write_rejected(
    config: SynthConfig, real: ShardSet, provenance: Provenance, classes: Mapping[str, ClassShards]
) -> None:
    """The candidates that the gates refused, as a set of their own to look at: no training accepts it. Those of a set
    that is filled up are added to it."""
    samples = {name: of for name, of in rejected_samples(classes).items() if of}
    if not samples:
        return
    store = store_of(rejected_place(config))
    if store.exists(MANIFEST):
        with changing(store) as before:
            strata = _with_rejected(store, before.strata, real, config.encoding, samples)
            if strata != before.strata:
                rewrite_manifest(store, before, strata=strata)
        return
    marked = _as_rejected(provenance)
    with claimed(store, marked):
        strata = _with_rejected(store, [], real, config.encoding, samples)
        remove_leftovers(store, strata, [[*read_table(store, entry)] for entry in strata])
        write_manifest(
            store,
            classes=real.classes,
            image_size=real.image_size,
            encoding=config.encoding,
            strata=strata,
            provenance=marked,
            lineage=Lineage(kind="synthetic", **made_from(real), generators=provenance.generators),
        )
        mark_finished(store)


def _with_rejected(
    store: Store,
    before: Sequence[StratumEntry],
    real: ShardSet,
    encoding: str,
    samples: Mapping[str, Sequence[Sample]],
) -> list[StratumEntry]:
    """The strata with a further shard of each class's samples; a killed job may have added them."""
    strata = {entry.stratum: entry for entry in before}
    for name, of in samples.items():
        stratum = Stratum("train", name, "synthetic")
        rows = [*read_table(store, strata[stratum])] if stratum in strata else []
        known = {key for row in rows for key in read_index(store, row, is_external=False)["key"].tolist()}
        new = [sample for sample in of if sample.key.encode() not in known]
        if new:
            tar = TarFile(store, tar_name(stratum, len(rows)), stratum, real.classes.index(name), encoding)
            row = write_shard(tar, new)
            assert row is not None
            strata[stratum] = write_table(store, stratum, [*rows, row])
    return [*strata.values()]
