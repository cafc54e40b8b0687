"""Readers by name and pass phrase."""

from __future__ import annotations

import getpass
import hashlib
import hmac
import os
import sqlite3
import sys
import unicodedata
from dataclasses import dataclass

from cxrdist.errors import UserError, is_plain
from cxrdist.seeds import derive
from cxrdist.synth.review.store import Store, now

COST = {"n": 2**15, "r": 8, "p": 3, "maxmem": 2**26}
"""Of scrypt: 32 MiB and about a quarter of a second, as the OWASP Password Storage Cheat Sheet advises."""
MIN_CHARACTERS = 8
MAX_CHARACTERS = 1000
MAX_NAME_CHARACTERS = 60


@dataclass(frozen=True)
class Reader:
    """Somebody who judges images."""

    id: int
    name: str
    seed: int
    """Of the order in which this reader sees images."""


def add(store: Store, name: str, phrase: str) -> None:
    """Raises UserError for a name that is taken or cannot be shown, and for a short pass phrase."""
    if not name.strip() or name != name.strip() or len(name) > MAX_NAME_CHARACTERS or not is_plain(name):
        raise UserError(
            f"{name[:MAX_NAME_CHARACTERS]!r}: a reader's name has 1 to {MAX_NAME_CHARACTERS} characters, without "
            "control characters and blanks around it"
        )
    if not MIN_CHARACTERS <= len(phrase) <= MAX_CHARACTERS:
        raise UserError(
            f"the pass phrase has {len(phrase)} characters: it needs {MIN_CHARACTERS} to {MAX_CHARACTERS}"
        )
    salt = os.urandom(16)
    values = (name, salt, _hash(phrase, salt), now(), derive(0, "reader", name))
    try:
        with store.transaction() as db:
            db.execute("INSERT INTO reader(name, salt, hash, created, seed) VALUES (?, ?, ?, ?, ?)", values)
    except sqlite3.IntegrityError:
        raise UserError(f"{store.path} has a reader {name} already: choose another name") from None


def remove(store: Store, name: str) -> None:
    """The reader can no longer sign in; decisions stay. Raises UserError for an unknown name."""
    with store.transaction() as db:
        if db.execute("DELETE FROM reader WHERE name = ?", (name,)).rowcount == 0:
            known = ", ".join(reader.name for reader in readers(store)) or "nobody"
            raise UserError(f"{store.path} has no reader {name!r}, but {known}")


def readers(store: Store) -> list[Reader]:
    """All of them, in the order they were added."""
    return [Reader(*row) for row in store.rows("SELECT id, name, seed FROM reader ORDER BY id")]


def signed_in(store: Store, name: str, phrase: str) -> Reader | None:
    """The reader of a name and pass phrase; None if they do not fit. Takes as long for a name that nobody has."""
    rows = store.rows("SELECT id, name, seed, salt, hash FROM reader WHERE name = ?", name)
    salt, expected = (rows[0]["salt"], rows[0]["hash"]) if rows else (bytes(16), bytes(32))
    is_right = hmac.compare_digest(_hash(phrase, salt), expected)
    return Reader(*rows[0][:3]) if is_right and rows else None


def _hash(phrase: str, salt: bytes) -> bytes:
    # NFKC: an umlaut may be one code point on one keyboard and two on another.
    text = unicodedata.normalize("NFKC", phrase).encode()
    return hashlib.scrypt(text, salt=salt, dklen=32, **COST)


def asked_phrase() -> str:
    """The pass phrase, typed twice on a terminal, or the first line of stdin. Raises UserError if the two differ."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    phrase = getpass.getpass("Pass phrase: ")
    if getpass.getpass("The same again: ") != phrase:
        raise UserError("the two pass phrases differ: nothing was changed")
    return phrase
