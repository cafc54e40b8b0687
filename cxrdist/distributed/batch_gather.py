"""The images of a global batch on every rank, differentiably: for layers that compare images with each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd import Function


class BatchGather:
    """Gathers the rows of a batch of which rank r holds the positions r, r + world_size, r + 2 world_size, ...

    Its gradient, and the gradient of that (R1), are summed over all ranks' losses. Every rank calls it, and its
    backward pass, the same number of times in the same order.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size

    def __call__(self, rows: Tensor) -> Tensor:
        """[b, ...] on each rank -> [world_size b, ...] on all ranks, in the order of positions."""
        gathered: Tensor = _Gathered.apply(rows, self.rank, self.world_size)  # [world_size, b, ...]
        return gathered.transpose(0, 1).flatten(0, 1)

    def own(self, rows: Tensor) -> Tensor:
        """[world_size b, ...] in the order of positions -> this rank's [b, ...]."""
        return rows[self.rank :: self.world_size]


class _Gathered(Function):
    """Rows [b, ...] -> [world_size, b, ...]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, world_size: int) -> Tensor:
        ctx.rank, ctx.world_size = rank, world_size
        rows = rows.contiguous()
        of_ranks = [torch.empty_like(rows) for _ in range(world_size)]
        distributed.all_gather(of_ranks, rows)
        return torch.stack(of_ranks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Summed.apply(gradients[0], ctx.rank, ctx.world_size), None, None


class _Summed(Function):
    """[world_size, b, ...] -> [b, ...]: this rank's rows, summed over the ranks; the transpose of ``_Gathered``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, world_size: int) -> Tensor:
        ctx.rank, ctx.world_size = rank, world_size
        summed = rows.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        return summed[rank].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Gathered.apply(gradients[0], ctx.rank, ctx.world_size), None, None
