"""What a set descends from: conversions keep keys, classes and splits, so a set and its conversions are one family.

    real A ── convert ──> real B       B remembers A
      ├ samples removed ──> real A'    A' remembers A
      └ GAN, synthesis ──> synthetic   remembers A; made from B, it would remember B and A

Images made from the train split of any member of a family have seen no patient of another member's val or test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cxrdist.data.shards.manifest import Lineage, Manifest
from cxrdist.data.shards.shard_set import ShardSet


def family(shards: ShardSet) -> list[str]:
    """The digests of a set: its own, those that it had before samples were removed, and those of the sets that it was
    converted from, newest first."""
    return _digests(shards.manifest)


def _digests(manifest: Manifest) -> list[str]:
    every = [manifest.digest, *manifest.earlier_digests, *(manifest.lineage.ancestors or [])]
    return list(dict.fromkeys(every))


def converted(manifest: Manifest) -> Lineage:
    """The lineage of a conversion of a set, real or synthetic."""
    return Lineage(**{**manifest.lineage.json_value(), "ancestors": _digests(manifest)})


def made_from(real: ShardSet) -> dict[str, Any]:
    """The lineage of whatever learns from the train split of ``real``, as JSON."""
    _, *ancestors = family(real)
    lineage = {"real_digest": real.digest, "split": "train"}
    return lineage | ({"real_ancestors": ancestors} if ancestors else {})


def descends_from(lineage: Mapping[str, Any], real: ShardSet) -> bool:
    """True if something of this lineage has learned from the train split of ``real``, or of one of its family."""
    learned_from = {lineage["real_digest"], *lineage.get("real_ancestors", [])}
    return lineage["split"] == "train" and not learned_from.isdisjoint(family(real))
