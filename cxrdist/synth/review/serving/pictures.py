"""Images as they are sent: nothing but the pixels tells where one comes from.

Each image is decoded and written again as PNG without compression, so all have the same chunks and the same number of
bytes: compressed, or padded to a multiple, images of one origin might be longer than those of the other on average.
They are read ahead of the request, and the answer waits until a multiple of ``STEP_S``: how long reading takes, which
may be longer for one of the sets, does not show. A name is a keyed hash of reader, task and key.
"""

from __future__ import annotations

import hmac
import io
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image

from cxrdist.synth.review.serving.pool import Pool

STEP_S = 0.03
"""Many times what reading and writing an image takes, and not to be noticed: the page loads images ahead."""
KEPT = 64


class Pictures:
    """The PNG files of a pool's images; the last ``KEPT`` stay in memory."""

    def __init__(self, pool: Pool, secret: bytes) -> None:
        self._pool, self._secret = pool, secret
        self._threads = ThreadPoolExecutor(2, "pictures")
        self._files: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._turn = threading.Lock()

    def prepare(self, numbers: Iterable[int]) -> None:
        """Read images before they are asked for."""
        for number in numbers:
            self._file(number)

    def png(self, number: int) -> bytes:
        """Raises UserError for an image that is not as it was written, or cannot be read."""
        try:
            return self._file(number).result()
        except BaseException:
            with self._turn:
                self._files.pop(number, None)
            raise

    def _file(self, number: int) -> Future[bytes]:
        with self._turn:
            if number not in self._files:
                self._files[number] = self._threads.submit(self._written, number)
            self._files.move_to_end(number)
            while len(self._files) > KEPT:
                self._files.popitem(last=False)
            return self._files[number]

    def _written(self, number: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(self._pool.pixels(number)).save(file, "PNG", compress_level=0)
        return file.getvalue()

    def token(self, reader_id: int, task: str, number: int) -> str:
        """The name of an image for one reader in one task, 32 hex digits."""
        text = f"image\0{reader_id}\0{task}\0{self._pool.key(number)}"
        return hmac.digest(self._secret, text.encode(), "sha256").hex()[:32]

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


def wait_s(spent_s: float) -> float:
    """How long an answer still waits, so that it is sent at a multiple of ``STEP_S``."""
    return math.ceil(max(spent_s, 1e-9) / STEP_S) * STEP_S - spent_s
