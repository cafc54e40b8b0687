"""Tables about a shard set, for people; JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from cxrdist.console import options_text, size_text
from cxrdist.data.shards.manifest import Lineage, Manifest, Provenance
from cxrdist.data.shards.schema import ORIGINS, SPLITS, class_rank
from cxrdist.data.shards.shard_set import ShardSet


def as_json(place: str) -> dict[str, Any]:
    """The manifest, as JSON; with ``removed``, the number of removed samples, if there are any."""
    manifest = ShardSet(place).manifest
    value = manifest.json_value()
    keys = ("digest", "image_size", "encoding", "classes", "counts", "strata", "provenance", "lineage")
    removed = manifest.removed_samples
    return {key: value[key] for key in keys} | ({"removed": removed} if removed else {})


def print_info(place: str) -> None:
    shards = ShardSet(place)
    manifest = shards.manifest
    provenance = manifest.provenance
    no_patients = " (computed, no patients)" if provenance.is_phantom else ""
    print(f"{shards}  {provenance.release or ''}{no_patients}")
    print(f"digest    {manifest.digest}")
    print(f"images    {images_line(manifest)}")
    for name, line in [
        *made_lines(provenance),
        *lineage_lines(manifest.lineage),
        *unlabelled_lines(manifest),
        *left_out_lines(provenance),
        *removed_lines(manifest),
    ]:
        print(f"{name:<8}  {line}")
    Console(markup=False).print(counts_table(manifest))


def images_line(manifest: Manifest) -> str:
    size, samples = manifest.image_size, manifest.samples
    if manifest.is_external:
        # The tars also hold images that are not used, so their bytes mean little.
        return f"{samples:,}, in external tars indexed where they lie, read at {size} x {size} grey"
    tars, total_bytes = (
        sum(getattr(entry, name) for entry in manifest.strata) for name in ("shards", "bytes")
    )
    in_tars = samples + manifest.removed_samples
    per_image = f", {size_text(total_bytes / in_tars)} an image" if in_tars else ""
    return (
        f"{size} x {size} grey, {manifest.encoding}, {samples:,} in {tars:,} tars, {size_text(total_bytes)}"
        f"{per_image}"
    )


def made_lines(provenance: Provenance) -> Iterator[tuple[str, str]]:
    """How the set was made: enough to make it again from the same source."""
    if provenance.importer:
        yield "made by", provenance.importer
    if options := options_text({k: v for k, v in (provenance.options or {}).items() if k != "classes"}):
        yield "options", options
    folds, fold = provenance.option("folds"), provenance.option("fold")
    if isinstance(folds, int) and isinstance(fold, int) and 0 <= fold < folds:
        yield "fold", f"fold {fold} of {folds} is test, fold {(fold + 1) % folds} val, all others train"
    if options := options_text(provenance.source_options or {}):
        yield "source", options
    if provenance.salt_fingerprint:
        yield "salt", f"fingerprint {provenance.salt_fingerprint}"
    for step in provenance.converted or []:
        yield "convert", f"from {step.source[:12]} to {step.size} px {step.encoding}"


def lineage_lines(lineage: Lineage) -> Iterator[tuple[str, str]]:
    if lineage.kind == "synthetic":
        digest = str(lineage.real_digest)[:12]
        yield "lineage", f"generators that learned from {digest}, {lineage.split} split"
    if lineage.ancestors:
        digests = ", ".join(digest[:12] for digest in lineage.ancestors)
        yield "lineage", f"converted from {digests}, newest first"


def unlabelled_lines(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if (entry := manifest.unlabelled) is None:
        return
    size = "" if manifest.is_external else f", {size_text(entry.bytes)}"
    yield "no class", f"{entry.samples:,} unlabelled images for GANs, train only{size}"


def left_out_lines(provenance: Provenance) -> Iterator[tuple[str, str]]:
    if provenance.gates is not None:
        for name, of in provenance.gates.classes.items():
            yield "gates", f"{name}: {of.admitted:,} of {of.tried:,} images admitted"
    for reason, count in (provenance.left_out or {}).items():
        yield "left out", f"{count:,} ({reason})"
    if held_out := (provenance.unlabelled or {}).get("held_out"):
        yield "left out", f"{held_out:,} (no class, and the patient is in val or test)"
    if provenance.undecodable:
        yield "left out", f"{provenance.undecodable:,} (do not decode)"
    for what, faults in (provenance.repairs or {}).items():
        yield "repaired", f"{faults.images:,} ({what}), such as {faults.example}"
    if provenance.unused_tars:
        yield "left out", f"{len(provenance.unused_tars):,} tars (no image of them is used)"
    if (near := provenance.near_duplicates) and near["groups"]:
        across = near["groups_across_splits"]
        yield (
            "films",
            f"{near['groups']:,} occur more than once ({near['images']:,} images), {across or 'none'} of them in "
            "several splits",
        )
    for note, count in (provenance.notes or {}).items():
        yield "note", f"{count:,} images: {note}"


def removed_lines(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if removed := manifest.removed_samples:
        of_class = Counter[str]()
        for entry in manifest.strata:
            of_class[entry.class_name] += entry.removed_samples or 0
        classes = ", ".join(f"{name} {of_class[name]:,}" for name in sorted(+of_class, key=class_rank))
        yield "removed", f"{removed:,} images ({classes}): still in the tars, left out by readers"
    for edit in manifest.provenance.edited or []:
        what = f"removed {edit.removed:,} images" if edit.removed else "added images"
        yield "edited", f"{edit.by}, {what}; before: {edit.source[:12]}"


def counts_table(manifest: Manifest) -> Table:
    """Images per class and split, and bytes."""
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    # External tars hold several strata each, so no class has a size of its own.
    has_sizes = not manifest.is_external
    for column in (*SPLITS, *(("size",) if has_sizes else ())):
        table.add_column(column, justify="right")
    for name in manifest.classes:
        cells = []
        for split in SPLITS:
            origins = manifest.counts.get(split, {}).get(name, {})
            cells.append(" + ".join(f"{origins[o]:,} {o}" for o in ORIGINS if o in origins) or "-")
        if has_sizes:
            cells.append(size_text(bytes_of(manifest, class_name=name)))
        table.add_row(name, *cells)
    if not has_sizes:
        return table
    of_splits = [size_text(bytes_of(manifest, split=split)) for split in SPLITS]
    table.add_row("size", *of_splits, size_text(bytes_of(manifest)), style="dim")
    return table


def bytes_of(manifest: Manifest, *, class_name: str | None = None, split: str | None = None) -> int:
    """Bytes of the tars of a class, or of the classes of a split, or of all classes."""
    return sum(
        entry.bytes
        for entry in manifest.strata
        if entry.class_name in (manifest.classes if class_name is None else [class_name])
        and split in (None, entry.split)
    )
