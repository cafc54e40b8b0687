"""Tables about a shard set and a mix, for people; JSON for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from cxrdist.data.manifest import ORIGINS, SPLITS
from cxrdist.data.mix import MixRule, quotas
from cxrdist.data.open import open_synthetic
from cxrdist.data.shard_set import ShardSet

REPEATS_WORTH_A_WARNING = 3


def as_json(place: str) -> dict[str, Any]:
    manifest = ShardSet(place).manifest
    return {key: manifest[key] for key in ("digest", "image_size", "encoding", "classes", "counts")}


def print_info(place: str) -> None:
    shards = ShardSet(place)
    manifest = shards.manifest
    provenance, lineage = manifest["provenance"], manifest["lineage"]
    size = manifest["image_size"]
    total_bytes = sum(entry["bytes"] for entry in manifest["strata"])
    tars = sum(entry["shards"] for entry in manifest["strata"])
    print(
        f"{shards}  {provenance['release']}{' (computed, no patients)' if provenance['is_phantom'] else ''}"
    )
    print(f"digest    {manifest['digest']}")
    print(
        f"images    {size} x {size} grey, {manifest['encoding']}, {tars} tars, {total_bytes / 2**20:,.1f} MiB"
    )
    if lineage["kind"] == "synthetic":
        print(
            f"lineage   generators that learnt from {lineage['real_digest'][:12]}, {lineage['split']} split"
        )
    for name, gate in provenance.get("gates", {}).items():
        print(f"gate      {name}: {gate['admitted']:,} of {gate['tried']:,} images admitted")
    for reason, count in provenance.get("left_out", {}).items():
        print(f"left out  {count:,} ({reason})")
    if provenance.get("undecodable"):
        print(f"left out  {provenance['undecodable']:,} (do not decode)")
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for split in SPLITS:
        table.add_column(split, justify="right")
    for name in manifest["classes"]:
        cells = []
        for split in SPLITS:
            origins = manifest["counts"].get(split, {}).get(name, {})
            cells.append(" + ".join(f"{origins[o]:,} {o}" for o in ORIGINS if o in origins) or "-")
        table.add_row(name, *cells)
    Console().print(table)


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
    console = Console()
    console.print(f"{rule.name} of {real}: {epoch:,} images an epoch", highlight=False)
    console.print(table)
    for line in warnings:
        console.print(line, highlight=False)
