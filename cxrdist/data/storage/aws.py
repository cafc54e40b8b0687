"""What requests to S3 need beyond s3fs: each is sent once, its answer is what was asked for, credentials are renewed.

s3fs and botocore repeat requests themselves, five times five, without a word; ``retries`` does that here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from cxrdist.data.storage import traffic
from cxrdist.data.storage.failures import EXPIRED, code_of

T = TypeVar("T")

OPTIONS = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
"""Of the file system."""
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

_renewing = threading.Lock()


class OddAnswer(OSError):
    """An answer that is not the part of the file that was asked for."""


def connect(fs: Any) -> None:
    """Connect a new file system."""
    fs.retries = 1
    fs.connect()


def with_new_credentials(fs: Any, request: Callable[[], T]) -> T:
    """The result of a request. If the credentials have expired, they are read anew, from the files that they came
    from, and the request is sent once more."""
    used = fs.s3
    try:
        return request()
    except Exception as error:
        if code_of(error) not in EXPIRED:
            raise
        with _renewing:
            if fs.s3 is used:  # else another thread has read them
                fs.connect(refresh=True)
    traffic.count(requests=1, retries=1)
    return request()


def get(fs: Any, path: str, start: int, stop: int | None) -> bytes:
    """Bytes of an object from ``start`` on, up to ``stop`` or its end.

    Raises OddAnswer for another part, or for less than the server has announced, which is not noticed otherwise if
    the body comes without its length.
    """
    import fsspec

    # A range in any case: its answer says how many bytes belong to it.
    return fsspec.asyn.sync(fs.loop, _get, fs, path, start, stop)


async def _get(fs: Any, path: str, start: int, stop: int | None) -> bytes:
    bucket, key, _ = fs.split_path(path)
    last = "" if stop is None else stop - 1
    response = await fs._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{last}")
    try:
        data: bytes = await response["Body"].read()
    finally:
        response["Body"].close()
    _check(response, start, stop, len(data))
    return data


def _check(response: dict[str, Any], start: int, stop: int | None, received: int) -> None:
    found = _RANGE.fullmatch(response.get("ContentRange") or "")
    if found is None:
        # Some servers answer a range that is the whole object as if none had been asked for.
        announced = response.get("ContentLength")
        if start or stop is not None or not response.get("ETag") or announced != received:
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            kind = response.get("ContentType") or "unknown"
            raise OddAnswer(f"answered {status} with content of type {kind}, not with the bytes asked for")
        return
    first, last = int(found[1]), int(found[2])
    if first != start or (stop is not None and last >= stop):
        raise OddAnswer(f"sent bytes {first} to {last}, not those asked for")
    if found[3] != "*" and last + 1 < min(int(found[3]), int(found[3]) if stop is None else stop):
        raise OddAnswer(f"sent bytes {first} to {last} of {found[3]}, fewer than asked for")
    if received != last + 1 - first:
        raise OddAnswer(f"sent {received:,} of {last + 1 - first:,} bytes")
