"""The store of a reading: one SQLite file with its terms, its readers, their sessions and every decision.

Other programs may read it while a server writes it (write-ahead log).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cxrdist.errors import UserError

APPLICATION_ID = int.from_bytes(b"cxrr", "big")
VERSION = 1
BUSY_S = 10.0
SCHEMA = (
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE secret(value BLOB NOT NULL)",
    "CREATE TABLE reader(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, salt BLOB NOT NULL, hash BLOB NOT NULL,"
    " created TEXT NOT NULL, seed INTEGER NOT NULL)",
    "CREATE TABLE session(digest TEXT PRIMARY KEY, used_s REAL NOT NULL,"
    " reader INTEGER NOT NULL REFERENCES reader(id) ON DELETE CASCADE)",
    "CREATE TABLE decision(id INTEGER PRIMARY KEY, reader TEXT NOT NULL,"
    " task TEXT NOT NULL CHECK (task IN ('curate', 'blinded')), key TEXT NOT NULL,"
    " origin TEXT NOT NULL CHECK (origin IN ('real', 'synthetic')), class TEXT NOT NULL,"
    " answer TEXT NOT NULL CHECK (answer IN ('keep', 'remove', 'unsure', 'real', 'synthetic')), reason TEXT,"
    " guessed_class TEXT, confidence INTEGER CHECK (confidence BETWEEN 1 AND 5), seconds REAL NOT NULL,"
    " time TEXT NOT NULL, position INTEGER NOT NULL, undone_at TEXT, nonce TEXT NOT NULL UNIQUE)",
    "CREATE UNIQUE INDEX one_decision ON decision(reader, task, key) WHERE undone_at IS NULL",
)


class Store:
    """A connection that threads take turns with. A transaction is on the disk when it ends (synchronous=FULL)."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the file, or create it (mode 600). Raises UserError if it is missing, or no store of a reading."""
        self.path = path
        self._turn = threading.RLock()
        _make_file(path, create=create)
        try:
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._prepare()
        except sqlite3.OperationalError as error:  # read only, full, or locked
            raise UserError(f"{path}: cannot be opened ({error}): file and folder must be writable") from None
        except sqlite3.Error as error:
            raise UserError(f"{path}: not a store of readings ({error}): give another --store") from None

    def _prepare(self) -> None:
        # Before the first change: a file of another program stays as it is.
        if self._pragma("application_id") != APPLICATION_ID and self._tables():
            raise UserError(f"{self.path}: an SQLite file of another program: give another --store")
        self._pragma("journal_mode = WAL")
        self._pragma("synchronous = FULL")
        self._pragma("foreign_keys = ON")
        with self.transaction():
            if not self._tables():
                for statement in SCHEMA:
                    self._db.execute(statement)
                self._db.execute("INSERT INTO secret VALUES (?)", (secrets.token_bytes(32),))
                self._pragma(f"application_id = {APPLICATION_ID}")
                self._pragma(f"user_version = {VERSION}")
        if (version := self._pragma("user_version")) != VERSION:
            raise UserError(
                f"{self.path}: a store of version {version}, of which this cxrdist reads {VERSION}: "
                "use the version of cxrdist that wrote it, or give another --store"
            )

    def _tables(self) -> int:
        return int(self.rows("SELECT count(*) FROM sqlite_master")[0][0])

    def _pragma(self, words: str) -> Any:
        found = self._db.execute(f"PRAGMA {words}").fetchone()
        return found[0] if found else None

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._turn:
            return self._db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing of what the block writes, and no other writer in between."""
        with self._turn:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @property
    def secret(self) -> bytes:
        """32 bytes that tokens of images and forms are made with."""
        return bytes(self.rows("SELECT value FROM secret")[0][0])

    def close(self) -> None:
        with self._turn:
            self._db.close()


def _make_file(path: Path, *, create: bool) -> None:
    if path.exists():
        return
    if not create:
        raise UserError(f"{path}: no such store: `cxrdist review readers add NAME --store {path}` makes one")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: the folder does not exist")
    # Names of readers and hashes of pass phrases are their owner's alone.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def now() -> str:
    """The time as ISO 8601 in UTC, such as ``2025-01-31T08:15:30.250Z``."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
