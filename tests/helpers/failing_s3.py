"""An S3 server as a program, for another host; a file says how it fails.

    failing_s3.py ADDRESS SET FOLDER

Serves the files of SET at s3://bucket/set on a free port. FOLDER/url is written when it is ready; FOLDER/mood, if it
is there, is a JSON object that is read before each request; FOLDER/requests gets a line for each.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.helpers.s3_server import BUCKET, Answer, S3Server, error_body

URL = f"s3://{BUCKET}/set"


@dataclass(frozen=True)
class Mood:
    """What the server does to GET requests of tars and indexes."""

    busy: float = 0.0
    """Share that is answered with 503."""
    cut: float = 0.0
    """Share whose bodies are dropped in the middle, together with the connection."""
    short: float = 0.0
    """Share whose bodies end in the middle as if that were all."""
    portal: float = 0.0
    """Share that is answered with a web page."""
    denied: bool = False
    valid: str = ""
    """The only access key whose token has not expired; empty: all are valid."""

    def save(self, folder: Path) -> None:
        new = folder / "mood.new"
        new.write_text(json.dumps(asdict(self)))
        new.replace(folder / "mood")


BUSY = Answer("503 Slow Down", error_body("SlowDown", "Please reduce your request rate."))
DENIED = Answer("403 Forbidden", error_body("AccessDenied", "Access Denied"))
EXPIRED = Answer("400 Bad Request", error_body("ExpiredToken", "The provided token has expired."))
PORTAL = Answer("200 OK", b"<html>Please log in</html>" * 40, {"Content-Type": "text/html"})


def main(address: str, shards: str, folder: Path) -> None:
    server, random_ = S3Server(address), random.Random(0)
    # Its own client, too, is this process, which has no other credentials.
    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret", AWS_DEFAULT_REGION="us-east-1")
    server.start_bucket()
    for path in Path(shards).iterdir():
        server.put(f"set/{path.name}", path.read_bytes())
    lock, log = threading.Lock(), (folder / "requests").open("a", buffering=1)

    def mood() -> Mood:
        try:
            return Mood(**json.loads((folder / "mood").read_text()))
        except FileNotFoundError:
            return Mood()

    def happens(share: float) -> bool:
        with lock:
            return random_.random() < share

    def answer(method: str, path: str) -> Answer | None:
        now, is_data = mood(), method == "GET" and path.endswith((".tar", ".npy"))
        found = None
        if is_data and happens(now.busy):
            found = BUSY
        elif is_data and now.denied:
            found = DENIED
        elif is_data and happens(now.portal):
            found = PORTAL
        elif is_data and happens(now.short):
            found = Answer("206 Partial Content", b"x" * 500, {"Content-Range": "bytes 0-999/2000"})
        log.write(f"{time.monotonic():.3f} {method} {path} {found.status if found else ''}\n")
        return found

    def refuses(headers: dict[str, str]) -> Answer | None:
        valid = mood().valid
        return EXPIRED if valid and f"Credential={valid}/" not in headers.get("Authorization", "") else None

    server.instead, server.refuses = answer, refuses
    server.cut = lambda method, path: 700 if path.endswith(".tar") and happens(mood().cut) else None
    (folder / "url.new").write_text(server.url)
    (folder / "url.new").replace(folder / "url")
    sys.stdin.read()  # until the test ends


if __name__ == "__main__":
    given: list[Any] = sys.argv[1:]
    main(given[0], given[1], Path(given[2]))
