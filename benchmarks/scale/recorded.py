"""A job of launch/ whose rank 0 writes down what it sends: every collective, with its bytes and the step it was in.

    accelerate launch --config_file configs/accelerate/cpu2.yaml benchmarks/scale/recorded.py OUT launch/JOB.py ...

Gradients are counted by a hook of DDP that does what DDP does without one. Bytes are those that a rank gives to the
collective, not those that an algorithm sends for it.
"""

from __future__ import annotations

import functools
import json
import pickle
import runpy
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

SENT: dict[str, int] = {
    "all_reduce": 0,
    "broadcast": 0,
    "all_gather": 1,
    "all_gather_into_tensor": 1,
    "all_gather_object": 1,
    "broadcast_object_list": 0,
    "barrier": -1,
}
"""Collectives, and which of their arguments a rank sends."""
GRADIENTS = "gradients"


class Recorder:
    """The events of this process: ``[step, thread, kind, bytes]``; step 0 is before the first one."""

    def __init__(self) -> None:
        self.step = 0
        self.in_hook = False
        self.events: list[tuple[int, str, str, int]] = []

    def saw(self, kind: str, size_bytes: int) -> None:
        thread = "main" if threading.current_thread() is threading.main_thread() else "loader"
        self.events.append((self.step, thread, kind, size_bytes))

    def wrap(self, name: str) -> None:
        inner, which = getattr(dist, name), SENT[name]

        @functools.wraps(inner)
        def outer(*args: Any, **words: Any) -> Any:
            if not self.in_hook:
                self.saw(name, bytes_of(args[which]) if 0 <= which < len(args) else 0)
            return inner(*args, **words)

        setattr(dist, name, outer)

    def count_gradients(self) -> None:
        made: Callable[..., None] = DistributedDataParallel.__init__

        def init(module: DistributedDataParallel, *args: Any, **words: Any) -> None:
            made(module, *args, **words)
            # Without annotations, which DDP does not take as text.
            module.register_comm_hook(None, lambda state, bucket: self._hook(bucket))

        setattr(DistributedDataParallel, "__init__", init)  # noqa: B010  (mypy forbids to assign a method)

    def _hook(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        # From a thread of autograd.
        buffer = bucket.buffer()
        self.events.append((self.step, "main", GRADIENTS, buffer.numel() * buffer.element_size()))
        self.in_hook = True  # it calls all_reduce itself
        try:
            return allreduce_hook(dist.distributed_c10d._get_default_group(), bucket)
        finally:
            self.in_hook = False

    def count_steps(self, kind: type) -> None:
        step = kind.__call__

        def counted(*args: Any, **words: Any) -> Any:
            self.step += 1
            return step(*args, **words)

        setattr(kind, "__call__", counted)  # noqa: B010


def bytes_of(value: Any) -> int:
    """Of a tensor, or of anything else as it is pickled."""
    return (
        value.numel() * value.element_size() if isinstance(value, torch.Tensor) else len(pickle.dumps(value))
    )


def main() -> None:
    out, script, *words = sys.argv[1:]
    recorder = Recorder()
    for name in SENT:
        recorder.wrap(name)
    recorder.count_gradients()
    from cxrdist.cls.training.step import ClsStep
    from cxrdist.gan.training.step import GANStep

    for kind in (GANStep, ClsStep):
        recorder.count_steps(kind)
    sys.argv = [script, *words]
    job = runpy.run_path(script)["main"]
    from cxrdist import process

    def recorded() -> None:
        job()
        from cxrdist.ranks import is_main_rank

        if is_main_rank():
            Path(out).write_text(json.dumps(recorder.events))

    process.main(recorded)


if __name__ == "__main__":
    main()
