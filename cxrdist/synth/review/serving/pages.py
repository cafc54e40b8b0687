"""The pages: sign in, choose a task, judge images. Routes, and what each of them answers."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
import anyio.to_thread
import jinja2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from cxrdist.errors import UserError
from cxrdist.files import sha256_bytes
from cxrdist.synth.review import sessions
from cxrdist.synth.review.readers import MAX_CHARACTERS, Reader, readers, signed_in
from cxrdist.synth.review.recording import REASONS
from cxrdist.synth.review.serving.guard import Attempts, Guard
from cxrdist.synth.review.serving.pictures import wait_s
from cxrdist.synth.review.serving.reading import Reading, Refused

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
CLASS_KEYS = "123456789aceghjklmnopqruvwxy"
"""Keys for classes: without those of other actions."""
BREAK_AFTER_S = 20 * 60
ATTEMPTS_OF_NAME, ATTEMPTS_OF_ADDRESS = 10, 50
HASHES_AT_ONCE = 2

Handler = Callable[..., Awaitable[Response]]


@dataclass(frozen=True)
class Visit:
    """A request: its cookie, and the reader who is signed in, if any."""

    cookie: str
    reader: Reader | None
    csrf: str


def application(
    reading: Reading, *, tasks: tuple[str, ...], names: Collection[str], token: str | None = None
) -> Guard:
    """The ASGI application. ``names``: host names that it answers to; ``token``: what signing in also needs."""
    pages = Pages(reading, tasks, token)
    return Guard(Starlette(routes=pages.routes()), names)


def for_readers(handler: Callable[..., Awaitable[Response]]) -> Handler:
    """Leads to the page to sign in whoever is not signed in."""

    @wraps(handler)
    async def handle(self: Pages, request: Request) -> Response:
        visit = await self.visit(request)
        if visit.reader is not None:
            return await handler(self, request, visit, visit.reader)
        if request.method == "POST" or request.url.path.startswith("/image/"):
            return JSONResponse({"error": "sign in again"}, 401)
        return RedirectResponse("/", 303)

    return handle


class Pages:
    def __init__(self, reading: Reading, tasks: tuple[str, ...], token: str | None) -> None:
        self.reading, self.store, self.tasks, self.token = reading, reading.store, tasks, token
        self._secret = self.store.secret
        # Browsers send a cookie to all ports of a host: another reading on this machine has another name.
        self.cookie = f"cxrdist-review-{sha256_bytes(self._secret)[:8]}"
        self._of_name, self._of_address = Attempts(ATTEMPTS_OF_NAME), Attempts(ATTEMPTS_OF_ADDRESS)
        self._hashing: anyio.CapacityLimiter | None = None
        # Read at the start: no request reaches the file system.
        self._static = {
            path.name: (path.read_bytes(), TYPES[path.suffix]) for path in (HERE / "static").iterdir()
        }
        templates = {path.name: path.read_text("utf-8") for path in (HERE / "templates").iterdir()}
        self._templates = jinja2.Environment(
            loader=jinja2.DictLoader(templates),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )

    def routes(self) -> list[Route]:
        # One route for each task, rather than a variable in the path: any other path is unknown.
        return [
            Route("/", self.start),
            Route("/sign-in", self.sign_in, methods=["POST"]),
            Route("/sign-out", self.sign_out, methods=["POST"]),
            *(Route(f"/{task}", self.task) for task in self.tasks),
            *(Route(f"/{task}/answer", self.answer, methods=["POST"]) for task in self.tasks),
            *(Route(f"/{task}/undo", self.undo, methods=["POST"]) for task in self.tasks),
            Route("/image/{token}", self.image),
            *(Route(f"/static/{name}", self.static) for name in self._static),
        ]

    # ---- who asks

    async def visit(self, request: Request) -> Visit:
        cookie = request.cookies.get(self.cookie, "")
        reader = await anyio.to_thread.run_sync(sessions.reader_of, self.store, cookie) if cookie else None
        cookie = cookie if 20 <= len(cookie) <= 100 else secrets.token_urlsafe(32)
        csrf = hmac.digest(self._secret, f"form\0{cookie}".encode(), "sha256").hex()
        return Visit(cookie, reader, csrf)

    async def start(self, request: Request) -> Response:
        visit = await self.visit(request)
        return await (self._choose(visit, visit.reader) if visit.reader else self._sign_in_page(visit))

    async def _sign_in_page(self, visit: Visit, problem: str = "", status: int = 200) -> Response:
        has_readers = bool(await anyio.to_thread.run_sync(readers, self.store))
        page = self._page(
            "sign_in",
            visit,
            status,
            problem=problem,
            has_readers=has_readers,
            needs_token=self.token is not None,
            store=self.store.path.name,
        )
        self._set_cookie(page, visit.cookie)
        return page

    async def sign_in(self, request: Request) -> Response:
        visit = await self.visit(request)
        form = await _form(request)
        if not hmac.compare_digest(form.get("csrf", "").encode(), visit.csrf.encode()):
            return await self._sign_in_page(visit, "This form was too old. Please try again.", 403)
        name, phrase = form.get("name", ""), form.get("phrase", "")[: MAX_CHARACTERS + 1]
        address = request.client.host if request.client else ""
        self_s = self._of_address.wait_s(address)
        if (left_s := max(self_s, self._of_name.wait_s(name))) > 0:
            page = await self._sign_in_page(
                visit, f"Too many attempts. Please wait {-(-left_s // 60):.0f} min and try again.", 429
            )
            page.headers["retry-after"] = f"{left_s:.0f}"
            return page
        self._of_address.note(address)
        is_welcome = self.token is None or hmac.compare_digest(
            form.get("token", "").encode(), self.token.encode()
        )
        if is_welcome:  # who lacks the token cannot lock a reader out
            self._of_name.note(name)
        # scrypt takes memory: a flood of attempts waits here.
        self._hashing = self._hashing or anyio.CapacityLimiter(HASHES_AT_ONCE)
        reader = await anyio.to_thread.run_sync(signed_in, self.store, name, phrase, limiter=self._hashing)
        if reader is None or not is_welcome:
            what = "name and pass phrase" if self.token is None else "name, pass phrase and token"
            return await self._sign_in_page(visit, f"That {what} do not fit together.", 403)
        self._of_name.forget(name)
        self._of_address.forget(address)
        answer = RedirectResponse("/", 303)
        self._set_cookie(answer, await anyio.to_thread.run_sync(sessions.begin, self.store, reader))
        return answer

    async def sign_out(self, request: Request) -> Response:
        visit = await self.visit(request)
        if not hmac.compare_digest((await _form(request)).get("csrf", "").encode(), visit.csrf.encode()):
            return RedirectResponse("/", 303)
        await anyio.to_thread.run_sync(sessions.end, self.store, visit.cookie)
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(self.cookie, httponly=True, samesite="strict")
        return answer

    # ---- tasks

    async def _choose(self, visit: Visit, reader: Reader) -> Response:
        def places() -> dict[str, Any]:
            for task in self.tasks:
                self.reading.deal(reader, task)
            return {task: self.reading.place(reader, task) for task in self.tasks}

        return self._page("tasks", visit, reader=reader.name, places=await anyio.to_thread.run_sync(places))

    @for_readers
    async def task(self, request: Request, visit: Visit, reader: Reader) -> Response:
        task = request.url.path.strip("/")

        def state() -> dict[str, Any]:
            self.reading.deal(reader, task)
            self.reading.read_ahead(reader, task)
            return self.reading.state(reader, task)

        return self._page(
            task,
            visit,
            reader=reader.name,
            task=task,
            state=await anyio.to_thread.run_sync(state),
            reasons=REASONS,
            classes=[*zip(CLASS_KEYS, self.reading.pool.classes)],
            break_after_s=BREAK_AFTER_S,
        )

    @for_readers
    async def answer(self, request: Request, visit: Visit, reader: Reader) -> Response:
        return await self._changed(request, visit, reader, self.reading.answer)

    @for_readers
    async def undo(self, request: Request, visit: Visit, reader: Reader) -> Response:
        return await self._changed(request, visit, reader, self.reading.undo)

    async def _changed(
        self, request: Request, visit: Visit, reader: Reader, change: Callable[..., bool | None]
    ) -> Response:
        """Make a change to the store, then say what to show."""
        if not hmac.compare_digest(request.headers.get("x-csrf-token", "").encode(), visit.csrf.encode()):
            return JSONResponse({"error": "reload the page"}, 403)
        body, task = await request.body(), request.url.path.split("/")[1]

        def changed() -> dict[str, Any]:
            form = json.loads(body)
            if not isinstance(form, dict):
                raise Refused("no object")
            is_answered_elsewhere = change(reader, task, form) is False
            note = {"note": "This image was answered in another window."} if is_answered_elsewhere else {}
            return self.reading.state(reader, task) | note

        try:
            return JSONResponse(await anyio.to_thread.run_sync(changed))
        except (Refused, ValueError, RecursionError) as error:
            return JSONResponse({"error": str(error)}, 400)
        except sqlite3.Error as error:  # a full disk: the page tries again until it is there
            log.error("%s: a decision could not be written: %s", self.store.path, error)
            return JSONResponse({"error": "the server cannot write the decision"}, 503)

    @for_readers
    async def image(self, request: Request, visit: Visit, reader: Reader) -> Response:
        begun_s = time.monotonic()

        def png() -> bytes | None:
            number = self.reading.image(reader, request.path_params["token"], self.tasks)
            return None if number is None else self.reading.pictures.png(number)

        try:
            data = await anyio.to_thread.run_sync(png)
            status = 200 if data is not None else 404
        except (UserError, OSError) as error:
            # Nothing of it is for readers: the message names the set.
            log.error("an image cannot be sent: %s", error)
            data, status = None, 500
        await anyio.sleep(wait_s(time.monotonic() - begun_s))
        return Response(data or b"", status, media_type="image/png")

    async def static(self, request: Request) -> Response:
        data, media_type = self._static[request.url.path.rpartition("/")[2]]
        return Response(data, media_type=media_type)

    def _set_cookie(self, answer: Response, value: str) -> None:
        """Ends with the browser; not `secure`, since the page may be reached through a tunnel or on this machine."""
        answer.set_cookie(self.cookie, value, httponly=True, samesite="strict")

    def _page(self, name: str, visit: Visit, status: int = 200, **values: Any) -> HTMLResponse:
        template = self._templates.get_template(f"{name}.html.j2")
        return HTMLResponse(template.render(csrf=visit.csrf, **values), status)


async def _form(request: Request) -> dict[str, str]:
    fields = parse_qs((await request.body()).decode("utf-8", "replace"))
    return {name: values[0] for name, values in fields.items()}
