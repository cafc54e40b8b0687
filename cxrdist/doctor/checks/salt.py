"""The salt that hides patients: whether it is there, hidden, and that of the set. It is never shown."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from cxrdist.data.deidentify import Salt, default_salt_file, load_salt
from cxrdist.doctor.findings import Finding, error, ok, warning
from cxrdist.doctor.options import DoctorOptions
from cxrdist.errors import UserError

OTHERS = stat.S_IRWXO | stat.S_IWGRP
"""Permissions that give a salt away, or let it be replaced; the group may perhaps read it."""


def look(options: DoctorOptions) -> Iterator[Finding]:
    try:
        path = Path(options.salt_file) if options.salt_file else default_salt_file()
    except UserError as failure:
        yield warning(str(failure), "training needs no salt; imports of real radiographs do")
        return
    if not options.salt_file and not path.exists():
        yield ok(f"{path}: none yet; the first import of a real source makes it")
        yield from _of_set(options, None)
        return
    salt = load_salt(str(path))
    mode = path.stat().st_mode
    shown = f"{path}: mode {stat.S_IMODE(mode):o}"
    if mode & OTHERS:
        yield error(
            f"{shown}: others may read or replace it, and find out patients with it", f"chmod 600 {path}"
        )
    elif mode & stat.S_IRGRP:
        yield warning(f"{shown}: your group may read it, and find out patients with it", f"chmod 600 {path}")
    else:
        yield ok(f"{path}: there, and only yours; keep a copy in a safe place")
    yield from _of_set(options, salt)


def _of_set(options: DoctorOptions, salt: Salt | None) -> Iterator[Finding]:
    if options.shards is None:
        return
    from cxrdist.data.shards.shard_set import ShardSet

    provenance = ShardSet(options.shards).manifest.provenance
    fingerprint = provenance.salt_fingerprint
    if provenance.is_phantom:
        yield ok(f"{options.shards}: phantoms, whose salt is public")
    elif fingerprint is None:
        yield warning(
            f"{options.shards} does not say which salt it was made with",
            "training does not need it; `import --keep-split` and `shards merge` do",
        )
    elif salt is None or salt.fingerprint != fingerprint:
        yield warning(
            f"{options.shards} was made with another salt: training works, but imports with --keep-split and "
            "merges do not recognise its patients",
            "name the salt of the set with --salt-file",
        )
    else:
        yield ok(f"{options.shards} was made with this salt")
