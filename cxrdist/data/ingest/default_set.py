"""The default set: phantom radiographs, computed the first time that a job needs them."""

from __future__ import annotations

import logging
from collections import Counter

from cxrdist.data.shards.open import DEFAULT_SET, open_finished_real
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage.store import store_of

log = logging.getLogger(__name__)


def open_real(path: str) -> ShardSet:
    """Open a set of real images; create the default phantom set first if it is the one named and does not exist.

    Raises UserError if there is no such set, or if it is a synthetic one.
    """
    if path.rstrip("/") == DEFAULT_SET and not store_of(path).exists(MANIFEST):
        from cxrdist.data.importers.phantom import Phantom
        from cxrdist.data.ingest.ingest import IngestOptions, ingest

        log.info(
            "%s does not exist: creating it, as `cxrdist import phantom --out %s --size 64` does", path, path
        )
        ingest(Phantom(), IngestOptions(out=path))
    return open_finished_real(path)


def default_counts() -> tuple[int, dict[str, int]]:
    """The image size in pixels and ``{class: training images}`` of the default set, without creating it."""
    from cxrdist.data.importers.phantom import Phantom
    from cxrdist.data.ingest.options import IngestOptions
    from cxrdist.data.ingest.plan import patients_of, splits_of

    source, options = Phantom(), IngestOptions(out=DEFAULT_SET)
    records = list(source.records())
    labels = [str(record.label) for record in records]
    splits = splits_of(records, patients_of(records), labels, "drawn", options)
    train = Counter(label for label, split in zip(labels, splits, strict=True) if split == "train")
    return options.size, {name: train[name] for name in source.classes}
