"""What holds for every request and every answer, whichever page it is: hosts, origins, sizes and headers."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 16 * 1024
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # no-transform: a proxy that compresses would show by the length what the image is.
    "cache-control": "no-store, no-transform",
}


class Guard:
    """Refuses requests to other host names (DNS rebinding), from pages of other origins, and with long bodies; adds
    ``HEADERS`` to every answer."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self.app, self.names = app, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = self.app
        if (refusal := self._refusal(Headers(scope=scope))) is not None:
            app = PlainTextResponse(refusal[1], refusal[0])
        await app(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._is_ours(host):
            return 400, "this server does not answer to that host name: see --names"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "a page of another origin"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return 413, "too long"
        if "transfer-encoding" in headers:
            return 411, "no content-length"
        return None

    def _is_ours(self, host: str) -> bool:
        """True for the names of this server and for addresses: who rebinds a name cannot use an address."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class Attempts:
    """Failed attempts to sign in, of each name and of each address, in the last ``within_s``."""

    def __init__(self, most: int, within_s: float = 300.0) -> None:
        self.most, self.within_s = most, within_s
        self._failed_s: dict[str, list[float]] = {}

    def wait_s(self, who: str) -> float:
        """How long an attempt has to wait; 0: not at all."""
        failed_s = self._recent(who)
        return max(failed_s[0] + self.within_s - time.monotonic(), 0.0) if len(failed_s) >= self.most else 0.0

    def note(self, who: str) -> None:
        """An attempt begins: it counts as failed until ``forget``, so that many at once count, too."""
        now_s = time.monotonic()
        # Whoever tries names at random must not fill the memory.
        self._failed_s = {name: s for name, s in self._failed_s.items() if s[-1] > now_s - self.within_s}
        self._failed_s[who] = [*self._recent(who)[-self.most :], now_s]

    def forget(self, who: str) -> None:
        self._failed_s.pop(who, None)

    def _recent(self, who: str) -> list[float]:
        earliest_s = time.monotonic() - self.within_s
        return [each for each in self._failed_s.get(who, []) if each > earliest_s]
