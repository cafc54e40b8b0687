"""Near-duplicate films of an import: found, told, and, where asked, kept on one side of the split.

    worker: pixels ─> perceptual_hash ─> a row of a table in a file without a name
    parent: near_groups ─> which images are one film ─> who counts as one patient

The table holds thumbnails of people's films: it lies in a temporary file that no name leads to, and is gone with
the process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from cxrdist.console import Progress, say
from cxrdist.data.imaging.near_duplicates import HASH_BYTES, groups_of, near_groups
from cxrdist.data.importers.common.base import Record
from cxrdist.errors import UserError, shown

NO_HASH = bytes(HASH_BYTES)
LISTED_GROUPS = 5


class FingerprintTable:
    """A perceptual hash per image, [images, ``HASH_BYTES``] uint8 in a file; an image may have none."""

    def __init__(self, images: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="cxrdist-")  # noqa: SIM115  (it lives as long as the table)
        try:
            # Room now, or an error now: a mapped file that finds none later ends the process.
            os.posix_fallocate(self._file.fileno(), 0, images * HASH_BYTES)
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: {error.strerror}, for {images * HASH_BYTES / 2**20:,.1f} MiB of film "
                "hashes: free some space, name another folder by TMPDIR, or say --no-find-duplicates"
            ) from None
        self._hashes = np.memmap(self._file, np.uint8, "r+", shape=(images, HASH_BYTES))
        self._has = np.zeros(images, bool)

    def put(self, start: int, hashes: bytes) -> None:
        """Hashes of the images from ``start`` on, one after the other; ``NO_HASH`` where there is none."""
        rows = np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES)
        self._hashes[start : start + len(rows)] = rows
        self._has[start : start + len(rows)] = rows.any(1)

    def groups(self, title: str) -> list[int]:
        """For each image the lowest index among those that show the same film."""
        with Progress(title, len(self._has)) as progress:
            groups = near_groups(self._hashes, progress.at)
            progress.at(len(self._has))
        # Images without a hash are all alike, and each is its own.
        return [group if has else i for i, (group, has) in enumerate(zip(groups, self._has.tolist()))]

    def compare(self, records: Sequence[Record], splits: Sequence[str], way: str) -> dict[str, int]:
        """Tell of near-duplicates among the images; returns what the manifest keeps of them."""
        groups = self.groups("comparing films")
        tell(groups, records, splits, way)
        return asdict(count_groups(groups, splits))


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """What an import tells of near-duplicate films, as the manifest keeps it."""

    groups: int
    """Films that stand more than once."""
    images: int
    """Images that show them."""
    groups_across_splits: int


def count_groups(groups: Sequence[int], splits: Sequence[str]) -> NearDuplicates:
    members = members_of(groups)
    return NearDuplicates(
        groups=len(members),
        images=sum(map(len, members)),
        groups_across_splits=sum(len({splits[i] for i in each}) > 1 for each in members),
    )


def members_of(groups: Sequence[int]) -> list[list[int]]:
    """The groups of more than one image, each ascending."""
    members: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        if group != i:
            members.setdefault(group, [group]).append(i)
    return [members[group] for group in sorted(members)]


def tell(groups: Sequence[int], records: Sequence[Record], splits: Sequence[str], way: str) -> None:
    """How many films stand more than once, and which of them lie on both sides of a split, made in this ``way``."""
    found = count_groups(groups, splits)
    if not found.groups:
        say("near-duplicates: none")
        return
    many = "films stand" if found.groups > 1 else "film stands"
    say(f"near-duplicates: {found.groups:,} {many} more than once ({found.images:,} images)")
    if not found.groups_across_splits:
        return
    say(
        f"warning: {found.groups_across_splits:,} of them lie in more than one split, where a test would reward "
        f"remembering: {'--dedup' if way == 'drawn' else '--split drawn --dedup'} puts them on one side"
    )
    across = [each for each in members_of(groups) if len({splits[i] for i in each}) > 1]
    for each in across[:LISTED_GROUPS]:
        say("  " + ", ".join(f"{shown(records[i].file)} ({splits[i]})" for i in each[:4]))
    if len(across) > LISTED_GROUPS:
        say(f"  ... and {len(across) - LISTED_GROUPS:,} more")


def one_patient_each(records: Sequence[Record], groups: Sequence[int]) -> tuple[list[Record], list[str]]:
    """The records, those of unknown patients with the patient whose film they show; and for each the name under
    which the split keeps it together: patients who share a film are never parted.

    The names do not depend on the order of the records.
    """
    known = list(records)
    pairs: list[tuple[str, str]] = []
    for each in members_of(groups):
        named = sorted(records[i].patient_id for i in each if records[i].patient_id)
        patient = (named or sorted(records[i].source_id for i in each))[0]
        for i in each:
            if not records[i].patient_id:
                known[i] = replace(records[i], patient_id=patient)
            pairs.append((patient, known[i].patient_id))
    patients = [record.patient_id or record.source_id for record in known]
    # Sorted, so that the lowest index of a group is its lowest name, whatever the order of the records.
    names = sorted({*patients, *(patient for patient, _ in pairs)})
    number = {name: i for i, name in enumerate(names)}
    group = groups_of(len(names), ((number[first], number[second]) for first, second in pairs))
    return known, [names[group[number[patient]]] for patient in patients]
