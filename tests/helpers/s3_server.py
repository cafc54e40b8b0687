"""An S3 server of this process on a free port: moto's, with a record of requests, and a gate."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import boto3
from fsspec.implementations.local import LocalFileSystem
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

BUCKET = "bucket"


class Answer(NamedTuple):
    """What is answered in place of an object store."""

    status: str
    body: bytes
    headers: Mapping[str, str] = {}


class S3Server:
    """``requests`` are (method, path with query, Range header); ``instead`` answers some of them itself, and so
    does ``refuses`` by their headers; ``cut`` says after how many bytes of its body an answer is dropped with its
    connection."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.instead: Callable[[str, str], Answer | None] = lambda method, path: None
        self.refuses: Callable[[dict[str, str]], Answer | None] = lambda headers: None
        self.cut: Callable[[str, str], int | None] = lambda method, path: None
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(address, 0, self.answer, threaded=True, request_handler=MotoRequestHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://{address}:{self._server.server_port}"

    def answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path, query = (environ[key] for key in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING"))
        whole = f"{path}?{query}" if query else path
        self.requests.append((method, whole, environ.get("HTTP_RANGE", "")))
        headers = {name[5:].title(): value for name, value in environ.items() if name.startswith("HTTP_")}
        if answer := self.instead(method, whole) or self.refuses(headers):
            of_body = {"Content-Length": str(len(answer.body)), "Content-Type": "application/xml"}
            start_response(answer.status, [*(of_body | {**answer.headers}).items()])
            return [] if method == "HEAD" else [answer.body]
        answer_bytes = self._moto(environ, start_response)
        left = self.cut(method, whole)
        return (
            answer_bytes if left is None else torn(b"".join(answer_bytes)[:left], environ["werkzeug.socket"])
        )

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()

    def start_bucket(self) -> None:
        """An empty bucket, nothing recorded, nothing answered instead."""
        self.instead = self.cut = lambda method, path: None
        self.refuses = lambda headers: None
        s3_backends.reset()
        self.client = boto3.client("s3", endpoint_url=self.url)
        self.client.create_bucket(Bucket=BUCKET)
        self.requests.clear()

    def put(self, key: str, data: bytes) -> None:
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(BUCKET, key, data)

    def keys(self, prefix: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Name below the prefix -> bytes."""
        return {
            key.removeprefix(prefix): self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            for key in self.keys(prefix)
        }

    def buckets(self) -> list[str]:
        return [bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]]

    def asked(self, pattern: str) -> list[tuple[str, str, str]]:
        return [request for request in self.requests if re.search(pattern, request[1])]


def torn(body: bytes, connection: socket.socket) -> Iterator[bytes]:
    yield body
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError


def error_body(code: str, message: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


class Folders(LocalFileSystem):
    """``folders://root/...``: a kind whose folders have to be made first, as on a file server."""

    protocol = "folders"
    root = ""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return f"{cls.root}/{path.removeprefix('folders://')}" if "://" in path else path
