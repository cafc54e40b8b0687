"""Every decision once, and what is taken back stays in the table."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace

import pytest

from cxrdist.synth.review import recording
from cxrdist.synth.review.recording import Decision
from cxrdist.synth.review.store import Store

KEEP = Decision(
    reader="Ada",
    task="curate",
    key="k1",
    origin="synthetic",
    class_name="Normal",
    answer="keep",
    seconds=2.5,
    position=1,
    nonce="n1",
)
COLUMNS = "reader, task, key, origin, class, answer, reason, guessed_class, confidence, seconds, position"


def test_a_row_holds_what_was_decided(store: Store) -> None:
    recording.record(store, KEEP)
    blinded = replace(
        KEEP,
        task="blinded",
        origin="real",
        answer="synthetic",
        guessed_class="Edema",
        confidence=4,
        nonce="n2",
    )
    recording.record(store, blinded)
    rows = [tuple(row) for row in store.rows(f"SELECT {COLUMNS} FROM decision ORDER BY id")]
    assert rows == [
        ("Ada", "curate", "k1", "synthetic", "Normal", "keep", None, None, None, 2.5, 1),
        ("Ada", "blinded", "k1", "real", "Normal", "synthetic", None, "Edema", 4, 2.5, 1),
    ]
    (time,) = {row["time"][-1] for row in store.rows("SELECT time FROM decision")}
    assert time == "Z"


def test_a_request_that_arrives_twice_counts_once(store: Store) -> None:
    recording.record(store, KEEP)
    recording.record(store, KEEP)
    recording.record(store, replace(KEEP, nonce="n2", answer="remove"))  # of another window
    assert [row["answer"] for row in store.rows("SELECT answer FROM decision")] == ["keep"]
    assert recording.is_known(store, "Ada", "n1") and not recording.is_known(store, "Ada", "n2")


def test_many_requests_at_once_count_once(store: Store) -> None:
    threads = [
        threading.Thread(target=recording.record, args=(store, replace(KEEP, nonce=f"n{number % 3}")))
        for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.rows("SELECT count(*) FROM decision")[0][0] == 1


def test_a_decision_is_taken_back_once_and_its_request_does_not_return(store: Store) -> None:
    recording.record(store, KEEP)
    recording.record(store, replace(KEEP, key="k2", nonce="n2"))
    assert recording.last_decided(store, "Ada", "curate") == ("k2", "n2")
    recording.undo(store, "Ada", "curate", "n2")
    recording.undo(store, "Ada", "curate", "n2")
    assert recording.judged(store, "Ada", "curate") == {"k1"}
    assert recording.judged(store, "Ada", "curate", even_if_undone=True) == {"k1", "k2"}
    recording.record(store, replace(KEEP, key="k2", nonce="n2"))  # the first request, late
    assert recording.judged(store, "Ada", "curate") == {"k1"}
    recording.record(store, replace(KEEP, key="k2", answer="remove", reason="other: x", nonce="n3"))
    rows = store.rows(
        "SELECT answer, undone_at IS NULL AS is_valid FROM decision WHERE key = 'k2' ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [("keep", 0), ("remove", 1)]


def test_readers_and_tasks_do_not_touch_each_other(store: Store) -> None:
    recording.record(store, KEEP)
    recording.undo(store, "Ben", "curate", "n1")
    recording.undo(store, "Ada", "blinded", "n1")
    assert recording.judged(store, "Ada", "curate") == {"k1"}
    assert recording.judged(store, "Ben", "curate") == recording.judged(store, "Ada", "blinded") == set()
    assert recording.judged_by_others(store, "Ben", "curate") == {"k1"}
    assert recording.judged_by_others(store, "Ada", "curate") == set()
    assert recording.last_decided(store, "Ben", "curate") is None


def test_the_time_per_image_is_the_median_of_the_last_twenty(store: Store) -> None:
    assert recording.seconds_per_image(store, "Ada", "curate") is None
    for number, seconds in enumerate([1000.0] * 5 + [1.0] * 10 + [3.0] * 10):
        recording.record(store, replace(KEEP, key=f"k{number}", nonce=f"n{number}", seconds=seconds))
    assert recording.seconds_per_image(store, "Ada", "curate") == 2.0


def test_other_faults_of_a_row_are_not_passed_over(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        recording.record(store, replace(KEEP, confidence=6))
