"""In-place indexing beside external tars: which files in the folder are ours, to be written or removed.

A folder that is indexed in place is its owner's. Tars are never written or removed, and another file only if its
content, not its name alone, shows that an earlier import wrote it.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.shards.index import INDEX_DTYPE, index_name
from cxrdist.data.shards.schema import FORMAT, MANIFEST, is_name
from cxrdist.data.shards.writing.write_job import JOB_FILE, TABLE_FILE
from cxrdist.data.storage.store import Store
from cxrdist.errors import UserError
from cxrdist.files import is_temporary, sha256_bytes

INDEX_ENDING = index_name("")


def tars_of(importer: WebDataset) -> list[str]:
    """The tars of the folder itself. Raises UserError for one that cannot be part of a set."""
    tars = importer.tar_names()
    for tar in tars:
        where = Path(importer.root, tar)
        if "/" in tar:
            raise UserError(
                f"{where}: a set is one folder: index {where.parent} on its own, or remove --in-place"
            )
        if not is_name(tar) or not tar.endswith(".tar"):
            raise UserError(f"{where}: rename it to plain text that ends in .tar, or remove --in-place")
    return tars


def refuse_occupied_names(store: Store) -> None:
    """Raises UserError if a file that no import wrote has a name that the set needs.

    Files of an earlier import are overwritten.
    """
    taken = [name for name in store.names() if name.endswith(INDEX_ENDING) and not is_our_index(store, name)]
    if store.exists(MANIFEST) and not is_our_manifest(store.read(MANIFEST)):
        taken.append(MANIFEST)
    if taken:
        raise UserError(
            f"{store}/{taken[0]}: no import wrote this file, and the set needs its name; move it elsewhere"
        )


def is_our_index(store: Store, name: str) -> bool:
    """True for an index of a shard set, by its dtype."""
    try:
        return np.lib.format.read_array(io.BytesIO(store.read(name)), allow_pickle=False).dtype == INDEX_DTYPE
    except Exception:  # numpy may raise nearly anything for untrusted bytes
        return False


def is_our_manifest(data: bytes) -> bool:
    """True for the manifest of a shard set, even a damaged one."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        return FORMAT.encode() in data
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def is_our_table(store: Store, name: str) -> bool:
    """True for a shard table, by the digest in its name."""
    return bool(TABLE_FILE.fullmatch(name)) and sha256_bytes(store.read(name))[:12] == name.split(".")[-2]


def remove_own_temporaries(store: Store) -> None:
    """Remove temporary files of an unfinished job of ours; none if there is no job file.

    Other files of the folder's owner may have names of the same form.
    """
    if not store.exists(JOB_FILE):
        return
    names = store.names()
    own = {JOB_FILE, MANIFEST, *(index_name(name) for name in names if name.endswith(".tar"))}
    for name in names:
        written = name[1:].rsplit(".", 2)[0]
        if is_temporary(name) and (written in own or TABLE_FILE.fullmatch(written)):
            store.remove(name)


def remove_own_leftovers(store: Store, named: set[str]) -> None:
    """Remove indexes and tables of an earlier run that are not ``named``, just before the manifest is written."""
    for name in store.names():
        is_ours = is_our_index(store, name) if name.endswith(INDEX_ENDING) else is_our_table(store, name)
        if is_ours and name not in named:
            store.remove(name)
