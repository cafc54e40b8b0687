"""Checkpoints between two looks of a training: by time, or because a signal asks the job to stop."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from cxrdist.distributed.dist import Dist
from cxrdist.distributed.step_means import StepMeans
from cxrdist.run.checkpoint import RankState
from cxrdist.run.checkpoint_writer import CheckpointWriter
from cxrdist.stop_signals import StopRequest, exit_code_of

CHECKPOINT, FAILED = 1, 2
"""What a rank may ask for after a step: an interim checkpoint; to stop, since the last one could not be written. An
exit code, which is larger: to stop because of a signal."""


class StepBreaks:
    """After each step, what any rank asks for. ``writer``: of rank 0; ``minutes``: between two checkpoints."""

    def __init__(
        self, dist: Dist, writer: CheckpointWriter | None, minutes: float, request: StopRequest
    ) -> None:
        self.writer, self.every_s, self.request = writer, 60 * minutes, request
        self.votes = dist.votes()
        self.written()

    def written(self) -> None:
        """A checkpoint was made now: the next one by time is due ``minutes`` later."""
        self.written_s = time.monotonic()
        self._has_asked = False

    def after_step(self) -> int:
        """0, CHECKPOINT, FAILED, or the exit code of a signal, the same on all ranks. Every rank calls this after
        every step."""
        return self.votes.after_step(self._mine())

    def _mine(self) -> int:
        if self.request.signum is not None:
            return exit_code_of(self.request.signum)
        if self.writer is None or self.writer.is_busy:
            return 0
        if self.writer.has_failed:
            return FAILED
        is_due = time.monotonic() - self.written_s >= self.every_s
        if not is_due or self._has_asked:
            return 0
        self._has_asked = True  # a vote takes a step, in which it must not be asked for again
        return CHECKPOINT

    def end(self) -> None:
        self.votes.end()


def state_of_rank(networks: Mapping[str, nn.Module], means: StepMeans) -> RankState:
    """What this rank has for itself between two looks."""
    buffers = {
        f"{name}/{of}": buffer.detach().cpu().clone()
        for name, network in networks.items()
        for of, buffer in network.named_buffers()
    }
    return {**buffers, "sums": means.sums.cpu().clone(), "steps": torch.tensor(means.steps)}


def restore_state_of_rank(
    ranks: Sequence[RankState], dist: Dist, networks: Mapping[str, nn.Module], means: StepMeans
) -> None:
    """Give each rank what it had. On another number of ranks, each has their mean."""
    if len(ranks) == dist.world_size:
        mine = ranks[dist.rank]
    else:
        mine = {name: _mean([of_rank[name] for of_rank in ranks]) for name in ranks[0]}
    for name, network in networks.items():
        for of, buffer in network.named_buffers():
            buffer.copy_(mine[f"{name}/{of}"])
    means.sums.copy_(mine["sums"])
    means.steps = int(mine["steps"])


def _mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Integers count steps, and are the same on all ranks."""
    return torch.stack(list(values)).mean(0) if values[0].is_floating_point() else values[0]
