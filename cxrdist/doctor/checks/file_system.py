"""The file system of the run folder: what it is, and whether locks and renames work there."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cxrdist.doctor.findings import Finding, error, ok, warning
from cxrdist.doctor.folders import IN_MEMORY, PREFIX, Mount, mount_of
from cxrdist.doctor.options import DoctorOptions
from cxrdist.files import nearest_folder


def look(options: DoctorOptions) -> Iterator[Finding]:
    if Path(options.run).exists() and not Path(options.run).is_dir():
        yield error(f"{options.run} is a file", "give a folder with --run")
        return
    folder = nearest_folder(options.run)
    named = (
        f"{options.run}" if folder == Path(options.run).absolute() else f"{options.run} (made in {folder})"
    )
    if not os.access(folder, os.W_OK | os.X_OK):
        yield error(
            f"{named}: not writable by this user", "give another --run, or have its permissions changed"
        )
        return
    mount = mount_of(folder)
    if mount is not None:
        yield from _kind(named, mount)
    # In a folder of its own: a run folder may hold nothing else.
    with tempfile.TemporaryDirectory(dir=folder, prefix=PREFIX) as own:
        yield from _locks(named, Path(own))
        yield from _renames(named, Path(own))


def _kind(named: str, mount: Mount) -> Iterator[Finding]:
    if mount.kind in IN_MEMORY:
        yield warning(
            f"{named} lies in memory ({mount.kind} on {mount.folder}): a reboot, or the end of a job, removes it",
            "give a --run on a disk",
        )
    elif mount.kind == "overlay":
        yield warning(
            f"{named} lies in the container's own layer: it is removed with the container",
            "mount a folder of the host, and give a --run in it",
        )
    elif mount.is_network:
        yield ok(f"{named} lies on a network file system ({mount.kind} on {mount.folder})")
    else:
        yield ok(
            f"{named} lies on this machine's {mount.kind} ({mount.folder}): other machines do not see it"
        )
    # What NFS and Lustre call locks that other machines do not see.
    local = {"nolock", "localflock", "local_lock=all", "local_lock=flock"} & {*mount.options}
    if mount.is_network and local:
        yield error(
            f"{mount.folder} is mounted with {', '.join(sorted(local))}: two machines could write one run",
            "mount it without, or start each run from one machine only",
        )


def _locks(named: str, folder: Path) -> Iterator[Finding]:
    """A second open file must not get the lock, as that of another process."""
    path = folder / "lock"
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for _ in range(2))
    try:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failure:
            yield error(
                f"{named}: no locks here ({failure.strerror}), and every job locks its folder",
                "mount it with locks (lustre: -o flock; NFS: a running lockd), or give another --run",
            )
            return
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failure:
            if failure.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            yield ok("locks work")
        else:
            yield error(
                f"{named}: two holders got one lock: two jobs could write one run", "give another --run"
            )
    finally:
        os.close(first)
        os.close(second)


def _renames(named: str, folder: Path) -> Iterator[Finding]:
    """A rename replaces a file at once, and a hard link refuses a name that is taken (files.py, deidentify.py)."""
    old, new = folder / "old", folder / "new"
    old.write_text("old")
    with new.open("x") as file:
        file.write("new")
        file.flush()
        os.fsync(file.fileno())
    new.replace(old)
    if old.read_text() == "new" and not new.exists():
        yield ok("renames replace files, as checkpoints need it")
    else:
        yield error(f"{named}: a rename did not replace a file", "give another --run")
