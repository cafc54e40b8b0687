"""Stores of decisions, as ``cxrdist review serve`` leaves them, written by hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path

SYNTHETIC, REAL = "b" * 64, "a" * 64
TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE decision(id INTEGER PRIMARY KEY, reader TEXT, task TEXT, key TEXT, origin TEXT, class TEXT, answer TEXT,
    reason TEXT, guessed_class TEXT, confidence INTEGER, seconds REAL, time TEXT, position INTEGER, undone_at TEXT);
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table decision; its id and position are its number."""

    reader: str
    task: str
    key: str
    origin: str
    class_name: str
    answer: str
    reason: str | None = None
    guessed_class: str | None = None
    confidence: int | None = None
    seconds: float | None = 2.0
    time: str = "2026-03-01T10:00:00+00:00"


def curated(reader: str, key: str, answer: str, class_name: str = "Normal", **others: object) -> Row:
    return Row(
        reader=reader,
        task="curate",
        key=key,
        origin="synthetic",
        class_name=class_name,
        answer=answer,
        **others,  # type: ignore[arg-type]
    )


def blinded(reader: str, key: str, origin: str, answer: str, confidence: int | None, **others: object) -> Row:
    row = {"class_name": "Normal", "guessed_class": "Normal", **others}
    return Row(
        reader=reader,
        task="blinded",
        key=key,
        origin=origin,
        answer=answer,
        confidence=confidence,
        **row,  # type: ignore[arg-type]
    )


def write_store(
    path: Path, rows: Sequence[Row], undone: Sequence[Row] = (), synthetic_digest: str = SYNTHETIC
) -> Path:
    """``undone``: decisions that were taken back."""
    meta = {
        "synthetic_digest": synthetic_digest,
        "real_digest": REAL,
        "seed": "0",
        "share_real": "0.5",
        "overlap": "0.2",
        "split": "val",
        "created": "2026-03-01T09:00:00+00:00",
    }
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(TABLES)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        given = [(row, None) for row in rows] + [(row, "2026-03-01T11:00:00+00:00") for row in undone]
        for number, (row, undone_at) in enumerate(given, start=1):
            values = (number, *astuple(row), number, undone_at)
            connection.execute(f"INSERT INTO decision VALUES ({', '.join('?' * len(values))})", values)
    return path


def change(store: Path, sql: str) -> Path:
    """Run a statement on a store; returns its path."""
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute(sql)
    return store
