"""Who is signed in: the cookie is random, and the store keeps its digest, so sessions outlive the server."""

from __future__ import annotations

import secrets
import time

from cxrdist.files import sha256_bytes
from cxrdist.synth.review.readers import Reader
from cxrdist.synth.review.store import Store

LASTS_S = 12 * 3600
"""Without a request, a session ends after this time."""
NOTED_EVERY_S = 60


def begin(store: Store, reader: Reader) -> str:
    """Sign a reader in; returns the value of the cookie."""
    value = secrets.token_urlsafe(32)
    with store.transaction() as db:
        db.execute("DELETE FROM session WHERE used_s < ?", (time.time() - LASTS_S,))
        db.execute("INSERT INTO session VALUES (?, ?, ?)", (_digest(value), time.time(), reader.id))
    return value


def reader_of(store: Store, value: str) -> Reader | None:
    """The reader of a cookie; None if it is unknown or its session has ended."""
    found = store.rows(
        "SELECT reader.id, name, seed, used_s FROM session JOIN reader ON reader.id = session.reader"
        " WHERE digest = ?",
        _digest(value),
    )
    age_s = time.time() - found[0]["used_s"] if found else LASTS_S
    if age_s >= LASTS_S:
        return None
    if age_s > NOTED_EVERY_S:
        with store.transaction() as db:
            db.execute("UPDATE session SET used_s = ? WHERE digest = ?", (time.time(), _digest(value)))
    return Reader(*found[0][:3])


def end(store: Store, value: str) -> None:
    with store.transaction() as db:
        db.execute("DELETE FROM session WHERE digest = ?", (_digest(value),))


def _digest(value: str) -> str:
    return sha256_bytes(value.encode())
