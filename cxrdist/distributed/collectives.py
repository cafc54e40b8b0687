"""What the ranks of a job tell each other: sums, values, errors, and what any of them asks for between two steps."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from cxrdist.distributed.connect import set_timeout
from cxrdist.distributed.watch import Watch
from cxrdist.errors import UserError, from_os
from cxrdist.ranks import full_place, place

T = TypeVar("T")

WORK_TIMEOUT = timedelta(days=30)
"""Of waiting for work of any length on one rank: that it still runs is what ``Watch`` looks after."""


class Collectives:
    """The ranks of a job: ``rank``, ``world_size``, and their collective operations. All ranks make the same calls in
    the same order.

    Operations of a training step (``gather``, ``mean``, votes, and those of DDP and DeepSpeed) fail after
    ``timeout``, the others wait for work of any length. ``store``: of the ranks, if there are several; a rank that is
    silent for ``silence_s`` ends all.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        store: torch.distributed.Store | None,
        silence_s: float,
        timeout: timedelta,
    ) -> None:
        self.accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.world_size: int = accelerator.num_processes
        self._is_alone = False
        # Process groups of their own for messages between the ranks: the loader sends them from another thread, votes
        # are under way during a step, and collectives of two users must not mix in one group.
        self._channel, self._votes, self._meeting = (self._gloo(timeout) for _ in range(3))
        self._watch: Watch | None = None
        if store is not None and self.world_size > 1:
            places = self.gather_objects([full_place()])
            self._watch = Watch(store, self.rank, places, silence_s)
        # Not before somebody watches: a rank that is lost while the groups are made would be waited for as long.
        for group in (self._channel, self._meeting):
            if group is not None:
                set_timeout(group, WORK_TIMEOUT)

    def _gloo(self, timeout: timedelta) -> torch.distributed.ProcessGroup | None:
        return torch.distributed.new_group(backend="gloo", timeout=timeout) if self.world_size > 1 else None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """True if this rank works on its own, while the other ranks of the job do other work; see ``alone``."""
        return self._is_alone

    def alone(self) -> Self:
        """This process as a job of one process on the same device: none of its operations waits for another rank."""
        alone = copy.copy(self)
        alone.rank, alone.world_size = 0, 1
        alone._channel = alone._votes = alone._meeting = alone._watch = None
        alone._is_alone = True
        if self._watch is not None:
            self._watch.is_judging = False
        return alone

    def meet(self, value: T) -> list[T]:
        """Small picklable values of all ranks, on all ranks, in the order of ranks, after work that each rank did
        ``alone``: from here on a lost rank ends the others again."""
        if self._watch is not None:
            self._watch.is_judging = True
        return self.gather_objects([value])

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self._meeting is not None:
            torch.distributed.barrier(group=self._meeting)

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[n, ...] on each rank, with equal n -> [world_size n, ...] on all ranks, in the order of ranks."""
        return self.accelerator.gather(tensor) if self.world_size > 1 else tensor

    def gather_objects(self, values: list[T]) -> list[T]:
        """Small picklable values, any number of each rank, on all ranks, in the order of ranks."""
        if self._meeting is None:
            return values
        of_ranks: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(of_ranks, values, group=self._meeting)
        return [value for of_rank in of_ranks for value in of_rank]

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over the ranks, on all ranks."""
        return self.accelerator.reduce(tensor, reduction="mean") if self.world_size > 1 else tensor

    def average_buffers(self, model: nn.Module) -> None:
        """Average the BatchNorm statistics over the ranks, in place: each rank has those of its part of the
        batches."""
        if self.world_size > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.mean(buffer))

    def total(self, numbers: Sequence[int]) -> list[int]:
        """The sums over all ranks. Call it from one thread only, which may be another than the main thread."""
        sums = torch.tensor(numbers)
        if self._channel is not None:
            torch.distributed.all_reduce(sums, group=self._channel)
        return [int(n) for n in sums.tolist()]

    def first(self, message: str | None) -> str:
        """The message of the first rank that has one. Call it from the thread that calls ``total``."""
        messages: list[str | None] = [message]
        if self._channel is not None:
            messages = [None] * self.world_size
            torch.distributed.all_gather_object(messages, message, group=self._channel)
        return next(one for one in messages if one is not None)

    def votes(self) -> Votes:
        """Of one loop of steps."""
        return Votes(self._votes)

    def on_main(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0, and return its picklable result on every rank. A UserError or OSError of it is
        raised on every rank, as a UserError."""
        outcome: list[Any] = [None, None]  # result, message of the error
        if self.is_main:
            try:
                outcome[0] = function()
            except (UserError, OSError) as error:
                outcome[1] = named(error)
        if self._meeting is not None:
            torch.distributed.broadcast_object_list(outcome, src=0, group=self._meeting)
        if outcome[1] is not None:
            raise UserError(outcome[1], is_named=True)
        return outcome[0]

    def agree(self, function: Callable[[], T]) -> T:
        """Call a function on every rank, and return this rank's result. If it raises UserError or OSError on any, all
        ranks raise the error of the first of them, as a UserError that names the rank and its machine."""
        if self.world_size == 1:
            return function()
        result: Any = None
        message: str | None = None
        try:
            result = function()
        except (UserError, OSError) as error:
            message = named(error)
        messages = self.gather_objects([message])
        if failed := [text for text in messages if text is not None]:
            raise UserError(failed[0], is_named=True)
        return result

    @contextlib.contextmanager
    def hold_on_main(self, manager: AbstractContextManager[object]) -> Iterator[None]:
        """Rank 0 enters ``manager`` for the ``with`` block. A UserError or OSError on entering is raised on every
        rank, as a UserError."""
        with contextlib.ExitStack() as stack:

            def enter() -> None:
                stack.enter_context(manager)

            self.on_main(enter)
            yield


class Votes:
    """After each step, what any rank asks for: the largest of their numbers, 0 for nothing.

    A vote takes a step: the ranks exchange their numbers while they do the next one, so that none waits for another.
    """

    def __init__(self, group: torch.distributed.ProcessGroup | None) -> None:
        self._group = group
        self._before: tuple[torch.distributed.Work | None, torch.Tensor] | None = None

    def after_step(self, mine: int) -> int:
        """The result of the call before this one, of which ``mine`` is this rank's number; in a job of one process
        ``mine`` itself. Every rank calls this after every step."""
        if self._group is None:
            return mine
        before, number = self._before, torch.tensor([mine])
        work = torch.distributed.all_reduce(
            number, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        self._before = work, number
        return _result(before)

    def end(self) -> None:
        """Wait for the last vote, whose result has no step left. Every rank calls this after the loop."""
        _result(self._before)
        self._before = None


def _result(vote: tuple[torch.distributed.Work | None, torch.Tensor] | None) -> int:
    if vote is None:
        return 0
    work, number = vote
    if work is not None:
        work.wait()
    return int(number)


def named(error: UserError | OSError) -> str:
    """The message of this rank's error, with the rank's name if another rank could have raised another one."""
    known = error if isinstance(error, UserError) else from_os(error)
    where = "" if known.is_named else place()
    return f"{where}: {known}" if where else str(known)
