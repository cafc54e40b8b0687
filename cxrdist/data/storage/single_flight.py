"""A memory of what was read last, that several threads share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Once(Generic[K, V]):
    """``read``, keeping the last ``size`` results. Of several threads that ask for the same one at a time, one reads
    it for all, where functools.lru_cache has each of them read it. An error is not kept."""

    def __init__(self, read: Callable[[K], V], size: int) -> None:
        self.read, self.size = read, size
        self._lock = threading.Lock()
        self._results: OrderedDict[K, Future[V]] = OrderedDict()

    def __call__(self, key: K) -> V:
        with self._lock:
            result = self._results.get(key)
            if result is not None:
                self._results.move_to_end(key)
            else:
                mine = self._results[key] = Future()
                if len(self._results) > self.size:
                    self._results.popitem(last=False)
        if result is not None:
            return result.result()
        try:
            mine.set_result(self.read(key))
        except BaseException as error:
            with self._lock:
                if self._results.get(key) is mine:
                    del self._results[key]
            mine.set_exception(error)
        return mine.result()
