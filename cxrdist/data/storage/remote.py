"""A shard set in an object store, or in another place that fsspec reaches."""

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
# These read another place or a file, which their URL may not even name.
INDIRECT = ("blockcache", "cached", "dir", "filecache", "generic", "reference", "simplecache", "tar", "zip")
# By name, since botocore, aiohttp and gcsfs may not be installed.
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
SHOWN_CHARACTERS = 120
# s3fs retries 5 times what botocore tries 5 times, and a GET 5 times that: at 15 s a try, an error about a silent
# server would take half an hour. With this number it takes five minutes.
S3FS_TRIES = 2
# Errors of a server that refuses or drops a connection at once, so that those tries take little time. Requests to a
# silent server are not repeated.
DROPPED = {"ClientPayloadError", "IncompleteRead", "IncompleteReadError"}
BUSY = {"SlowDown", "InternalError", "ServiceUnavailable", "429", "500", "502", "503", "504"}
RETRY_FOR_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0

# One lock for all stores, held briefly: otherwise the first requests of several threads would open a session each.
_CONNECTING = threading.Lock()


class RemoteStore:
    """Objects below a URL.

    S3 and GCS show an object only when it is complete: one PUT (or, above 100 MB, a multipart upload, which its last
    request completes), so a killed writer leaves no partial object. A set as a whole is complete when its manifest
    exists, which is written last. Protocols without that guarantee (sftp, smb ...) may show a partial file after a
    kill; hashes detect it.

    Nothing is locked, since an object store has no lock that is released when its holder dies. Two processes may do
    the same job at the same time: the files of a set are a function of the options in the job file, so both write the
    same bytes under the same names, and neither removes a file that the other's manifest will list. A job that finds
    the job file of a different job is refused. Only two different jobs that both find the place empty at the same
    moment are not detected; ``verify`` lists the damage.

    Connections do not survive a fork: worker processes must be spawned.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.protocol, _, rest = url.partition("://")
        self.url = url.rstrip("/")
        if "::" in url or self.protocol in INDIRECT:
            raise UserError(
                f"{url}: a URL that reads through another place is refused; give the place itself, such as "
                "s3://bucket/set"
            )
        if self.protocol not in fsspec.available_protocols():
            raise UserError(
                f"{url}: unknown kind of URL {self.protocol!r}{nearest(self.protocol, ['s3', 'gs', 'memory'])}"
            )
        if not rest.strip("/") or (self.protocol in EXTRAS and rest.startswith("/")):
            raise UserError(f"{url}: names no bucket or set; write {self.protocol}://bucket/set")

    @property
    def is_shared(self) -> bool:
        """False if each process has files of its own."""
        return self.protocol != "memory"

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        # Connections and event loops can't be pickled.
        return {"url": self.url, "protocol": self.protocol}

    @cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec

        try:
            # No listings cache: another process may write while this one reads.
            fs, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            extra = EXTRAS.get(self.protocol)
            remedy = f"pip install 'cxrdist[{extra}]'" if extra else "install that package"
            raise UserError(f"{self.url}: {error}: {remedy}") from None
        except TypeError:
            return fsspec.core.url_to_fs(self.url)  # this file system has no listings cache
        if EXTRAS.get(self.protocol) == "s3":
            fs.retries = S3FS_TRIES
            fs.connect()
        return fs, root

    @contextlib.contextmanager
    def _asking(self, name: str = "") -> Iterator[tuple[Any, str]]:
        """The file system and a path on it. Within the ``with`` block any error other than FileNotFoundError becomes
        a UserError with cause and remedy."""
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
            f"{self.url}: there is no bucket {bucket!r}; create it, or check its name and the server's address"
            f"{SETTINGS[EXTRAS[self.protocol]][1]}"
        )

    def exists(self, name: str) -> bool:
        return self._type(name) == "file"

    def is_there(self) -> bool:
        return self._type() is not None

    def _type(self, name: str = "") -> str | None:
        # fsspec's own exists and isfile return False for any error, even if the network is down.
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
        # The S3 console creates a "folder" as an empty object with the name of the prefix.
        return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in found if path != f"{root}/"})

    def size(self, name: str) -> int:
        with self._asking(name) as (fs, path):
            return int(fs.size(path))

    def read(self, name: str) -> bytes:
        return self._get(name, 0, None)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self._get(name, start, start + length)

    def _get(self, name: str, start: int, stop: int | None) -> bytes:
        # Always a range: for a whole file s3fs would first request its size.
        until, pause_s = time.monotonic() + RETRY_FOR_S, FIRST_PAUSE_S
        with self._asking(name) as (fs, path):
            while True:
                try:
                    return fs.cat_file(path, start=start, end=stop)
                except Exception as error:
                    if code_of(error) in ("InvalidRange", "416"):
                        return b""  # the file ends before ``start``
                    if not is_transient(error) or time.monotonic() + pause_s > until:
                        raise
                # Random, so that the ranks do not retry at the same moment.
                time.sleep(pause_s * random.uniform(0.5, 1))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def open(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        # Fetched whole: a sequential reader needs all of it, and then reading can't fail half-way.
        return io.BytesIO(self.read(name))

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[IO[bytes]]:
        # Collected in memory (s3fs would read a temporary file into memory anyway), so a kill leaves nothing behind.
        file = io.BytesIO()
        yield file
        with self._asking(name) as (fs, path):
            try:
                fs.pipe_file(path, file.getvalue())
            except FileNotFoundError:
                if self.protocol in EXTRAS:
                    raise self._no_bucket() from None  # s3fs's makedirs would create one
                # A file system with folders, which must exist first.
                fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                fs.pipe_file(path, file.getvalue())

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._asking(name) as (fs, path):
            fs.rm_file(path)

    def lock(self, purpose: str) -> Callable[[], None]:
        # There is no lock; but a folder that was copied here while a job wrote it has a lock file, which is removed.
        return lambda: self.remove(LOCK_NAME)

    def tidy(self) -> None:
        pass

    def remove_if_empty(self) -> None:
        pass

    def close(self) -> None:
        pass


def code_of(error: Exception) -> str:
    """The S3 or HTTP code of an error, such as ``NoSuchBucket`` or ``416``; "" if it has none."""
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    return str(getattr(error, "status", None) or getattr(error, "code", None) or "")


def is_transient(error: Exception) -> bool:
    """True for a refused or dropped request that may succeed if it is repeated shortly after."""
    return not DROPPED.isdisjoint(cls.__name__ for cls in type(error).__mro__) or code_of(error) in BUSY


def explained(error: Exception, protocol: str) -> str:
    """The error of a file system, and what to do, in one line."""
    cause = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    # Of a long URL with a query only the server is shown.
    cause = re.sub(r"(https?://[^/\s\"']+)[^\s\"']*", r"\1", cause).rstrip(".")
    if len(cause) > SHOWN_CHARACTERS:
        cause = f"{cause[:SHOWN_CHARACTERS]}..."
    names = {cls.__name__ for cls in type(error).__mro__}
    credentials, address = SETTINGS.get(EXTRAS.get(protocol, ""), ("", ""))
    if names & UNAUTHORISED or code_of(error) in ("401", "403"):
        return (
            f"{cause}: check the credentials{credentials}, and that they allow to list, read and write there"
        )
    if names & UNREACHABLE:
        return f"{cause}: check the address{address} and the network, and run the same command again"
    return f"{cause}: check the address, and run the same command again"
