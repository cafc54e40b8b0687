"""Workers that are killed: the job says so, and no worker is left."""

from __future__ import annotations

import multiprocessing.context
import os
import signal
import time

import pytest

from cxrdist.data.shards.writing.write_pool import work
from cxrdist.errors import UserError


def test_a_worker_killed_while_another_one_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's pool breaks then, forgets the worker that it is starting, and waits for it."""
    workers: list[multiprocessing.context.SpawnProcess] = []
    start = multiprocessing.context.SpawnProcess.start

    def kill_the_first_and_start(self: multiprocessing.context.SpawnProcess) -> None:
        if workers:
            os.kill(workers[0].pid or 0, signal.SIGKILL)
        start(self)
        workers.append(self)
        if len(workers) == 2:
            time.sleep(1)  # the pool notices meanwhile

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", kill_the_first_and_start)
    with pytest.raises(UserError, match="a worker process was killed"):
        list(work(abs, range(8), "", 8, 2, in_process=False))
    assert workers[0].exitcode == -signal.SIGKILL
    # SIGTERM comes from the pool, if it noticed only after it knew the second worker.
    assert workers[1].exitcode in (-signal.SIGKILL, -signal.SIGTERM)
