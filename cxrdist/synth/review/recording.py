"""Write decisions to the store, once each, and take them back."""

from __future__ import annotations

import sqlite3
import statistics
from dataclasses import astuple, dataclass

from cxrdist.synth.review.store import Store, now

TASKS = ("curate", "blinded")
ANSWERS = {"curate": ("keep", "remove", "unsure"), "blinded": ("real", "synthetic")}
OTHER = "other"
REASONS = (
    "not a chest radiograph",
    "impossible anatomy",
    "artefact or noise",
    "sign of the class is missing",
    "blurred, no detail",
    OTHER,
)
"""Why an image is removed. ``other`` needs words of the reader's own."""
RECENT = 20
"""Decisions that the time per image is estimated from."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a reader said of an image; see docs/review.md for the columns."""

    reader: str
    task: str
    key: str
    origin: str
    class_name: str
    answer: str
    reason: str | None = None
    guessed_class: str | None = None
    confidence: int | None = None
    seconds: float
    position: int
    nonce: str
    """Chosen by the page for each image that it shows: a request that arrives twice has the same."""


def record(store: Store, decision: Decision) -> None:
    """Write a decision; it is on the disk when this returns. Does nothing if it was written before, even if it was
    taken back since, or if the reader has judged this image already."""
    values = astuple(decision)
    try:
        with store.transaction() as db:
            db.execute(
                "INSERT INTO decision(reader, task, key, origin, class, answer, reason, guessed_class, confidence,"
                f" seconds, position, nonce, time) VALUES ({', '.join('?' * (len(values) + 1))})",
                (*values, now()),
            )
    except sqlite3.IntegrityError as error:
        if "UNIQUE" not in str(error):
            raise


def undo(store: Store, reader: str, task: str, nonce: str) -> None:
    """Take a decision of this reader back: its row stays, with the time. A second time changes nothing."""
    with store.transaction() as db:
        db.execute(
            "UPDATE decision SET undone_at = ? WHERE reader = ? AND task = ? AND nonce = ? AND undone_at IS NULL",
            (now(), reader, task, nonce),
        )


def is_known(store: Store, reader: str, nonce: str) -> bool:
    """True if a request of this reader was recorded before."""
    return bool(store.rows("SELECT 1 FROM decision WHERE reader = ? AND nonce = ?", reader, nonce))


def judged(store: Store, reader: str, task: str, *, even_if_undone: bool = False) -> set[str]:
    """Keys of the images that a reader has judged."""
    undone = "" if even_if_undone else " AND undone_at IS NULL"
    rows = store.rows(f"SELECT key FROM decision WHERE reader = ? AND task = ?{undone}", reader, task)
    return {row["key"] for row in rows}


def judged_by_others(store: Store, reader: str, task: str) -> set[str]:
    """Keys of the images that anybody else has judged."""
    rows = store.rows(
        "SELECT DISTINCT key FROM decision WHERE reader != ? AND task = ? AND undone_at IS NULL", reader, task
    )
    return {row["key"] for row in rows}


def last_decided(store: Store, reader: str, task: str) -> tuple[str, str] | None:
    """Key and nonce of the decision that undo would take back."""
    rows = store.rows(
        "SELECT key, nonce FROM decision WHERE reader = ? AND task = ? AND undone_at IS NULL"
        " ORDER BY id DESC LIMIT 1",
        reader,
        task,
    )
    return (rows[0]["key"], rows[0]["nonce"]) if rows else None


def seconds_per_image(store: Store, reader: str, task: str) -> float | None:
    """Median of the reader's last decisions; None without any."""
    rows = store.rows(
        "SELECT seconds FROM decision WHERE reader = ? AND task = ? AND undone_at IS NULL ORDER BY id DESC LIMIT ?",
        reader,
        task,
        RECENT,
    )
    return statistics.median(row["seconds"] for row in rows) if rows else None
