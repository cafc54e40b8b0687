"""A shard set in an object store, or in another place that fsspec reaches."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import IO, Any, TypeVar

from cxrdist.data.storage import aws, traffic
from cxrdist.data.storage.errors import UnreadableFile
from cxrdist.data.storage.failures import code_of, explained, reason_to_repeat, settings_of
from cxrdist.data.storage.retries import NoAnswer, Retries
from cxrdist.errors import UserError, nearest
from cxrdist.files import LOCK_NAME

T = TypeVar("T")

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
# These read another place or a file, which their URL may not even name.
INDIRECT = ("blockcache", "cached", "dir", "filecache", "generic", "reference", "simplecache", "tar", "zip")

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
        user, at, host = rest.partition("/")[0].rpartition("@")
        if at and ":" in user:
            raise UserError(
                f"{self.protocol}://...@{host}: an address with a password is refused, since messages and `ps` would "
                "show it; put user and password into ~/.config/fsspec/conf.json"
            )
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
        self._retries = self._new_retries()

    def _new_retries(self, *, has_answered: bool = False) -> Retries:
        return Retries(self.url, reason_to_repeat, has_answered=has_answered)

    @property
    def is_shared(self) -> bool:
        """False if each process has files of its own."""
        return self.protocol != "memory"

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        # Connections, event loops and locks can't be pickled.
        return {"url": self.url, "protocol": self.protocol, "has_answered": self._retries.has_answered}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.url, self.protocol = state["url"], state["protocol"]
        self._retries = self._new_retries(has_answered=state["has_answered"])

    @cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec

        # No listings cache: another process may write while this one reads.
        options: dict[str, Any] = {"use_listings_cache": False}
        if self._is_s3:
            options |= aws.OPTIONS
        try:
            fs, root = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            extra = EXTRAS.get(self.protocol)
            remedy = f"pip install 'cxrdist[{extra}]'" if extra else "install that package"
            raise UserError(f"{self.url}: {error}: {remedy}") from None
        except TypeError:
            return fsspec.core.url_to_fs(self.url)  # this file system has no listings cache
        if self._is_s3:
            aws.connect(fs)
        return fs, root

    @property
    def _is_s3(self) -> bool:
        return EXTRAS.get(self.protocol) == "s3"

    def _ask(self, name: str, request: Callable[[Any, str], T]) -> T:
        """The result of a request, which gets the file system and a path on it; repeated while the store does not
        answer. Any error other than FileNotFoundError becomes a UserError with cause and remedy."""

        def ask() -> T:
            with _CONNECTING:
                fs, root = self._place
            path = f"{root}/{name}" if name else root
            if self._is_s3:
                return aws.with_new_credentials(fs, lambda: request(fs, path))
            return request(fs, path)

        try:
            return self._retries.until_answered(name, ask)
        except UserError:
            raise
        except FileNotFoundError as error:
            if code_of(error) == "NoSuchBucket":
                raise self._no_bucket() from None
            raise
        except NoAnswer as error:
            why = explained(error.last, self._kind, error)
            raise UnreadableFile(self.url, name, why) from error
        except Exception as error:
            raise UnreadableFile(self.url, name, explained(error, self._kind)) from error

    @property
    def _kind(self) -> str:
        return EXTRAS.get(self.protocol, "")

    def _no_bucket(self) -> UserError:
        bucket = self.url.partition("://")[2].partition("/")[0]
        return UserError(
            f"{self.url}: there is no bucket {bucket!r}; create it, or check its name and the server's address"
            f"{settings_of(self._kind).address}"
        )

    def exists(self, name: str) -> bool:
        return self._type(name) == "file"

    def is_there(self) -> bool:
        return self._type() is not None

    def _type(self, name: str = "") -> str | None:
        # fsspec's own exists and isfile return False for any error, even if the network is down.
        try:
            return self._ask(name, lambda fs, path: str(fs.info(path)["type"]))
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        # The S3 console creates a "folder" as an empty object with the name of the prefix.
        def listed(fs: Any, root: str) -> set[str]:
            found = fs.ls(root, detail=False)
            return {path.rstrip("/").rsplit("/", 1)[-1] for path in found if path != f"{root}/"}

        try:
            return sorted(self._ask("", listed))
        except FileNotFoundError:
            return []

    def size(self, name: str) -> int:
        return self._ask(name, lambda fs, path: int(fs.size(path)))

    def read(self, name: str) -> bytes:
        return self._get(name, 0, None)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self._get(name, start, start + length)

    def _get(self, name: str, start: int, stop: int | None) -> bytes:
        def get(fs: Any, path: str) -> bytes:
            try:
                if self._is_s3:
                    data = aws.get(fs, path, start, stop)
                else:
                    data = fs.cat_file(path, start=start, end=stop)
            except Exception as error:
                if code_of(error) in ("InvalidRange", "416"):
                    return b""  # the file ends before ``start``
                raise
            traffic.count(bytes=len(data))
            return data

        return self._ask(name, get)

    def open(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        # Fetched whole: a sequential reader needs all of it, and then reading can't fail half-way.
        return io.BytesIO(self.read(name))

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[IO[bytes]]:
        # Collected in memory (s3fs would read a temporary file into memory anyway), so a kill leaves nothing behind.
        file = io.BytesIO()
        yield file
        self._ask(name, lambda fs, path: self._put(fs, path, file.getvalue()))

    def _put(self, fs: Any, path: str, data: bytes) -> None:
        try:
            fs.pipe_file(path, data)
        except FileNotFoundError:
            if self._kind:
                raise self._no_bucket() from None  # s3fs's makedirs would create one
            # A file system with folders, which must exist first.
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            fs.pipe_file(path, data)
        traffic.count(bytes=len(data))

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._ask(name, lambda fs, path: fs.rm_file(path))

    def lock(self, purpose: str) -> Callable[[], None]:
        # There is no lock; but a folder that was copied here while a job wrote it has a lock file, which is removed.
        return lambda: self.remove(LOCK_NAME)

    def tidy(self) -> None:
        pass

    def remove_if_empty(self) -> None:
        pass

    def close(self) -> None:
        pass
