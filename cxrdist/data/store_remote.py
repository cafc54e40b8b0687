"""A shard set in an object store, or wherever fsspec reaches."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import IO, Any, cast

from cxrdist.errors import UserError, nearest
from cxrdist.files import LOCK_NAME

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class RemoteStore:
    """Objects below a URL. One that is put shows whole or not at all (S3, GCS); nothing is locked.

    Two writers of one set need no lock: a set's files are a function of its input and options, which the job's
    own file tells, so they write the same bytes, and a job with others is refused.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        protocol = self.url.partition("://")[0]
        known = fsspec.available_protocols()
        if "::" in self.url:
            raise UserError(f"{url}: chained URLs are not followed; name the place itself")
        if protocol not in known:
            raise UserError(
                f"{url}: unknown kind of URL {protocol!r}{nearest(protocol, ['s3', 'gs', 'memory'])}"
            )

    @property
    def is_shared(self) -> bool:
        """False where each process sees files of its own."""
        return not self.url.startswith("memory://")

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        # Connections and event loops do not travel.
        return {"url": self.url}

    @cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec

        try:
            # Another process may write while this one reads: what a place holds is asked anew each time.
            return fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            extra = EXTRAS.get(self.url.partition("://")[0])
            remedy = f"pip install 'cxrdist[{extra}]'" if extra else "install the package that it names"
            raise UserError(f"{self.url}: {error}: {remedy}") from None
        except TypeError:
            return fsspec.core.url_to_fs(self.url)  # a kind that keeps no listings

    @contextlib.contextmanager
    def _asking(self, name: str = "") -> Iterator[tuple[Any, str]]:
        """The file system and a path on it; whatever it fails with, other than FileNotFoundError, is told."""
        where = f"{self.url}/{name}" if name else self.url
        try:
            fs, root = self._place
            yield fs, f"{root}/{name}" if name else root
        except (FileNotFoundError, UserError, GeneratorExit, KeyboardInterrupt):
            raise
        except Exception as error:
            told = str(error) or type(error).__name__
            raise UserError(
                f"{where}: {told}: check the address, the credentials and the network, and run the same command "
                "again",
                every_rank=True,
            ) from error

    def exists(self, name: str) -> bool:
        with self._asking(name) as (fs, path):
            return fs.isfile(path)

    def is_there(self) -> bool:
        return bool(self.names())

    def names(self) -> list[str]:
        with self._asking() as (fs, root):
            try:
                found = fs.ls(root, detail=False)
            except FileNotFoundError:
                return []
            return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in found} - {""})

    def size(self, name: str) -> int:
        with self._asking(name) as (fs, path):
            return int(fs.size(path))

    def read(self, name: str) -> bytes:
        with self._asking(name) as (fs, path):
            return fs.cat_file(path)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        with self._asking(name) as (fs, path):
            return fs.cat_file(path, start=start, end=start + length)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        # Fetched whole: who reads sequentially reads all of it, and a local file can't fail half-way.
        with tempfile.NamedTemporaryFile(prefix="cxrdist-") as file:
            with self._asking(name) as (fs, path):
                fs.get_file(path, file.name)
            with open(file.name, "rb") as fetched:  # noqa: PTH123
                yield fetched

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[IO[bytes]]:
        with tempfile.NamedTemporaryFile(prefix="cxrdist-") as file:
            yield cast(IO[bytes], file)
            file.flush()
            with self._asking(name) as (fs, path):
                # Some kinds (sftp, memory) have folders, and want them first.
                fs.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH120
                fs.put_file(file.name, path)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._asking(name) as (fs, path):
            fs.rm_file(path)

    def lock(self, purpose: str) -> Callable[[], None]:
        return lambda: self.remove(LOCK_NAME)

    def tidy(self) -> None:
        pass

    def remove_if_empty(self) -> None:
        pass

    def close(self) -> None:
        pass
