"""What a reader sees next, and what becomes of the answer."""

from __future__ import annotations

from typing import Any

import pytest

from cxrdist.errors import UserError
from cxrdist.synth.review import readers, recording
from cxrdist.synth.review.readers import Reader
from cxrdist.synth.review.serving.reading import Reading, Refused, check_pool
from tests.synth.review.conftest import Start, reader_named

KEEP = {"answer": "keep", "seconds": 1.5}
FILM = {"answer": "real", "guessed_class": 1, "confidence": 5, "seconds": 2}


def rows(reading: Reading) -> list[dict[str, Any]]:
    return [dict(row) for row in reading.store.rows("SELECT * FROM decision ORDER BY id")]


def say(reading: Reading, reader: Reader, task: str, form: dict[str, Any], nonce: str = "") -> bool:
    """Answer the image that is due."""
    token = reading.state(reader, task)["item"]["token"]
    return reading.answer(reader, task, {"token": token, "nonce": nonce or f"{reader.name}{token}", **form})


def read_all(reading: Reading, reader: Reader, task: str, form: dict[str, Any]) -> list[str]:
    """Judge whatever is left; the keys, in order."""
    while reading.state(reader, task)["item"] is not None:
        assert say(reading, reader, task, form)
    found = [row for row in rows(reading) if row["reader"] == reader.name and row["task"] == task]
    assert [row["position"] for row in found] == [*range(1, len(found) + 1)]
    return [row["key"] for row in found]


def test_two_readers_curate_the_whole_set_and_share_a_fifth(start: Start) -> None:
    reading = start("Ada", "Ben")
    keys = [read_all(reading, reader_named(reading.store, name), "curate", KEEP) for name in ("Ada", "Ben")]
    pool = reading.pool
    synthetic = {pool.key(number) for number in pool.numbers(is_real=False)}
    assert {*keys[0]} | {*keys[1]} == synthetic and len(synthetic) == 18
    assert len({*keys[0]} & {*keys[1]}) == round(0.2 * 18)
    assert {row["origin"] for row in rows(reading)} == {"synthetic"}


def test_the_blinded_task_mixes_as_many_of_one_class_and_origin_as_of_the_other(start: Start) -> None:
    reading = start("Ada")
    keys = read_all(reading, reader_named(reading.store, "Ada"), "blinded", FILM)
    counts: dict[tuple[str, str], int] = {}
    for row in rows(reading):
        counts[row["class"], row["origin"]] = counts.get((row["class"], row["origin"]), 0) + 1
    val = {
        name: len(reading.pool.numbers(is_real=True, class_index=i))
        for i, name in enumerate(reading.pool.classes)
    }
    assert counts == {(name, origin): n for name, n in val.items() for origin in ("real", "synthetic")}
    origins = [row["origin"] for row in rows(reading)]
    assert origins != sorted(origins) and len({*keys}) == len(keys)
    assert {row["guessed_class"] for row in rows(reading)} == {reading.pool.classes[1]}


def test_the_order_is_the_same_on_every_start_and_another_for_every_reader(start: Start) -> None:
    first = start("Ada", "Ben", overlap=1.0)
    ada, ben = (reader_named(first.store, name) for name in ("Ada", "Ben"))
    order = first.place(ada, "curate").open
    assert start().place(ada, "curate").open == order
    assert (
        sorted(first.place(ben, "curate").open) == sorted(order) and first.place(ben, "curate").open != order
    )


def test_the_state_says_nothing_of_the_image_that_is_blinded(start: Start) -> None:
    reading = start("Ada")
    state = reading.state(reader_named(reading.store, "Ada"), "blinded")
    assert {*state} == {"done", "total", "left_s", "item", "next", "undo"}
    assert {*state["item"]} == {*state["next"]} == {"token"}


def test_progress_undo_and_the_time_left(start: Start) -> None:
    reading = start("Ada", limit=3)
    ada = reader_named(reading.store, "Ada")
    first = reading.state(ada, "curate")
    assert (first["done"], first["total"], first["left_s"], first["undo"]) == (0, 3, None, None)
    assert say(reading, ada, "curate", {**KEEP, "seconds": 10}, nonce="n1")
    second = reading.state(ada, "curate")
    assert (second["done"], second["total"], second["left_s"], second["undo"]) == (1, 3, 20, "n1")
    assert second["item"] == first["next"]
    reading.undo(ada, "curate", {"nonce": "n1"})
    assert reading.state(ada, "curate") == first


def test_a_request_that_arrives_again_does_not_answer_the_next_image(start: Start) -> None:
    reading = start("Ada")
    ada = reader_named(reading.store, "Ada")
    token = reading.state(ada, "curate")["item"]["token"]
    for _ in range(3):
        assert reading.answer(ada, "curate", {"token": token, "nonce": "n1", **KEEP})
    assert not reading.answer(ada, "curate", {"token": token, "nonce": "n2", **KEEP})  # another window
    assert [row["nonce"] for row in rows(reading)] == ["n1"]


def test_images_that_were_curated_are_left_out_of_the_blinded_task_on_both_sides(start: Start) -> None:
    reading = start("Ada", share_real=0.5)
    ada = reader_named(reading.store, "Ada")
    before = reading.place(ada, "blinded")
    for _ in range(10):
        say(reading, ada, "curate", KEEP)
    known = reading.pool.numbers_of(recording.judged(reading.store, "Ada", "curate"))
    assert not {*reading.place(ada, "blinded").open} & {*known}  # at once
    reading.deal(ada, "blinded")
    after = reading.place(ada, "blinded")
    assert {*after.open} < {*before.open}
    real = [number for number in after.open if reading.pool.is_real[number]]
    assert 2 * len(real) == len(after.open)
    read_all(reading, ada, "curate", KEEP)
    reading.deal(ada, "blinded")
    assert reading.place(ada, "blinded").total == 0


def test_only_the_images_that_are_due_have_a_name(start: Start) -> None:
    reading = start("Ada", "Ben")
    ada, ben = (reader_named(reading.store, name) for name in ("Ada", "Ben"))
    tasks = ("blinded", "curate")
    place = reading.place(ada, "blinded")
    names = [reading.pictures.token(ada.id, "blinded", number) for number in place.open]
    assert [reading.image(ada, name, tasks) for name in names] == [
        *place.open[:2],
        *[None] * (len(names) - 2),
    ]
    assert reading.image(ben, names[0], tasks) is None
    assert reading.image(ada, names[0], ("curate",)) is None


@pytest.mark.parametrize(
    ("task", "form"),
    [
        ("curate", {}),
        ("curate", {"answer": "real"}),
        ("curate", {"answer": "remove"}),
        ("curate", {"answer": "remove", "reason": "no such reason"}),
        ("curate", {"answer": "remove", "reason": "other", "text": " "}),
        ("curate", {"answer": "remove", "reason": "other", "text": "x" * 501}),
        ("curate", {"seconds": "3"}),
        ("curate", {"seconds": float("nan")}),
        ("curate", {"nonce": ""}),
        ("curate", {"nonce": "x" * 65}),
        ("curate", {"nonce": 7}),
        ("blinded", {"answer": "keep"}),
        ("blinded", {"confidence": 0}),
        ("blinded", {"confidence": 6}),
        ("blinded", {"confidence": True}),
        ("blinded", {"guessed_class": -1}),
        ("blinded", {"guessed_class": 3}),
        ("blinded", {"guessed_class": "Normal"}),
    ],
)
def test_answers_that_the_page_never_gives_are_refused(start: Start, task: str, form: dict[str, Any]) -> None:
    reading = start("Ada")
    base = {"answer": "keep", "seconds": 1} if task == "curate" else FILM
    whole = {**base, **form} if form else {"seconds": 1}
    ada = reader_named(reading.store, "Ada")
    token = reading.state(ada, task)["item"]["token"]
    with pytest.raises(Refused):
        reading.answer(ada, task, {"token": token, "nonce": "n1", **whole})
    assert rows(reading) == []


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"answer": "remove", "reason": "impossible anatomy"}, "impossible anatomy"),
        ({"answer": "remove", "reason": "other", "text": " a  third\nlung "}, "other: a third lung"),
        (
            {"answer": "unsure", "reason": "impossible anatomy", "text": "a rib?"},
            "impossible anatomy: a rib?",
        ),
        ({"answer": "unsure", "text": "a rib?"}, "other: a rib?"),
        ({"answer": "unsure", "text": "a\x1b[2J\ud800"}, "other: a\\x1b[2J\\ud800"),
        ({"answer": "unsure"}, None),
        ({"answer": "keep"}, None),
    ],
)
def test_reasons_as_they_are_stored(start: Start, form: dict[str, Any], reason: str | None) -> None:
    reading = start("Ada")
    say(reading, reader_named(reading.store, "Ada"), "curate", {"seconds": 1, **form})
    assert [(row["answer"], row["reason"]) for row in rows(reading)] == [(form["answer"], reason)]


@pytest.mark.parametrize(
    ("given", "stored"), [(1.23456, 1.235), (-1, 0), (10**400, 604800), (float("inf"), 604800)]
)
def test_seconds_are_within_a_week(start: Start, given: float, stored: float) -> None:
    reading = start("Ada")
    say(reading, reader_named(reading.store, "Ada"), "curate", {"answer": "keep", "seconds": given})
    assert [row["seconds"] for row in rows(reading)] == [stored]


def test_who_was_removed_reads_nothing(start: Start) -> None:
    reading = start("Ada")
    ada = reader_named(reading.store, "Ada")
    readers.remove(reading.store, "Ada")
    with pytest.raises(Refused):
        reading.deal(ada, "curate")


def test_a_split_without_images_of_a_class_is_told(start: Start) -> None:
    reading = start()
    assert check_pool(reading.pool, reading.terms, ("blinded",)) == []
    reading.pool.class_index[reading.pool.is_real & (reading.pool.class_index == 2)] = 0
    assert check_pool(reading.pool, reading.terms, ("blinded",)) == [reading.pool.classes[2]]
    assert check_pool(reading.pool, reading.terms, ("curate",)) == []
    reading.pool.is_real[:] = False
    with pytest.raises(UserError, match="no class has both synthetic images and real ones in the val split"):
        check_pool(reading.pool, reading.terms, ("blinded", "curate"))
