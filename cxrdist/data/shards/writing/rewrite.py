"""Change the manifest of a finished set; its tars and indexes stay as they are.

    lock -> leftovers of a killed change removed -> new tables, files of removed samples -> manifest.json
         -> files that it does not name removed -> lock released

Only the manifest makes a change: killed before it is replaced, the set is the old one with a file too many, and
killed after it, the new one with a file too many. The next change removes such files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from cxrdist.data.shards.manifest import (
    Manifest,
    Provenance,
    Stratum,
    StratumEntry,
    read_manifest,
    write_manifest,
)
from cxrdist.data.shards.removed import Reason, without
from cxrdist.data.shards.writing.write_job import (
    REMOVED_FILE,
    TABLE_FILE,
    WRITES,
    remove_all_but,
    tables_of,
)
from cxrdist.data.storage.store import Store, locked
from cxrdist.errors import UserError


@contextlib.contextmanager
def changing(store: Store) -> Iterator[Manifest]:
    """Lock a finished set for the ``with`` block and yield its manifest. Tables and files of removed samples that the
    manifest does not name are removed before the block (a killed change left them) and after it.

    An object store has no locks: change a set there from one process at a time. Raises UserError if there is no set,
    if another process writes it, and for tars that were indexed in place.
    """
    if read_manifest(store).is_external:
        raise UserError(
            f"{store}: indexed in place, so its folder is not cxrdist's own; make a set of its own of it first "
            f"(`cxrdist shards convert {store}`)"
        )
    with locked(store, WRITES):
        manifest = read_manifest(store)
        store.tidy()
        _remove_unnamed(store, manifest)
        try:
            yield manifest
        finally:
            _remove_unnamed(store, read_manifest(store))


def rewrite_manifest(
    store: Store,
    manifest: Manifest,
    *,
    strata: Sequence[StratumEntry] | None = None,
    provenance: Provenance | None = None,
) -> Manifest:
    """Replace the manifest of a set by one with other strata or another provenance; returns it. What the new strata
    name is already written.

    To be called within ``changing``, with the manifest that it yields. Raises UserError, with the set as it was, if
    it was changed meanwhile, and for values that readers refuse.
    """
    if read_manifest(store).digest != manifest.digest:
        raise UserError(f"{store}: another process has just changed it; run the same command again")
    return write_manifest(
        store,
        classes=manifest.classes,
        image_size=manifest.image_size,
        encoding=manifest.encoding,
        strata=manifest.strata if strata is None else strata,
        provenance=provenance or manifest.provenance,
        lineage=manifest.lineage,
    )


def remove_samples(
    store: Store, manifest: Manifest, reasons: Mapping[Stratum, Mapping[str, Reason]], *, by: str
) -> Manifest:
    """Remove samples, ``{stratum: {key: reason}}``, from a set: writes the files that name them and the manifest,
    which remembers the earlier digest and ``by``; returns the manifest, the same one if there are no samples.

    To be called within ``changing``, with the manifest that it yields. Raises UserError, with the set as it was, for
    a key that is not in its stratum or was removed before, and if a stratum would be left empty.
    """
    count = sum(len(of_stratum) for of_stratum in reasons.values())
    if not count:
        return manifest
    strata = [without(store, entry, reasons.get(entry.stratum, {})) for entry in manifest.strata]
    edit = {"from": manifest.digest, "removed": count, "by": by}
    edited = [*(manifest.provenance.json_value().get("edited") or []), edit]
    return rewrite_manifest(
        store, manifest, strata=strata, provenance=manifest.provenance.updated({"edited": edited})
    )


def _remove_unnamed(store: Store, manifest: Manifest) -> None:
    """Remove tables and files of removed samples that a manifest does not name; tars and indexes are left alone."""
    remove_all_but(store, tables_of(manifest.strata), (TABLE_FILE, REMOVED_FILE))
