"""Splits of an earlier set that a larger one keeps: no patient who was in test is in train when images are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxrdist.data.deidentify import Salt
from cxrdist.data.importers.common.base import Record
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import OptionError, UserError


@dataclass(frozen=True)
class EarlierSplits:
    """The split of each patient of an earlier set."""

    salt: Salt
    digest: str
    """Of the set."""
    split_of: Mapping[str, str]
    """Salted hash of a patient -> split."""

    def kept(self, records: Sequence[Record], together: Sequence[str]) -> dict[str, str]:
        """Group -> split, for the groups with a patient of the earlier set; ``together`` names the group of each
        record.

        Raises UserError for a group whose patients were in different splits.
        """
        kept: dict[str, str] = {}
        for record, group in zip(records, together):
            split = self.split_of.get(self.salt.patient(record.patient))
            if split is not None and kept.setdefault(group, split) != split:
                raise UserError(
                    f"{record.name}: near-duplicate films join patients of {kept[group]} and {split} of the earlier "
                    "set; leave the splits as they are with --no-dedup"
                )
        return kept


def earlier_splits(place: str, salt: Salt) -> EarlierSplits:
    """Read the splits of a set. Raises OptionError for one of another salt."""
    shards = ShardSet(place)
    if shards.manifest.provenance.salt_fingerprint != salt.fingerprint:
        raise OptionError(
            "keep_split",
            f"{shards} was hashed with another salt, so its patients cannot be recognized; name it with --salt-file",
        )
    split_of = {
        patient.decode(): stratum.split
        for stratum, index in shards.indexes()
        for patient in index["patient"].tolist()
    }
    shards.close()
    return EarlierSplits(salt, shards.digest, split_of)
