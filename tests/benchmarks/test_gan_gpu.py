"""The GPU check's comparisons, with the CPU in place of the GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.gan import gpu
from cxrdist import counter_rng
from cxrdist.data.loading.device import CPU, DeviceCache


def test_the_cpu_draws_what_the_cpu_draws() -> None:
    equal = {"integers equal": True, "uniform equal": True, "normal, largest difference": 0.0}
    assert gpu.draws_equal(CPU) == equal


def test_other_integers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    bits, calls = counter_rng.bits, []

    def second_is_wrong(seed: int, positions: torch.Tensor, width: int) -> torch.Tensor:
        calls.append(seed)
        return bits(seed + len(calls) - 1, positions, width)

    monkeypatch.setattr(counter_rng, "bits", second_is_wrong)
    assert gpu.draws_equal(CPU)["integers equal"] is False


def test_batches_are_compared(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"batches equal, device cache off": True, "batches equal, device cache on": True}
    assert gpu.batches_equal(tiny_set, CPU) == both
    take = DeviceCache.take
    monkeypatch.setattr(
        DeviceCache, "take", lambda self, strata, samples: take(self, strata, samples).flip(0)
    )
    assert gpu.batches_equal(tiny_set, CPU) == both | {"batches equal, device cache on": False}
