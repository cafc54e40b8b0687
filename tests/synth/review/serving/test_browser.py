"""The page in Chromium: sessions by keyboard, two readers, a server that is killed, and how it looks.

``CXRDIST_SCREENSHOTS=FOLDER`` keeps a picture in light and one in dark; docs/ has them.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.chromium import Browser, chromium
from tests.helpers.launching import CLONE
from tests.helpers.review_server import ReviewServer, begin, sign_in, with_readers
from tests.helpers.review_sets import synthetic_copy

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        chromium() is None, reason="no Chromium; `make test-browser` installs it where it may"
    ),
]
SHOWN = "document.body?.dataset.shown"
MOST_MS = 100
"""Between two images."""


@pytest.fixture(autouse=True)
def cheap_hashes() -> None:
    """The server is another process, so pass phrases are hashed as usual here."""


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A synthetic set and its real one, of phantoms of 256 px."""
    folder = tmp_path_factory.mktemp("phantoms")
    counts = ["--images", "120", "--val-images", "4", "--test", "1"]
    words = ["import", "phantom", "--size", "256", *counts, "--out"]
    subprocess.run(
        [sys.executable, "-m", "cxrdist", *words, str(folder / "real")],
        cwd=CLONE,
        env={**os.environ, "PYTHONPATH": str(CLONE)},
        check=True,
        capture_output=True,
    )
    return synthetic_copy(folder / "real", folder / "synthetic", most=4), folder / "real"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return with_readers(tmp_path / "review.sqlite", "Reader 1", "Reader 2")


@pytest.fixture
def server(sets: tuple[Path, Path], store: Path) -> Iterator[ReviewServer]:
    """All readers see all images."""
    with ReviewServer(*sets, store, "--overlap", "1") as found:
        yield found


@pytest.fixture
def browser() -> Iterator[Browser]:
    command = chromium()
    assert command is not None
    with Browser(command) as found:
        yield found


def rows(store: Path, reader: str = "Reader 1") -> list[dict[str, Any]]:
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as db:
        db.row_factory = sqlite3.Row
        found = db.execute("SELECT * FROM decision WHERE reader = ? ORDER BY id", (reader,)).fetchall()
    db.close()
    return [dict(row) for row in found]


def answer(browser: Browser, *keys: str) -> None:
    """Press keys, and wait for another image or the end."""
    before = browser.evaluate(SHOWN)
    browser.press(*keys)
    browser.wait_for(f"{SHOWN} != '{before}' || document.getElementById('message').innerText != ''")


def count(browser: Browser) -> str:
    return str(browser.evaluate("document.getElementById('count').textContent"))


def test_a_whole_blinded_session_by_keyboard(server: ReviewServer, store: Path, browser: Browser) -> None:
    sign_in(browser, server.url, "Reader 1")
    browser.press("1")  # the first task
    browser.wait_for(f"!!{SHOWN}")
    assert count(browser) == "Image 1 of 40"
    typed = []
    for number in range(40):
        guess, label, confidence = "fs"[number % 2], str(number % 5 + 1), str(number // 8 + 1)
        answer(browser, guess, label, confidence, "Enter")
        typed.append(({"f": "real", "s": "synthetic"}[guess], int(label), int(confidence)))
    assert (
        browser.evaluate("document.getElementById('message').textContent")
        == "All images are read. Thank you."
    )
    assert count(browser) == "40 of 40 read"
    classes = ["Cardiomegaly", "Normal", "Pleural Effusion", "Pulmonary Edema", "Pneumothorax"]
    found = rows(store)
    assert [
        (row["answer"], classes.index(row["guessed_class"]) + 1, row["confidence"]) for row in found
    ] == typed
    assert [row["position"] for row in found] == [*range(1, 41)]
    assert [row["origin"] for row in found].count("real") == 20
    assert all(0 < row["seconds"] < 60 for row in found)
    assert {url.startswith(server.url) for url in browser.requested} == {True}
    switches = browser.evaluate("performance.getEntriesByName('switch').map(each => each.duration)")
    assert len(switches) == 39 and statistics.median(switches) < MOST_MS
    print(f"between two images: median {statistics.median(switches):.0f} ms, longest {max(switches):.0f} ms")


def test_keep_remove_unsure_reasons_and_undo(server: ReviewServer, store: Path, browser: Browser) -> None:
    sign_in(browser, server.url, "Reader 1")
    begin(browser, server.url, "curate")
    first = browser.evaluate(SHOWN)
    answer(browser, "k")
    answer(browser, "z")
    assert browser.evaluate(SHOWN) == first and count(browser) == "Image 1 of 20"
    answer(browser, "r", "2", "Enter")
    answer(browser, "u", "Enter")
    answer(browser, "u", "1", "t", *"a rib", "Enter")
    browser.press("r", "Enter")  # a reason is needed
    browser.press("6", "Enter")  # and words
    assert count(browser) == "Image 4 of 20"
    answer(browser, *"two hearts", "Enter")
    browser.press("r", "3", "Backspace", "Backspace")
    assert browser.evaluate("document.querySelectorAll('[aria-pressed=true]').length") == 0
    assert [(row["answer"], row["reason"], row["undone_at"] is None) for row in rows(store)] == [
        ("keep", None, False),
        ("remove", "impossible anatomy", True),
        ("unsure", None, True),
        ("unsure", "not a chest radiograph: a rib", True),
        ("remove", "other: two hearts", True),
    ]
    assert [row["position"] for row in rows(store)] == [1, 1, 2, 3, 4]


def test_two_readers_at_once(server: ReviewServer, store: Path, browser: Browser) -> None:
    command = chromium()
    assert command is not None
    with Browser(command) as other:
        for each, name in ((browser, "Reader 1"), (other, "Reader 2")):
            sign_in(each, server.url, name)
            begin(each, server.url, "curate")
        for number in range(6):
            answer(browser, "k")
            if number % 2:
                answer(other, "r", "1", "Enter")
        assert (count(browser), count(other)) == ("Image 7 of 20", "Image 4 of 20")
    assert [row["answer"] for row in rows(store)] == ["keep"] * 6
    assert [row["answer"] for row in rows(store, "Reader 2")] == ["remove"] * 3


def test_a_reload_and_a_new_browser_go_on_where_they_were(
    server: ReviewServer, store: Path, browser: Browser
) -> None:
    sign_in(browser, server.url, "Reader 1")
    begin(browser, server.url, "blinded")
    answer(browser, "f", "1", "1", "Enter")
    before = browser.evaluate(SHOWN)
    browser.press("s", "2")  # not sent
    begin(browser, server.url, "blinded")
    assert (browser.evaluate(SHOWN), count(browser)) == (before, "Image 2 of 40")
    assert browser.evaluate("document.querySelectorAll('[aria-pressed=true]').length") == 0
    command = chromium()
    assert command is not None
    with Browser(command) as other:
        sign_in(other, server.url, "Reader 1")
        begin(other, server.url, "blinded")
        assert (other.evaluate(SHOWN), count(other)) == (before, "Image 2 of 40")
        answer(other, "s", "2", "3", "Enter")
    answer(browser, "f", "1", "1", "Enter")  # was answered there
    assert browser.evaluate("document.getElementById('notice').textContent").startswith(
        "This image was answered"
    )
    assert [(row["answer"], row["position"]) for row in rows(store)] == [("real", 1), ("synthetic", 2)]


def test_a_killed_server_loses_no_decision_and_the_page_goes_on(
    server: ReviewServer, store: Path, browser: Browser
) -> None:
    sign_in(browser, server.url, "Reader 1")
    begin(browser, server.url, "curate")
    for _ in range(3):
        answer(browser, "k")
    server.kill()
    assert len(rows(store)) == 3
    before = browser.evaluate(SHOWN)
    browser.press("r", "5", "Enter")
    browser.wait_for(
        "document.getElementById('notice').textContent.startsWith('The server cannot be reached')"
    )
    server.start()
    browser.wait_for(f"{SHOWN} != '{before}'")
    assert count(browser) == "Image 5 of 20"
    answer(browser, "k")
    assert [row["answer"] for row in rows(store)] == ["keep", "keep", "keep", "remove", "keep"]
    assert [row["position"] for row in rows(store)] == [1, 2, 3, 4, 5]


def test_a_break_is_not_counted_and_is_suggested(server: ReviewServer, store: Path, browser: Browser) -> None:
    sign_in(browser, server.url, "Reader 1")
    begin(browser, server.url, "curate")
    begun_s = time.monotonic()
    browser.press("b")
    assert browser.evaluate("document.getElementById('pause').hidden") is False
    browser.press("k")  # nothing is answered in a break
    time.sleep(1.5)
    browser.press("b")
    answer(browser, "k")
    (row,) = rows(store)
    assert 0 < row["seconds"] < time.monotonic() - begun_s - 1.5 + 0.05
    assert browser.evaluate("document.body.dataset.breakAfterS") == str(20 * 60)
    browser.evaluate("document.body.dataset.breakAfterS = 0")
    browser.wait_for("document.getElementById('notice').textContent.includes('How about a break?')")


GREY = """
(canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]
  .filter((_, i) => i % 4 == 0))(document.getElementById('image'))
"""


def test_window_level_and_zoom(server: ReviewServer, browser: Browser) -> None:
    sign_in(browser, server.url, "Reader 1")
    begin(browser, server.url, "blinded")
    plain = browser.evaluate(GREY)
    browser.drag((400, 400), (300, 340))  # a narrower window at a higher level
    assert browser.evaluate("document.getElementById('window').textContent") == "Window 155, level 188"
    shown = [min(max(round((value - 187.5) / 155 * 255 + 127.5), 0), 255) for value in plain]
    assert max(abs(ours - theirs) for ours, theirs in zip(browser.evaluate(GREY), shown)) <= 1
    width = "document.getElementById('image').getBoundingClientRect().width"
    assert browser.evaluate(width) == 800
    browser.press("+")
    assert browser.evaluate(width) == 1000
    rendering = "getComputedStyle(document.getElementById('image')).imageRendering"
    before = browser.evaluate(rendering)
    browser.press("i")
    assert (before, browser.evaluate(rendering)) == ("auto", "pixelated")
    browser.press("0")
    assert browser.evaluate(width) == 800 and browser.evaluate(GREY) == plain


SHADE = "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)"


@pytest.mark.parametrize(("scheme", "task", "keys"), [("light", "curate", "r3"), ("dark", "blinded", "s3")])
def test_it_fits_and_follows_the_scheme(
    server: ReviewServer, browser: Browser, scheme: str, task: str, keys: str
) -> None:
    sign_in(browser, server.url, "Reader 1", scheme)
    begin(browser, server.url, task, scheme)
    for _ in range(2):
        answer(browser, *("k" if task == "curate" else ("f", "2", "4", "Enter")))
    browser.press(*keys)
    if folder := os.environ.get("CXRDIST_SCREENSHOTS"):
        file = Path(folder, f"review-{scheme}.png")
        browser.screenshot(file, is_whole=False)
        with Image.open(file) as picture:  # under 300 KB for docs/
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    panel = "(panel => panel.scrollHeight - panel.clientHeight)(document.getElementById('panel'))"
    assert browser.evaluate(panel) <= 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= 1280
    assert (
        browser.evaluate("getComputedStyle(document.getElementById('stage')).backgroundColor")
        == "rgb(0, 0, 0)"
    )
    is_dark = {"light": False, "dark": True}[scheme]
    assert (max(browser.evaluate(SHADE)) < 64) == is_dark and (min(browser.evaluate(SHADE)) > 192) != is_dark
    browser.press("d")
    assert (max(browser.evaluate(SHADE)) < 64) != is_dark
    begin(browser, server.url, task, scheme)
    assert (max(browser.evaluate(SHADE)) < 64) != is_dark  # kept
