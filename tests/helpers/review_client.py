"""The pages of a reading without a server or a browser."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from starlette.testclient import TestClient

from cxrdist.synth.review.serving.pages import application
from cxrdist.synth.review.serving.reading import Reading
from tests.helpers.review_server import PHRASE

TASKS = ("blinded", "curate")


def client(reading: Reading, *, token: str | None = None, tasks: tuple[str, ...] = TASKS) -> TestClient:
    app = application(reading, tasks=tasks, names={"localhost"}, token=token)
    return TestClient(app, base_url="http://localhost:8765", follow_redirects=False)


def csrf_of(page: str) -> str:
    found = re.search(r'(?:name="csrf" value|data-csrf)="([0-9a-f]{64})"', page)
    assert found is not None
    return found[1]


def cookie_of(browser: TestClient) -> str:
    (value,) = browser.cookies.values()
    return value


def enter(browser: TestClient, name: str = "Ada", phrase: str = PHRASE, **more: str) -> int:
    csrf = csrf_of(browser.get("/").text)
    return browser.post("/sign-in", data={"csrf": csrf, "name": name, "phrase": phrase, **more}).status_code


class Page:
    """A task of a reader who is signed in."""

    def __init__(self, browser: TestClient, task: str) -> None:
        self.browser, self.task = browser, task
        self.text = browser.get(f"/{task}").text
        self.headers = {"X-CSRF-Token": csrf_of(self.text)}
        found = re.search(r"data-state='([^']*)'", self.text)
        assert found is not None
        self.state: dict[str, Any] = json.loads(html.unescape(found[1]))

    def post(self, path: str, value: object) -> Any:
        return self.browser.post(f"/{self.task}/{path}", json=value, headers=self.headers)
