"""Names and numbers of people and images become salted hashes; the salt never lies in a set."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cxrdist.errors import UserError

HASH_DIGITS = 24
OLDEST_TOLD_YEARS = 90
"""From here up an age alone may tell who a person is."""
_IMPOSSIBLE_YEARS = 120
SALT_BYTES = 32

# A phantom is nobody, so its keys may be the same for everyone: then its digest is, too.
PUBLIC_PHANTOM_SALT = b"cxrdist phantom: nobody to protect"


@dataclass(frozen=True)
class Salt:
    """Keyed hashing (HMAC-SHA-256, RFC 2104), cut to 24 hexadecimal digits (96 bits)."""

    secret: bytes

    def key(self, source_id: str) -> str:
        """The key of an image: the only name that it has in a set."""
        return self._hash(b"image", source_id)

    def patient(self, patient_id: str) -> str:
        return self._hash(b"patient", patient_id)

    @property
    def fingerprint(self) -> str:
        """Tells whether two sets were made with one salt; says nothing about the salt."""
        return self._hash(b"fingerprint", "")[:16]

    def _hash(self, purpose: bytes, text: str) -> str:
        message = purpose + b"\0" + text.encode()
        return hmac.digest(self.secret, message, "sha256").hex()[:HASH_DIGITS]


def told_age(years: int) -> int | None:
    """Whole years as they are stored: ages from 90 up as 90; None for a typing error such as 414."""
    return min(years, OLDEST_TOLD_YEARS) if years <= _IMPOSSIBLE_YEARS else None


def default_salt_file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "cxrdist" / "salt"


def make_salt(path: Path) -> None:
    """A new salt, mode 600, unless another process makes one at the same time: the first one stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:  # mode 600
        file.write(secrets.token_hex(SALT_BYTES).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
        # A link, unlike a rename, fails where the name is taken: no salt is lost that a set was made with.
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)


def load_salt(salt_file: str | None) -> Salt:
    """The salt in ``salt_file``, else the user's own, made once with mode 600.

    Raises UserError where the named file is missing or holds fewer than 16 bytes.
    """
    path = Path(salt_file) if salt_file else default_salt_file()
    if not path.exists():
        if salt_file:
            raise UserError(
                f"{path}: no such salt file; make one with `head -c 32 /dev/urandom > {path}` and keep it secret"
            )
        make_salt(path)
    secret = path.read_bytes().strip()
    if len(secret) < 16:
        raise UserError(f"{path}: a salt needs at least 16 bytes; this one has {len(secret)}")
    return Salt(secret)
