"""Every request and every answer: headers, hosts, paths, tokens of forms."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from cxrdist.synth.review.serving.guard import HEADERS
from tests.helpers.review_client import Page, client
from tests.synth.review.conftest import Start

TASKS = ("blinded", "curate")


def test_every_answer_has_the_headers(signed_in: Callable[..., TestClient]) -> None:
    browser = signed_in()
    token = Page(browser, "blinded").state["item"]["token"]
    paths = [
        "/",
        "/curate",
        f"/image/{token}",
        "/image/0",
        "/static/review.js",
        "/none",
        "/static/../pages.py",
    ]
    for path in paths:
        answer = browser.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert not {"etag", "last-modified", "server", "content-encoding"} & {*answer.headers}
    assert [browser.get(path).status_code for path in paths] == [200, 200, 200, 404, 200, 404, 404]
    policy = browser.get("/").headers["content-security-policy"]
    assert policy.startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'"
    )


def test_pages_hold_nothing_that_the_policy_forbids(signed_in: Callable[..., TestClient]) -> None:
    browser = signed_in()
    for path in ("/", "/curate", "/blinded"):
        text = browser.get(path).text
        assert (
            re.findall(r"<script(?! src=\"/static/\w+\.js\"></script>)|style=|\son\w+=|https?://", text) == []
        )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:8765"}, 200),
        ({"host": "LOCALHOST"}, 200),
        ({"host": "127.0.0.1:8765"}, 200),
        ({"host": "[::1]:8765"}, 200),
        ({"host": "evil.example"}, 400),
        ({"host": "localhost.evil.example:8765"}, 400),
        ({"host": "127.0.0.1.evil.example"}, 400),
        ({"host": "[::1"}, 400),
        ({"host": ""}, 400),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:8765"}, 200),
        ({"content-length": "16385"}, 413),
        ({"content-length": "x"}, 413),
        ({"transfer-encoding": "chunked"}, 411),
    ],
    ids=str,
)
def test_hosts_origins_and_lengths(start: Start, headers: dict[str, str], status: int) -> None:
    assert client(start("Ada")).get("/", headers=headers).status_code == status


def test_paths_reach_no_file(signed_in: Callable[..., TestClient]) -> None:
    browser = signed_in()
    for path in (
        "../pages.py",
        "..%2fpages.py",
        "%2e%2e/pages.py",
        "",
        "../../../../../../etc/passwd",
        "review.js/",
    ):
        assert browser.get(f"/static/{path}").status_code in (307, 404)


@pytest.mark.parametrize("path", ["answer", "undo"])
def test_changes_need_the_session_and_the_token_of_its_page(
    signed_in: Callable[..., TestClient], start: Start, path: str
) -> None:
    browser = signed_in()
    page = Page(browser, "curate")
    form = {"token": page.state["item"]["token"], "nonce": "n1", "answer": "keep", "seconds": 1}
    assert browser.post(f"/curate/{path}", json=form).status_code == 403
    other = client(start())
    assert other.post(f"/curate/{path}", json=form, headers=page.headers).status_code == 401
    assert page.post(path, [form]).status_code == 400
    assert browser.post(f"/curate/{path}", content=b"{", headers=page.headers).status_code == 400
    assert browser.get(f"/curate/{path}").status_code == 405
    assert page.post("answer", form).json()["done"] == 1


def test_a_task_that_is_not_offered_does_not_exist(signed_in: Callable[..., TestClient]) -> None:
    browser = signed_in(tasks=("curate",))
    assert [browser.get(f"/{task}").status_code for task in TASKS] == [404, 200]
    assert "Real or synthetic" not in browser.get("/").text
