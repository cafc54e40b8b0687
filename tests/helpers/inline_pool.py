"""A process pool that runs its tasks in the calling process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from cxrdist.data.shards.writing import write_pool


class InlinePool:
    """Runs tasks here and now: the code that workers run, without the seconds that starting them takes."""

    workers: int

    def __init__(self, workers: int, *, mp_context: object, initializer: object, initargs: Any) -> None:
        type(self).workers = workers
        write_pool._shared = initargs[1]

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_: bool) -> None:
        pass
