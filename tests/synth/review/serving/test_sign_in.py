"""Who gets in."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from cxrdist.synth.review.serving import pages
from tests.helpers.review_client import client, cookie_of, csrf_of, enter
from tests.helpers.review_server import PHRASE
from tests.synth.review.conftest import Start


def test_without_readers_the_page_says_how_to_add_one(start: Start) -> None:
    page = client(start()).get("/")
    assert page.status_code == 200
    assert "cxrdist review readers add NAME --store review.sqlite" in page.text
    assert "There are no readers yet" not in client(start("Ada")).get("/").text


def test_a_name_is_escaped(start: Start) -> None:
    browser = client(start("<script>alert(1)</script>"))
    assert enter(browser, "<script>alert(1)</script>") == 303
    assert "&lt;script&gt;alert(1)" in browser.get("/").text and "<script>alert" not in browser.get("/").text


def test_the_cookie_is_for_this_site_alone_and_changes_with_signing_in(start: Start) -> None:
    browser = client(start("Ada"))
    first = browser.get("/")
    assert re.fullmatch(
        r"cxrdist-review-[0-9a-f]{8}=\S{43}; HttpOnly; Path=/; SameSite=strict", first.headers["set-cookie"]
    )
    before = cookie_of(browser)
    assert enter(browser) == 303 and cookie_of(browser) != before
    assert "Ada, what would you like to read?" in browser.get("/").text


@pytest.mark.parametrize(
    "form", [{"phrase": "wrong phrase"}, {"name": "Eve"}, {"csrf": "0" * 64}, {"csrf": "ü"}], ids=str
)
def test_who_does_not_fit_stays_outside(start: Start, form: dict[str, str]) -> None:
    browser = client(start("Ada"))
    whole = {"csrf": csrf_of(browser.get("/").text), "name": "Ada", "phrase": PHRASE, **form}
    assert browser.post("/sign-in", data=whole).status_code == 403
    assert browser.get("/curate").headers["location"] == "/"


def test_beyond_this_machine_the_token_is_needed(start: Start) -> None:
    reading = start("Ada")
    assert [enter(client(reading, token="t" * 16), token=token) for token in ("", "t" * 15, "t" * 16)] == [
        *(403, 403, 303)
    ]
    assert "Token of this server" in client(reading, token="t" * 16).get("/").text
    assert "Token of this server" not in client(reading).get("/").text


def test_attempts_are_limited_by_name(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ATTEMPTS_OF_NAME", 3)
    browser = client(start("Ada", "Ben"))
    assert [enter(browser, phrase="wrong phrase") for _ in range(4)] == [403, 403, 403, 429]
    assert enter(browser) == 429  # the right one, too
    assert enter(browser, "Ben") == 303


def test_attempts_are_limited_by_address_and_without_the_token_lock_nobody_out(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "ATTEMPTS_OF_NAME", 1)
    monkeypatch.setattr(pages, "ATTEMPTS_OF_ADDRESS", 3)
    browser = client(start("Ada"), token="t" * 16)
    assert [enter(browser, token="guess") for _ in range(2)] == [403, 403]
    assert enter(browser, token="t" * 16) == 303
    other = client(start(), token="t" * 16)
    assert [enter(other, f"Eve {number}", token="guess") for number in range(4)] == [403, 403, 403, 429]


def test_signing_out_ends_the_session_for_good(signed_in: Callable[..., TestClient]) -> None:
    browser = signed_in()
    (name,), cookie = browser.cookies, cookie_of(browser)
    csrf = csrf_of(browser.get("/").text)
    browser.post("/sign-out", data={"csrf": "0" * 64})
    assert browser.get("/curate").status_code == 200  # a form of another site does nothing
    browser.post("/sign-out", data={"csrf": csrf})
    browser.cookies.set(name, cookie)
    assert browser.get("/curate").status_code == 303
