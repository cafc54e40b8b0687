"""De-identification: identifiers of patients and images become salted hashes; the salt is never stored in a set."""

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
AGE_CAP_YEARS = 90
"""Older ages are stored as this one: a higher age alone may identify a person (HIPAA, 45 CFR 164.514)."""
_IMPOSSIBLE_YEARS = 120
SALT_BYTES = 32

# A phantom is not a person, so everyone uses the same salt: then its keys and digests are the same everywhere.
PUBLIC_PHANTOM_SALT = b"cxrdist phantom: nobody to protect"


@dataclass(frozen=True)
class Salt:
    """Keyed hashing (HMAC-SHA-256, RFC 2104), cut to 24 hexadecimal digits (96 bits)."""

    secret: bytes
    source: str = ""
    """Name of the source, part of what is hashed: two hospitals may both have an ``img001`` and a patient 17."""

    def key(self, source_id: str) -> str:
        """The key of an image, its only name in a set."""
        return self._hash(b"image", self._named(source_id))

    def patient(self, patient_id: str) -> str:
        """The hash of a patient's identifier."""
        return self._hash(b"patient", self._named(patient_id))

    @property
    def fingerprint(self) -> str:
        """Equal for two sets that were made with the same salt; reveals nothing about the salt."""
        return self._hash(b"fingerprint", "")[:16]

    def _named(self, text: str) -> str:
        return f"{self.source}\0{text}" if self.source else text

    def _hash(self, purpose: bytes, text: str) -> str:
        message = purpose + b"\0" + text.encode()
        return hmac.digest(self.secret, message, "sha256").hex()[:HASH_DIGITS]


def capped_age(years: int) -> int | None:
    """An age in whole years as it is stored: at most 90, and None for an impossible age such as 414."""
    return min(years, AGE_CAP_YEARS) if years <= _IMPOSSIBLE_YEARS else None


def default_salt_file() -> Path:
    """The user's own salt file, under ``$XDG_CONFIG_HOME`` or ``~/.config``. Raises UserError for a user without a
    home folder."""
    if config := os.environ.get("XDG_CONFIG_HOME"):
        return Path(config) / "cxrdist" / "salt"
    try:
        return Path.home() / ".config" / "cxrdist" / "salt"
    except RuntimeError:
        raise UserError(
            "this user has no home folder for the salt of patient hashes: set HOME or XDG_CONFIG_HOME"
        ) from None


def make_salt(path: Path) -> None:
    """Create a salt file of mode 600. If another process creates it at the same time, the first one is kept."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:  # mode 600
        file.write(secrets.token_hex(SALT_BYTES).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
        # Unlike a rename, a link fails if the name exists: it never replaces a salt that a set was made with.
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)


def load_salt(salt_file: str | None) -> Salt:
    """The salt in ``salt_file``; by default the user's own, which is created if it does not exist.

    Raises UserError if ``salt_file`` does not exist, or a salt has fewer than 16 bytes.
    """
    path = Path(salt_file) if salt_file else default_salt_file()
    if not path.exists():
        if salt_file:
            raise UserError(
                f"{path}: no such salt file; make one with `head -c 32 /dev/urandom > {path}` and keep it secret"
            )
        try:
            make_salt(path)
        except OSError as error:
            raise UserError(
                f"{path}: your salt, which hides patients, cannot be created ({error.strerror}); name a file that "
                "holds one with --salt-file"
            ) from None
    secret = path.read_bytes().strip()
    if len(secret) < 16:
        raise UserError(f"{path}: a salt needs at least 16 bytes, and this one has {len(secret)}")
    return Salt(secret)
