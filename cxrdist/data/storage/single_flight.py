"""A cache of read results for several threads, in which one thread reads each result for all."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """``read`` with a cache of the ``size`` results that were used last.

    If several threads ask for the same key at the same time, one of them calls ``read`` and the others wait for its
    result; with functools.lru_cache each of them would call it. An exception is raised in all threads that wait for
    it, and is not cached. (The name is that of Go's golang.org/x/sync/singleflight.)
    """

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
