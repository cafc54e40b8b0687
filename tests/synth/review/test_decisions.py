"""Reading a store: what counts, and stores that are refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cxrdist.errors import UserError
from cxrdist.synth.review.decisions import read_decisions
from tests.helpers.review_stores import REAL, SYNTHETIC, Row, blinded, change, curated, write_store

ROWS = (
    blinded("Bo", "k1", "real", "synthetic", 4, time="2026-03-01T12:00:00+02:00"),
    curated("Ann", "s1", "remove", reason="blurred"),
    curated("Ann", "s2", "keep", reason=""),
)


def test_decisions_that_were_taken_back_stand_apart(tmp_path: Path) -> None:
    undone = [curated("Ann", "s2", "unsure")]
    reading = read_decisions(write_store(tmp_path / "a store?#.sqlite", ROWS, undone))
    assert reading.readers == ("Ann", "Bo")
    assert [(d.reader, d.key, d.answer, d.reason) for d in reading.decisions] == [
        ("Ann", "s1", "remove", "blurred"),
        ("Ann", "s2", "keep", None),
        ("Bo", "k1", "synthetic", None),
    ]
    assert [d.answer for d in reading.taken_back] == ["unsure"]
    assert [d.key for d in reading.of("curate", "Ann")] == ["s1", "s2"] and reading.of("curate", "Bo") == ()
    assert reading.decisions[2].moment.isoformat() == "2026-03-01T10:00:00+00:00"
    assert reading.meta == {
        "synthetic_digest": SYNTHETIC,
        "real_digest": REAL,
        "seed": "0",
        "share_real": "0.5",
        "overlap": "0.2",
        "created": "2026-03-01T09:00:00+00:00",
        "split": "val",
    }
    change(tmp_path / "a store?#.sqlite", "DELETE FROM meta WHERE name = 'overlap'")
    assert read_decisions(tmp_path / "a store?#.sqlite").meta["overlap"] is None


def test_reading_leaves_nothing_behind_and_works_while_a_server_writes(tmp_path: Path) -> None:
    store = write_store(tmp_path / "review.sqlite", ROWS)
    before = store.read_bytes()
    assert len(read_decisions(store).decisions) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["review.sqlite"] and store.read_bytes() == before
    with closing(sqlite3.connect(store)) as server:
        server.execute("UPDATE decision SET undone_at = 'now' WHERE id = 1")
        server.commit()
        assert (tmp_path / "review.sqlite-wal").stat().st_size > 0
        assert len(read_decisions(store).decisions) == 2
        server.execute("DELETE FROM decision")  # not committed
        assert len(read_decisions(store).decisions) == 2


def test_files_that_are_no_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.sqlite: no such file; name the store"):
        read_decisions(tmp_path / "no.sqlite")
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, but long enough to be taken for the head of one" * 20)
    with pytest.raises(
        UserError, match=r"text\.sqlite: cannot be read as a store of decisions \(file is not a"
    ):
        read_decisions(text)
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE a(b)")
    with pytest.raises(UserError, match=r"other\.sqlite: no table meta; name the store"):
        read_decisions(other)
    store = change(
        write_store(tmp_path / "s.sqlite", ROWS), "ALTER TABLE decision RENAME COLUMN seconds TO s"
    )
    with pytest.raises(UserError, match=r"s\.sqlite: no seconds in its table decision"):
        read_decisions(store)


def test_a_store_without_decisions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"empty\.sqlite: no decision yet; let readers read"):
        read_decisions(write_store(tmp_path / "empty.sqlite", []))
    with pytest.raises(UserError, match=r"no decision yet \(3 were taken back\)"):
        read_decisions(write_store(tmp_path / "undone.sqlite", [], ROWS))


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("task = 'rank' WHERE id = 2", r"decision 2: task is 'rank': Input should be 'curate' or 'blinded'"),
        (
            "answer = 'synthetic' WHERE id = 2",
            r"decision 2: answer is 'synthetic'; the answers of curate are keep,",
        ),
        (
            "answer = 'keep' WHERE id = 1",
            r"decision 1: answer is 'keep'; the answers of blinded are real, synth",
        ),
        (
            "confidence = 6 WHERE id = 1",
            r"decision 1: confidence is 6: Input should be less than or equal to 5",
        ),
        ("confidence = 'x' WHERE id = 1", r"decision 1: confidence is 'x': Input should be a valid integer"),
        (
            "seconds = -1 WHERE id = 1",
            r"decision 1: seconds is -1.0: Input should be greater than or equal to 0",
        ),
        ("seconds = 9e999 WHERE id = 1", r"decision 1: seconds is inf: Input should be a finite number"),
        ("reader = NULL WHERE id = 1", r"decision 1: reader is None: Input should be a valid string"),
        ("class = '' WHERE id = 3", r"decision 3: class is '': String should have at least 1 character"),
        ("time = 'noon' WHERE id = 3", r"decision 3: time is 'noon': not a time in ISO 8601"),
        (
            "origin = 'real' WHERE id = 3",
            r"decision 3: a real image in the task curate, which is about synthetic",
        ),
        ("key = 's1' WHERE id = 3", r"decisions 2 and 3 are of one reader, task and image, and none"),
        (
            "key = 'k1', class = 'Edema' WHERE id = 3",
            r"decisions 3 and 1 are of one image, but of another origin",
        ),
    ],
)
def test_values_that_cannot_be_are_named(tmp_path: Path, sql: str, message: str) -> None:
    store = change(write_store(tmp_path / "review.sqlite", ROWS), f"UPDATE decision SET {sql}")
    with pytest.raises(UserError, match=rf"review\.sqlite: {message}"):
        read_decisions(store)


def test_the_same_image_may_be_decided_again_after_it_was_taken_back(tmp_path: Path) -> None:
    row: Row = ROWS[1]
    reading = read_decisions(write_store(tmp_path / "review.sqlite", [row], [row, row]))
    assert (len(reading.decisions), len(reading.taken_back)) == (1, 2)
