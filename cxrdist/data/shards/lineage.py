"""What a set descends from: conversions keep keys, classes and splits, so a set and its conversions are one family.

    real A ── convert ──> real B       B remembers A
      └ GAN, synthesis ──> synthetic   remembers A, and would remember B and A where it were made from B

Images made from the train split of any member of a family have seen no patient of another member's val or test.
"""

from __future__ import annotations

from typing import Any

from cxrdist.data.shards.manifest import Manifest
from cxrdist.data.shards.shard_set import ShardSet


def family(shards: ShardSet) -> list[str]:
    """The digests of a set and of those that it was converted from, newest first."""
    return [shards.digest, *shards.manifest["lineage"].get("ancestors", [])]


def converted(manifest: Manifest) -> dict[str, Any]:
    """The lineage of a conversion of a set, real or synthetic."""
    lineage = manifest["lineage"]
    return lineage | {"ancestors": [manifest["digest"], *lineage.get("ancestors", [])]}


def made_from(real: ShardSet) -> dict[str, Any]:
    """The lineage of whatever learns from the train split of ``real``."""
    _, *ancestors = family(real)
    told = {"real_digest": real.digest, "split": "train"}
    return told | ({"real_ancestors": ancestors} if ancestors else {})


def descends_from(lineage: dict[str, Any], real: ShardSet) -> bool:
    """Whether a thing of this lineage has learnt from the train split of ``real``, or of one of its family."""
    learnt_from = {lineage["real_digest"], *lineage.get("real_ancestors", [])}
    return lineage["split"] == "train" and not learnt_from.isdisjoint(family(real))
