"""The set that jobs will read: whether it is there and finished."""

from __future__ import annotations

from collections.abc import Iterator

from cxrdist.doctor.findings import Finding, ok
from cxrdist.doctor.options import DoctorOptions


def look(options: DoctorOptions) -> Iterator[Finding]:
    if options.shards is None:
        yield ok("not checked: give --shards")
        return
    from cxrdist.data.shards.open import check_default_is_there
    from cxrdist.data.shards.shard_set import ShardSet

    check_default_is_there(options.shards)
    shards = ShardSet(options.shards)
    counts = shards.manifest.lineage.kind
    yield ok(f"{options.shards}: {counts} set of {shards.image_size} px, {len(shards.classes)} classes, "
             f"digest {shards.digest[:12]}; `cxrdist shards verify` reads it all")  # fmt: skip
