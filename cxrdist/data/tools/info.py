"""Tables about a shard set, for people; JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from cxrdist.console import options_text
from cxrdist.data.imaging.radiograph import FOREIGN
from cxrdist.data.shards.manifest import SPLITS, Manifest
from cxrdist.data.shards.schema import ORIGINS
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.write_job import UNUSED_TARS


def as_json(place: str) -> dict[str, Any]:
    manifest = ShardSet(place).manifest
    told = ("digest", "image_size", "encoding", "classes", "counts", "strata", "provenance", "lineage")
    return {key: manifest[key] for key in told}


def print_info(place: str) -> None:
    shards = ShardSet(place)
    manifest = shards.manifest
    provenance = manifest["provenance"]
    no_patients = " (computed, no patients)" if provenance.get("is_phantom") else ""
    print(f"{shards}  {provenance.get('release', '')}{no_patients}")
    print(f"digest    {manifest['digest']}")
    print(f"images    {images_line(manifest)}")
    for name, line in [
        *made_lines(provenance),
        *lineage_lines(manifest["lineage"]),
        *left_out_lines(provenance),
    ]:
        print(f"{name:<8}  {line}")
    Console(markup=False).print(counts_table(manifest))


def images_line(manifest: Manifest) -> str:
    size, strata = manifest["image_size"], manifest["strata"]
    samples, tars, total_bytes = (sum(entry[k] for entry in strata) for k in ("samples", "shards", "bytes"))
    per_image = f", {size_words(total_bytes / samples)} an image" if samples else ""
    encoding = manifest["encoding"]
    if encoding in FOREIGN.values():
        # Their tars also hold what is not used.
        return f"{samples:,}, in tars of others indexed where they lie, read at {size} x {size} grey"
    return (
        f"{size} x {size} grey, {encoding}, {samples:,} in {tars:,} tars, {size_words(total_bytes)}"
        f"{per_image}"
    )


def made_lines(provenance: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """How the set was made: enough to make it again from the same source."""
    if importer := provenance.get("importer"):
        yield "made by", importer
    if options := options_text({k: v for k, v in provenance.get("options", {}).items() if k != "classes"}):
        yield "options", options
    if options := options_text(provenance.get("source_options", {})):
        yield "source", options
    if fingerprint := provenance.get("salt_fingerprint"):
        yield "salt", f"fingerprint {fingerprint}"
    for step in provenance.get("converted", []):
        yield "convert", f"from {step['from'][:12]} to {step['size']} px {step['encoding']}"


def lineage_lines(lineage: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if lineage["kind"] == "synthetic":
        yield (
            "lineage",
            f"generators that learnt from {lineage['real_digest'][:12]}, {lineage['split']} split",
        )
    if ancestors := lineage.get("ancestors"):
        yield "lineage", f"the images of {', '.join(digest[:12] for digest in ancestors)}, newest first"


def left_out_lines(provenance: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, gate in provenance.get("gates", {}).items():
        yield "gate", f"{name}: {gate['admitted']:,} of {gate['tried']:,} images admitted"
    for reason, count in provenance.get("left_out", {}).items():
        yield "left out", f"{count:,} ({reason})"
    if provenance.get("undecodable"):
        yield "left out", f"{provenance['undecodable']:,} (do not decode)"
    if unused := provenance.get(UNUSED_TARS):
        yield "left out", f"{len(unused):,} tars (nothing in them is used)"
    if (near := provenance.get("near_duplicates")) and near["groups"]:
        across = near["groups_across_splits"]
        yield (
            "films",
            f"{near['groups']:,} stand more than once ({near['images']:,} images), {across or 'none'} of them in "
            "several splits",
        )
    for note, count in provenance.get("notes", {}).items():
        yield "note", f"{count:,} images: {note}"


def size_words(count: float) -> str:
    """``40960`` -> ``40.0 KiB``."""
    units = ("KiB", "MiB", "GiB", "TiB")
    power = next((n for n in range(1, len(units)) if count < 1024 ** (n + 1)), len(units))
    return f"{count / 1024**power:,.1f} {units[power - 1]}"


def counts_table(manifest: Manifest) -> Table:
    """Images per class and split, and bytes."""
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    # Others' tars hold several strata each, so no class has a size of its own.
    has_sizes = manifest["encoding"] not in FOREIGN.values()
    for column in (*SPLITS, *(("size",) if has_sizes else ())):
        table.add_column(column, justify="right")
    for name in manifest["classes"]:
        cells = []
        for split in SPLITS:
            origins = manifest["counts"].get(split, {}).get(name, {})
            cells.append(" + ".join(f"{origins[o]:,} {o}" for o in ORIGINS if o in origins) or "-")
        if has_sizes:
            cells.append(size_words(bytes_of(manifest, "class", name)))
        table.add_row(name, *cells)
    if not has_sizes:
        return table
    of_splits = [size_words(bytes_of(manifest, "split", split)) for split in SPLITS]
    total = sum(entry["bytes"] for entry in manifest["strata"])
    table.add_row("size", *of_splits, size_words(total), style="dim")
    return table


def bytes_of(manifest: Manifest, key: str, value: str) -> int:
    return sum(entry["bytes"] for entry in manifest["strata"] if entry[key] == value)
