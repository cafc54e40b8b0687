"""A shard set in an object store, or wherever fsspec reaches."""

from __future__ import annotations

import contextlib
import io
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import IO, Any

from cxrdist.data.storage.errors import UnreadableFile
from cxrdist.errors import UserError, nearest
from cxrdist.files import LOCK_NAME

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
# They show what lies in another place or in a file, which their URL may not even name.
INDIRECT = ("blockcache", "cached", "dir", "filecache", "generic", "reference", "simplecache", "tar", "zip")
# By name, since botocore, aiohttp and gcsfs need not be there.
UNREACHABLE = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "TimeoutError",
}
UNAUTHORISED = {"NoCredentialsError", "PartialCredentialsError", "PermissionError", "ProfileNotFound"}
# By extra: where credentials and the address are set.
SETTINGS = {
    "s3": (" (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)", " (AWS_ENDPOINT_URL)"),
    "gcs": (" (GOOGLE_APPLICATION_CREDENTIALS)", ""),
}
TOLD_CHARACTERS = 120
# s3fs tries 5 times what botocore tries 5 times, and a GET 5 times that: half an hour, at 15 s a try, until a
# server that is silent is told of. With these, five minutes.
S3FS_TRIES = 2
# These refuse or drop at once, so all of those tries are soon over. A server that is silent is not asked again.
TORN = {"ClientPayloadError", "IncompleteRead", "IncompleteReadError"}
BUSY = {"SlowDown", "InternalError", "ServiceUnavailable", "429", "500", "502", "503", "504"}
PATIENCE_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0

# Of all stores, but taken for a moment only: the first request of several threads would make a session each.
_CONNECTING = threading.Lock()


class RemoteStore:
    """Objects below a URL.

    S3 and GCS show an object once it is there whole: one PUT (or, above 100 MB, a multipart upload that its last
    request completes), so a killed writer leaves no torn object. A set has no such moment as a whole, hence the
    manifest, written last. Kinds without that promise (sftp, smb ...) may show a torn file after a kill; hashes
    find it.

    Nothing is locked, for an object store has no lock that ends with its holder. Two processes may do the same job
    at once: the files of a set are a function of what the job's own file tells, so both write the same bytes under
    the same names, and neither removes a file that the other's set will name. A job that finds another's file is
    refused. Only two different jobs that both find the place empty, within the same moment, are not told apart;
    ``verify`` lists what they did to each other.

    Connections do not survive a fork: worker processes are spawned.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.protocol, _, rest = url.partition("://")
        self.url = url.rstrip("/")
        if "::" in url or self.protocol in INDIRECT:
            raise UserError(
                f"{url}: a URL that leads through another place is not followed; name the place itself, such as "
                "s3://bucket/set"
            )
        if self.protocol not in fsspec.available_protocols():
            raise UserError(
                f"{url}: unknown kind of URL {self.protocol!r}{nearest(self.protocol, ['s3', 'gs', 'memory'])}"
            )
        if not rest.strip("/") or (self.protocol in EXTRAS and rest.startswith("/")):
            raise UserError(f"{url}: names no place; write {self.protocol}://bucket/set")

    @property
    def is_shared(self) -> bool:
        """False where each process sees files of its own."""
        return self.protocol != "memory"

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        # Connections and event loops do not travel.
        return {"url": self.url, "protocol": self.protocol}

    @cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec

        try:
            # Another process may write while this one reads: what a place holds is asked anew each time.
            fs, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            extra = EXTRAS.get(self.protocol)
            remedy = f"pip install 'cxrdist[{extra}]'" if extra else "install the package that it names"
            raise UserError(f"{self.url}: {error}: {remedy}") from None
        except TypeError:
            return fsspec.core.url_to_fs(self.url)  # a kind that keeps no listings
        if EXTRAS.get(self.protocol) == "s3":
            fs.retries = S3FS_TRIES
            fs.connect()
        return fs, root

    @contextlib.contextmanager
    def _asking(self, name: str = "") -> Iterator[tuple[Any, str]]:
        """The file system and a path on it; whatever it fails with, other than FileNotFoundError, is told."""
        try:
            with _CONNECTING:
                fs, root = self._place
            yield fs, f"{root}/{name}" if name else root
        except UserError:
            raise
        except FileNotFoundError as error:
            if code_of(error) == "NoSuchBucket":
                raise self._no_bucket() from None
            raise
        except Exception as error:
            raise UnreadableFile(self.url, name, explained(error, self.protocol)) from error

    def _no_bucket(self) -> UserError:
        bucket = self.url.partition("://")[2].partition("/")[0]
        return UserError(
            f"{self.url}: there is no bucket {bucket!r}; make it, or check its name and the address that is asked"
            f"{SETTINGS[EXTRAS[self.protocol]][1]}",
            every_rank=True,
        )

    def exists(self, name: str) -> bool:
        return self._type(name) == "file"

    def is_there(self) -> bool:
        return self._type() is not None

    def _type(self, name: str = "") -> str | None:
        # fsspec's own exists and isfile say no to whatever fails, a network that is down included.
        try:
            with self._asking(name) as (fs, path):
                return str(fs.info(path)["type"])
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        try:
            with self._asking() as (fs, root):
                found = fs.ls(root, detail=False)
        except FileNotFoundError:
            return []
        # An S3 console makes a "folder" as an empty object named by the prefix itself.
        return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in found if path != f"{root}/"})

    def size(self, name: str) -> int:
        with self._asking(name) as (fs, path):
            return int(fs.size(path))

    def read(self, name: str) -> bytes:
        return self._get(name, 0, None)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self._get(name, start, start + length)

    def _get(self, name: str, start: int, stop: int | None) -> bytes:
        # Always a range: for a whole file s3fs would ask its size first.
        until, pause_s = time.monotonic() + PATIENCE_S, FIRST_PAUSE_S
        with self._asking(name) as (fs, path):
            while True:
                try:
                    return fs.cat_file(path, start=start, end=stop)
                except Exception as error:
                    if code_of(error) in ("InvalidRange", "416"):
                        return b""  # it ends before
                    if not passes(error) or time.monotonic() + pause_s > until:
                        raise
                # Not all ranks at the same moment.
                time.sleep(pause_s * random.uniform(0.5, 1))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def open(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        # Fetched whole: who reads sequentially reads all of it, and then it can't fail half-way.
        return io.BytesIO(self.read(name))

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[IO[bytes]]:
        # Kept in memory (s3fs would read a temporary file into it all the same): a kill leaves nothing behind.
        file = io.BytesIO()
        yield file
        with self._asking(name) as (fs, path):
            try:
                fs.pipe_file(path, file.getvalue())
            except FileNotFoundError:
                if self.protocol in EXTRAS:
                    raise self._no_bucket() from None  # s3fs's makedirs would make one
                # A kind that has folders, and wants them first.
                fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                fs.pipe_file(path, file.getvalue())

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._asking(name) as (fs, path):
            fs.rm_file(path)

    def lock(self, purpose: str) -> Callable[[], None]:
        # None of ours, but a folder that was copied here while a job wrote it brings one along.
        return lambda: self.remove(LOCK_NAME)

    def tidy(self) -> None:
        pass

    def remove_if_empty(self) -> None:
        pass

    def close(self) -> None:
        pass


def code_of(error: Exception) -> str:
    """S3's or HTTP's code of an error, such as ``NoSuchBucket`` or ``416``; "" where it has none."""
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    return str(getattr(error, "status", None) or getattr(error, "code", None) or "")


def passes(error: Exception) -> bool:
    """Whether a place that refuses, or drops a connection, may well answer in a moment."""
    return not TORN.isdisjoint(cls.__name__ for cls in type(error).__mro__) or code_of(error) in BUSY


def explained(error: Exception, protocol: str) -> str:
    """What a file system failed with, and what to do, in one line."""
    told = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    # Of a long address with its query only the part that was not reached.
    told = re.sub(r"(https?://[^/\s\"']+)[^\s\"']*", r"\1", told).rstrip(".")
    if len(told) > TOLD_CHARACTERS:
        told = f"{told[:TOLD_CHARACTERS]}..."
    names = {cls.__name__ for cls in type(error).__mro__}
    credentials, address = SETTINGS.get(EXTRAS.get(protocol, ""), ("", ""))
    if names & UNAUTHORISED or code_of(error) in ("401", "403"):
        return (
            f"{told}: check the credentials{credentials}, and that they permit to list, read and write there"
        )
    if names & UNREACHABLE:
        return f"{told}: check the address{address} and the network, and run the same command again"
    return f"{told}: check the address, and run the same command again"
