"""Splits of an earlier set that a larger one keeps: no patient who was in test is in train when images are added."""

from __future__ import annotations

from collections.abc import Sequence

from cxrdist.data.deidentify import Salt
from cxrdist.data.importers.common.base import Record
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import OptionError, UserError


def splits_of_set(shards: ShardSet, salt: Salt) -> dict[str, str]:
    """Salted hash of a patient -> split, of all images of a set. Raises OptionError for another salt."""
    if shards.manifest.provenance.salt_fingerprint != salt.fingerprint:
        raise OptionError(
            "keep_split",
            f"{shards} was hashed with another salt, so its patients cannot be recognized; name it with --salt-file",
        )
    split_of: dict[str, str] = {}
    for stratum in shards.strata:
        reader = shards.stratum(stratum.split, stratum.class_name, stratum.origin)
        for number in range(reader.samples):
            split_of[reader.row(number)["patient"].decode()] = stratum.split
    return split_of


def kept_splits(
    records: Sequence[Record], together: Sequence[str], earlier: dict[str, str], salt: Salt
) -> dict[str, str]:
    """Group -> split, for the groups with a patient of the earlier set; ``together`` names the group of each record.

    Raises UserError for a group whose patients were in different splits.
    """
    kept: dict[str, str] = {}
    for record, group in zip(records, together):
        split = earlier.get(salt.patient(record.patient))
        if split is not None and kept.setdefault(group, split) != split:
            raise UserError(
                f"{record.name}: near-duplicate films join patients of {kept[group]} and {split} of the earlier set; "
                "leave the splits as they are with --no-dedup"
            )
    return kept
