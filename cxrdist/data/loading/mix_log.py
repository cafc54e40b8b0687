"""Statistics of the mix that was delivered, for each epoch: shares, different images and repeats of each stratum."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from cxrdist.data.loading.stream import Batch, Stream

LARGEST_EPOCH = 2**23
"""Images. Longer epochs are not counted: counting different images takes up to 140 bytes for each image of an epoch,
and a resumed run first calculates the part of the epoch that was delivered before (1 s per million images)."""
_NONE = -1


class MixLog:
    """The samples that this rank received. ``first_step``: the step at which the run starts or resumes."""

    def __init__(self, stream: Stream, first_step: int) -> None:
        self.stream = stream
        epoch = stream.epoch_images
        self.is_on = epoch <= LARGEST_EPOCH
        self._logged = first_step * stream.batch // epoch * epoch  # a position
        self._seen: list[tuple[range, np.ndarray]] = []
        # The part of this epoch that was delivered before an interruption is recalculated from the order. Samples
        # that were substituted in it are counted as themselves: checkpoints do not list them.
        for step in range(self._logged // stream.batch, first_step if self.is_on else 0):
            self._note(stream.positions(step), *stream.planned(step))

    def saw(self, batch: Batch) -> None:
        if self.is_on:
            self._note(batch.positions, batch.strata, batch.samples)

    def _note(self, positions: range, strata: np.ndarray, samples: np.ndarray) -> None:
        self._seen.append((positions, np.stack([strata, samples])))

    def ends_epoch(self, step: int) -> bool:
        """True if an epoch ends in global batch ``step``; the same on all ranks."""
        return self.is_on and self._end_of(step) > self._logged

    def _end_of(self, step: int) -> int:
        epoch = self.stream.epoch_images
        return (step + 1) * self.stream.batch // epoch * epoch

    def flush(
        self, step: int, gather: Callable[[torch.Tensor], torch.Tensor], world_size: int, device: torch.device
    ) -> dict[str, float]:
        """Share, number of different images and mean repeats of each class and origin, over the epochs that ended
        since the last call (one, unless epochs are shorter than a batch).

        All ranks must call this at the same step; ``gather``: [n, 2] of this rank -> [world_size n, 2] of all.
        """
        end = self._end_of(step)
        positions = np.concatenate([np.arange(p.start, p.stop, p.step) for p, _ in self._seen])
        drawn = np.concatenate([drawn for _, drawn in self._seen], axis=1)  # [2, n]
        is_due = (positions >= self._logged) & (positions < end)
        most = -(-(end - self._logged) // world_size)
        mine = np.full((most, 2), _NONE)  # the ranks' numbers differ by at most one
        mine[: is_due.sum()] = drawn[:, is_due].T
        strata, samples = gather(torch.from_numpy(mine).to(device)).cpu().numpy().T
        last = self._seen[-1]
        self._seen = [last] if end < last[0].stop else []
        epochs = (end - self._logged) // self.stream.epoch_images
        self._logged = end
        values: dict[str, float] = {"mix/epoch": end // self.stream.epoch_images, "mix/epochs": epochs}
        total = int((strata != _NONE).sum())
        for i, (class_name, origin) in enumerate(self.stream.strata):
            of_stratum = samples[strata == i]
            different = count_different(of_stratum)
            name = f"{class_name}/{origin}"
            values[f"mix/share/{name}"] = round(len(of_stratum) / total, 6)
            values[f"mix/different/{name}"] = different
            values[f"mix/repeats/{name}"] = round(len(of_stratum) / max(different, 1), 4)
        return values


def count_different(numbers: np.ndarray) -> int:
    """Number of different values among numbers [n]. By sorting: numpy 2.4's unique takes many times as long."""
    return int(np.count_nonzero(np.diff(np.sort(numbers)))) + bool(len(numbers))
