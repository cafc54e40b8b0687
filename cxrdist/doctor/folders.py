"""The file system that a folder lies on."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
NETWORK = (
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "cifs",
    "smb3",
    "ceph",
    "glusterfs",
    "9p",
    "fuse.sshfs",
    "afs",
)
IN_MEMORY = ("tmpfs", "ramfs")
PREFIX = ".doctor-"
"""Of the names of files that checks write and remove again."""


@dataclass(frozen=True)
class Mount:
    folder: str
    kind: str
    """Its type, such as ext4 or nfs4."""
    options: tuple[str, ...]

    @property
    def is_network(self) -> bool:
        return self.kind in NETWORK


def mount_of(folder: Path) -> Mount | None:
    """The file system that a folder lies on; None where the kernel does not say."""
    if not MOUNTS.is_file():
        return None
    real = os.path.realpath(folder)
    found: Mount | None = None
    for line in MOUNTS.read_text().splitlines():
        _, place, kind, options, *_ = line.split(" ")
        place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)
        is_above = real == place or real.startswith(place.rstrip("/") + "/")
        # Of two mounts on one folder the later one is seen.
        if is_above and (found is None or len(place) >= len(found.folder)):
            found = Mount(place, kind, tuple(options.split(",")))
    return found
