"""The SQLite file: made once, refused if it is another's, and durable."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from cxrdist.errors import UserError
from cxrdist.synth.review.store import APPLICATION_ID, Store


def test_a_new_store_is_its_owners_alone_and_stays_the_same_store(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    first = Store(path, create=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = first.secret
    assert len(secret) == 32
    first.close()
    again = Store(path)
    assert again.secret == secret
    again.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["review.sqlite"]  # no log is left behind


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be opened \(unable to open .*must be writable"):
        Store(tmp_path)


def test_writes_are_logged_ahead_and_synced(store: Store) -> None:
    """FULL is 2: https://www.sqlite.org/pragma.html#pragma_synchronous"""
    assert [store.rows(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous")] == ["wal", 2]


def test_what_others_read_is_there(store: Store) -> None:
    columns = [row["name"] for row in store.rows("PRAGMA table_info(decision)")]
    assert columns == [
        *(
            "id",
            "reader",
            "task",
            "key",
            "origin",
            "class",
            "answer",
            "reason",
            "guessed_class",
            "confidence",
        ),
        *("seconds", "time", "position", "undone_at", "nonce"),
    ]
    assert [row["name"] for row in store.rows("PRAGMA table_info(meta)")] == ["name", "value"]


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction() as db:
        db.execute("INSERT INTO meta VALUES ('a', 'b')")
        raise ZeroDivisionError
    assert store.rows("SELECT * FROM meta") == []
    with store.transaction() as db:
        db.execute("INSERT INTO meta VALUES ('a', 'b')")
    assert [tuple(row) for row in store.rows("SELECT * FROM meta")] == [("a", "b")]


def test_a_writer_that_died_before_the_tables_leaves_a_file_that_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    path.touch()
    store = Store(path)
    assert store.rows("PRAGMA application_id")[0][0] == APPLICATION_ID
    store.close()


def test_other_files_are_refused_and_stay_as_they_are(tmp_path: Path) -> None:
    text, other, folder = tmp_path / "notes.txt", tmp_path / "other.sqlite", tmp_path / "folder"
    text.write_text("no database, but long enough to be one\n" * 100)
    folder.mkdir()
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine(a)")
    db.close()
    before = text.read_bytes(), other.read_bytes()
    with pytest.raises(UserError, match=r"notes\.txt: not a store of readings \(file is not a database\)"):
        Store(text, create=True)
    with pytest.raises(UserError, match=r"other\.sqlite: an SQLite file of another program"):
        Store(other, create=True)
    with pytest.raises(UserError, match="folder: cannot be opened"):
        Store(folder, create=True)
    assert (text.read_bytes(), other.read_bytes()) == before


def test_a_missing_store_and_a_missing_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such store: `cxrdist review readers add NAME"):
        Store(tmp_path / "review.sqlite")
    with pytest.raises(UserError, match="the folder does not exist"):
        Store(tmp_path / "none" / "review.sqlite", create=True)
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    Store(path, create=True).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(UserError, match="a store of version 2, of which this cxrdist reads 1"):
        Store(path)
