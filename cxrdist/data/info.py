"""Tables about a shard set and a mix, for people; JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from cxrdist.data.claim import UNUSED_TARS
from cxrdist.data.images import FOREIGN
from cxrdist.data.manifest import ORIGINS, SPLITS, Manifest
from cxrdist.data.mix import MixRule, quotas
from cxrdist.data.open import open_synthetic
from cxrdist.data.shard_set import ShardSet
from cxrdist.data.wording import worded

REPEATS_WORTH_A_WARNING = 3


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
    if options := worded({k: v for k, v in provenance.get("options", {}).items() if k != "classes"}):
        yield "options", options
    if options := worded(provenance.get("source_options", {})):
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


def print_mix(rule: MixRule, shards: str, synthetic: str | None) -> None:
    """Per class: real and synthetic images an epoch, share, and how often an image comes."""
    real = ShardSet(shards)
    other = open_synthetic(synthetic, real) if synthetic else None
    counts = {name: {"real": real.samples("train", name, "real")} for name in real.classes}
    if other:
        for name in real.classes:
            counts[name]["synthetic"] = other.samples("train", name, "synthetic")
    quota = quotas(rule, counts)
    epoch = sum(sum(q.values()) for q in quota.values())
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for column in ("real", "synthetic", "target", "share", "repeats per image"):
        table.add_column(column, justify="right")
    warnings = []
    for name, of_class in quota.items():
        target = sum(of_class.values())
        repeats = {
            origin: n / counts[name][origin]
            for origin, n in of_class.items()
            if n and counts[name].get(origin)
        }
        warnings += [
            f"warning: {name}: each {origin} image comes {times:.1f} times an epoch"
            for origin, times in repeats.items()
            if times > REPEATS_WORTH_A_WARNING
        ]
        table.add_row(
            name,
            f"{of_class.get('real', 0):,}",
            f"{of_class.get('synthetic', 0):,}",
            f"{target:,}",
            f"{target / epoch:.1%}" if epoch else "-",
            ", ".join(f"{origin} {times:.2f}" for origin, times in repeats.items()) or "-",
        )
    console = Console(markup=False)
    console.print(f"{rule.name} of {real}: {epoch:,} images an epoch", highlight=False)
    console.print(table)
    for line in warnings:
        console.print(line, highlight=False)
