"""A folder of others' tars that is being made a set: which files in it are ours, to be written or removed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from cxrdist.console import say
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.shards.manifest import FORMAT, INDEX_DTYPE, MANIFEST
from cxrdist.data.shards.schema import is_name
from cxrdist.data.shards.tar import index_name
from cxrdist.data.shards.write_job import JOB_FILE, TABLE_FILE, check_same_job, job_of
from cxrdist.data.storage.store import Store, write_to
from cxrdist.errors import UserError
from cxrdist.files import canonical_json, is_temporary, sha256_bytes

INDEX_ENDING = index_name("")


def tars_of(importer: WebDataset) -> list[str]:
    """The tars of the folder itself. Raises UserError for one that no set can name."""
    tars = importer.tar_names()
    for tar in tars:
        where = Path(importer.root, tar)
        if "/" in tar:
            raise UserError(
                f"{where}: a set is one folder: index {where.parent} on its own, or leave --in-place away"
            )
        if not is_name(tar) or not tar.endswith(".tar"):
            raise UserError(f"{where}: rename it to plain text that ends in .tar, or leave --in-place away")
    return tars


def refuse_strangers(store: Store) -> None:
    """Raises UserError where a file of somebody else's has a name that the set needs; its own of an earlier import
    are written anew."""
    taken = [name for name in store.names() if name.endswith(INDEX_ENDING) and not is_our_index(store, name)]
    if store.exists(MANIFEST) and not is_our_manifest(store.read(MANIFEST)):
        taken.append(MANIFEST)
    if taken:
        raise UserError(f"{store}/{taken[0]}: a file of somebody else's stands in the way; move it elsewhere")


def is_our_index(store: Store, name: str) -> bool:
    try:
        return np.lib.format.read_array(io.BytesIO(store.read(name)), allow_pickle=False).dtype == INDEX_DTYPE
    except Exception:  # on foreign bytes it may raise nearly anything
        return False


def is_our_manifest(data: bytes) -> bool:
    """Whether it is one of ours, damaged perhaps."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        return FORMAT.encode() in data
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def is_our_table(store: Store, name: str) -> bool:
    """Whether a file of this name is a shard table, named by its digest."""
    return bool(TABLE_FILE.fullmatch(name)) and sha256_bytes(store.read(name))[:12] == name.split(".")[-2]


def begin(store: Store, provenance: dict[str, Any]) -> None:
    """Mark the folder as this job's. Raises UserError where it is another's."""
    if store.exists(JOB_FILE):
        check_same_job(store, job_of(store), provenance)
        say(f"{store}: going on with an unfinished set")
        remove_own_temporaries(store)
        return
    write_to(store, JOB_FILE, canonical_json(provenance))


def remove_own_temporaries(store: Store) -> None:
    """What a killed run of this job left; files of the owner may have names of the same form."""
    names = store.names()
    own = {JOB_FILE, MANIFEST, *(index_name(name) for name in names if name.endswith(".tar"))}
    for name in names:
        written = name[1:].rsplit(".", 2)[0]
        if is_temporary(name) and (written in own or TABLE_FILE.fullmatch(written)):
            store.remove(name)


def remove_leftovers(store: Store, named: set[str]) -> None:
    """Before the manifest is written: remove indexes and tables of an earlier run, which saw other tars. Never a tar:
    it may be called like one of ours."""
    for name in store.names():
        is_ours = is_our_index(store, name) if name.endswith(INDEX_ENDING) else is_our_table(store, name)
        if is_ours and name not in named:
            store.remove(name)
