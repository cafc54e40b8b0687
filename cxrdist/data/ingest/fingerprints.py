"""Near-duplicate films of an import: found, reported and, on request, kept in one split.

    worker: pixels ─> perceptual_hash ─> a row of a table in an unnamed temporary file
    parent: near_groups ─> which images show one film ─> which patients stay together

The hashes hold thumbnails of patients' films, so the temporary file has no name, and disappears with the process.
"""

from __future__ import annotations

import logging
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
"""Groups that a warning lists."""

log = logging.getLogger(__name__)


class FingerprintTable:
    """A perceptual hash per image, [images, ``HASH_BYTES``] uint8 in a temporary file; an image may have none.

    Raises UserError if the disk has no room for it.
    """

    def __init__(self, images: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="cxrdist-")  # noqa: SIM115  (it lives as long as the table)
        try:
            # Reserve the space now: a full disk kills a process that writes to a mapped file.
            os.posix_fallocate(self._file.fileno(), 0, images * HASH_BYTES)
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: {error.strerror}, for {images * HASH_BYTES / 2**20:,.1f} MiB of film "
                "hashes: free some space, set TMPDIR to another folder, or add --no-find-duplicates"
            ) from None
        self._hashes = np.memmap(self._file, np.uint8, "r+", shape=(images, HASH_BYTES))
        self._has = np.zeros(images, bool)

    def put(self, start: int, hashes: bytes) -> None:
        """Store the hashes of the images from index ``start`` on, one after the other; ``NO_HASH`` for none."""
        rows = np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES)
        self._hashes[start : start + len(rows)] = rows
        self._has[start : start + len(rows)] = rows.any(1)

    def groups(self, title: str, images: int | None = None) -> list[int]:
        """For each of the first ``images`` images (None: all) the lowest index of those that show the same film;
        ``title`` names the progress."""
        hashes, has_hash = self._hashes[:images], self._has[:images]
        with Progress(title, len(has_hash)) as progress:
            groups = near_groups(hashes, progress.at)
            progress.at(len(has_hash))
        # Images without a hash are all alike, and each is its own.
        return [group if has else i for i, (group, has) in enumerate(zip(groups, has_hash.tolist()))]


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """The near-duplicate films of an import, as the manifest records them."""

    groups: int
    """Films of which there are several images."""
    images: int
    """Images of these films."""
    groups_across_splits: int
    """Films with images in more than one split."""


def count_groups(groups: Sequence[int], splits: Sequence[str]) -> NearDuplicates:
    members = members_of(groups)
    return NearDuplicates(
        groups=len(members),
        images=sum(map(len, members)),
        groups_across_splits=sum(len({splits[i] for i in each}) > 1 for each in members),
    )


def restricted(groups: Sequence[int], chosen: Sequence[int]) -> list[int]:
    """The groups of the chosen images alone: for each, the lowest place in ``chosen`` of an image of its group."""
    first: dict[int, int] = {}
    return [first.setdefault(groups[i], place) for place, i in enumerate(chosen)]


def members_of(groups: Sequence[int]) -> list[list[int]]:
    """The groups of more than one image, each ascending."""
    members: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        if group != i:
            members.setdefault(group, [group]).append(i)
    return [members[group] for group in sorted(members)]


def report_near_duplicates(
    groups: Sequence[int], records: Sequence[Record], splits: Sequence[str], split_way: str
) -> dict[str, int]:
    """Print how many films have several images, and warn if they are in different splits; returns the entry in the
    manifest."""
    found = count_groups(groups, splits)
    if not found.groups:
        say("near-duplicates: none")
        return asdict(found)
    films = "films have" if found.groups > 1 else "film has"
    say(f"near-duplicates: {found.groups:,} {films} several images ({found.images:,} images)")
    if not found.groups_across_splits:
        return asdict(found)
    log.warning(
        "%s of them lie in more than one split, so test results would be too good: %s keeps each in one split",
        f"{found.groups_across_splits:,}",
        "--dedup" if split_way == "drawn" else "--split drawn --dedup",
    )
    across = [each for each in members_of(groups) if len({splits[i] for i in each}) > 1]
    for each in across[:LISTED_GROUPS]:
        log.info("  %s", ", ".join(f"{shown(records[i].file)} ({splits[i]})" for i in each[:4]))
    if len(across) > LISTED_GROUPS:
        log.info("  ... and %s more", f"{len(across) - LISTED_GROUPS:,}")
    return asdict(found)


def one_patient_each(records: Sequence[Record], groups: Sequence[int]) -> tuple[list[Record], list[str]]:
    """Give images without a patient the patient of another image of the same film.

    Returns the records, and for each the name of its group: patients who share a film are in one group, and a group
    stays in one split. Neither depends on the order of the records.
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
    patients = [record.patient for record in known]
    # Sorted, so that the lowest index of a group is its lowest name, whatever the order of the records.
    names = sorted({*patients, *(patient for patient, _ in pairs)})
    number = {name: i for i, name in enumerate(names)}
    group = groups_of(len(names), ((number[first], number[second]) for first, second in pairs))
    return known, [names[group[number[patient]]] for patient in patients]
