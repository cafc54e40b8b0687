"""A reading over HTTP, and what does not tell where an image comes from."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

import numpy as np
import pytest
from starlette.testclient import TestClient

from cxrdist.errors import UserError
from cxrdist.synth.review import recording
from cxrdist.synth.review.serving.pictures import STEP_S
from tests.helpers.review_client import Page, client, enter
from tests.synth.review.conftest import Start, reader_named


def test_a_session_from_the_first_image_to_the_last(
    signed_in: Callable[..., TestClient], start: Start
) -> None:
    browser = signed_in()
    page = Page(browser, "curate")
    state, seen = page.state, []
    while state["item"] is not None:
        assert browser.get(f"/image/{state['item']['token']}").content.startswith(b"\x89PNG")
        seen.append(state["item"]["token"])
        form = {"token": seen[-1], "nonce": f"n{len(seen)}", "answer": "keep", "seconds": 1}
        following, state = state["next"], page.post("answer", form).json()
        assert state["item"] == following and state["undo"] == f"n{len(seen)}"
    assert state["done"] == state["total"] == len({*seen})
    state = page.post("undo", {"nonce": state["undo"]}).json()
    assert state["item"]["token"] == seen[-1] and state["done"] == len(seen) - 1


def test_each_sees_only_their_own_progress(start: Start) -> None:
    reading = start("Ada", "Ben", overlap=1.0)
    ada, ben = client(reading), client(reading)
    assert enter(ada) == enter(ben, "Ben") == 303
    page = Page(ada, "curate")
    form = {"token": page.state["item"]["token"], "nonce": "n1", "answer": "keep", "seconds": 1}
    page.post("answer", form)
    theirs = Page(ben, "curate")
    assert (theirs.state["done"], theirs.state["undo"]) == (0, None)
    assert ben.get(f"/image/{page.state['next']['token']}").status_code == 404
    assert theirs.post("undo", {"nonce": "n1"}).status_code == 200  # not theirs: nothing happens
    assert recording.judged(reading.store, "Ada", "curate") != set()


def test_an_answer_from_another_window_is_told(signed_in: Callable[..., TestClient]) -> None:
    browser = signed_in()
    page, other = Page(browser, "curate"), Page(browser, "curate")
    form = {"token": page.state["item"]["token"], "answer": "keep", "seconds": 1}
    assert "note" not in page.post("answer", {**form, "nonce": "n1"}).json()
    state = other.post("answer", {**form, "nonce": "n2"}).json()
    assert state["note"] == "This image was answered in another window." and state["done"] == 1


def test_the_blinded_page_names_no_origin_key_or_class_of_an_image(
    signed_in: Callable[..., TestClient], start: Start
) -> None:
    browser = signed_in()
    page = Page(browser, "blinded")
    reading = start()
    keys = [reading.pool.key(number) for number in range(len(reading.pool))]
    assert not any(key in page.text for key in keys)
    answers = [browser.get(f"/image/{page.state[name]['token']}") for name in ("item", "next")]
    assert answers[0].headers == answers[1].headers
    assert len(answers[0].content) == len(answers[1].content)


def test_how_long_an_image_takes_does_not_tell_where_it_comes_from(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if images of one set take ten times as long: all answers leave at a multiple of 30 ms."""
    reading = start("Ada")
    browser = client(reading)
    assert enter(browser) == 303
    pixels = reading.pool.pixels

    def slow(number: int) -> np.ndarray:
        time.sleep(0.02 if reading.pool.is_real[number] else 0.002)
        return pixels(number)

    monkeypatch.setattr(reading.pool, "pixels", slow)
    page = Page(browser, "blinded")
    numbers = {reading.pictures.token(1, "blinded", number): number for number in range(len(reading.pool))}
    state, took_s = page.state, {True: [], False: []}  # type: ignore[var-annotated]
    while state["item"] is not None:
        token = state["item"]["token"]
        begun_s = time.monotonic()
        assert browser.get(f"/image/{token}").status_code == 200
        took_s[bool(reading.pool.is_real[numbers[token]])].append(time.monotonic() - begun_s)
        form = {
            "token": token,
            "nonce": token,
            "answer": "real",
            "guessed_class": 0,
            "confidence": 1,
            "seconds": 1,
        }
        state = page.post("answer", form).json()
    medians = [float(np.median(seconds)) for seconds in took_s.values()]
    assert all(len(seconds) >= 5 for seconds in took_s.values())
    assert min(medians) >= STEP_S and abs(medians[0] - medians[1]) < STEP_S / 2


def test_the_page_waits_until_its_first_images_are_read(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = start("Ada")
    browser = client(reading)
    enter(browser)
    read, pixels = [], reading.pool.pixels

    def noted(number: int) -> np.ndarray:
        time.sleep(0.02)
        read.append(number)
        return pixels(number)

    monkeypatch.setattr(reading.pool, "pixels", noted)
    Page(browser, "blinded")
    first = reading.place(reader_named(reading.store, "Ada"), "blinded").open[:3]
    assert sorted(read) == sorted(first)


def test_a_damaged_image_is_told_on_the_terminal_alone(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading = start("Ada")
    browser = client(reading)
    enter(browser)

    def damaged(number: int) -> np.ndarray:
        raise UserError("shards/set/val-normal-real-000000.tar: sample k1: its bytes do not match their hash")

    monkeypatch.setattr(reading.pool, "pixels", damaged)
    answer = browser.get(f"/image/{Page(browser, 'blinded').state['item']['token']}")
    assert (answer.status_code, answer.content) == (500, b"")
    assert "val-normal-real-000000.tar: sample k1: its bytes" in capsys.readouterr().err


def test_a_full_disk_is_told_and_the_answer_can_be_sent_again(
    signed_in: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(signed_in(), "curate")
    form = {"token": page.state["item"]["token"], "nonce": "n1", "answer": "keep", "seconds": 1}

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(recording, "record", full)
        assert page.post("answer", form).status_code == 503
    assert page.post("answer", form).json()["done"] == 1
