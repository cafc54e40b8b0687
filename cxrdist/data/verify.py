"""Everything that can be wrong with a shard set, found by reading all of it."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

from cxrdist.data.images import UndecodableImage, decode
from cxrdist.data.manifest import MANIFEST, Stratum, counts_of, index_bytes, read_table
from cxrdist.data.shards import ShardSet, index_path, index_rows
from cxrdist.errors import UserError
from cxrdist.files import sha256_bytes, sha256_file
from cxrdist.progress import Progress


def verify(folder: Path) -> list[str]:
    """What is wrong, a line each; empty where the set is as it was written.

    Raises UserError where there is no set at all.
    """
    if not (folder / MANIFEST).exists():
        ShardSet(folder)
    try:
        shards = ShardSet(folder)
    except UserError as error:
        return [str(error)]
    found: list[str] = []
    known = {MANIFEST}
    keys: Counter[str] = Counter()
    splits_of_patient: dict[str, set[str]] = {}
    images = sum(entry["samples"] for entry in shards.manifest["strata"])
    with Progress(f"verify {folder}", images) as progress:
        for entry in shards.manifest["strata"]:
            known.add(entry["table"])
            try:
                table = read_table(folder, entry)
            except UserError as error:
                found.append(str(error))
                continue
            for row in table:
                path = folder / row["name"]
                known |= {path.name, index_path(path).name}
                rows, problems = check_shard(path, row, entry, shards)
                found += problems
                for key, *_, patient in rows:
                    keys[key] += 1
                    if patient:
                        splits_of_patient.setdefault(patient, set()).add(entry["split"])
                progress.advance(row["samples"])
            if sum(row["samples"] for row in table) != entry["samples"]:
                found.append(
                    f"{entry['table']}: its samples do not add up to the manifest's {entry['samples']}"
                )
    found += [f"key {key} stands {n} times" for key, n in keys.items() if n > 1]
    found += [
        f"patient {patient} is in {' and '.join(sorted(splits))}"
        for patient, splits in sorted(splits_of_patient.items())
        if len(splits) > 1
    ]
    found += [
        f"{name}: a file that no table names"
        for name in sorted(p.name for p in folder.iterdir())
        if name not in known
    ]
    if counts_of(shards.manifest["strata"], shards.classes) != shards.manifest["counts"]:
        found.append(f"{MANIFEST}: its counts are not those of its strata")
    return found


def check_shard(
    path: Path, row: dict[str, Any], entry: dict[str, Any], shards: ShardSet
) -> tuple[list[tuple[Any, ...]], list[str]]:
    """The index rows of a tar, as far as it can be read, and what is wrong: tar and index against the table,
    the index against the tar, each image against the set."""
    found = []
    index = index_path(path)
    for file, digest in ((path, row["sha256"]), (index, row["index_sha256"])):
        if not file.exists():
            found.append(f"{file.name}: missing")
        elif sha256_file(file) != digest:
            found.append(f"{file.name}: changed since it was written")
    if not path.exists():
        return [], found
    stratum = Stratum(entry["split"], entry["class"], entry["origin"])
    encoding = shards.manifest["encoding"]
    try:
        rows = index_rows(path, stratum, shards.classes.index(entry["class"]), encoding)
    except (UserError, tarfile.TarError, ValueError) as error:
        return [], [*found, f"{path.name}: {error}"]
    if sha256_bytes(index_bytes(rows)) != row["index_sha256"]:
        found.append(f"{index.name}: not the index of {path.name}")
    if len(rows) != row["samples"]:
        found.append(f"{path.name}: {len(rows)} samples, not {row['samples']}")
    with path.open("rb") as tar:
        for key, _, _, _, offset, length, _, _ in rows:
            tar.seek(offset)
            try:
                decode(tar.read(length), encoding, shards.image_size)
            except UndecodableImage as error:
                found.append(f"{path.name}: sample {key} at byte {offset}: {error}")
    return rows, found
