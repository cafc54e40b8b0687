"""Random numbers by position, whoever asks for which of them."""

from __future__ import annotations

import numpy as np
import pytest

from cxrdist import seeds
from cxrdist.seeds import uniform


def test_random_numbers_depend_on_the_position_alone() -> None:
    whole = uniform(5, "z", range(1000), 128)
    assert whole.shape == (1000, 128) and whole.dtype == np.float32
    assert np.array_equal(uniform(5, "z", range(137, 201), 128), whole[137:201])
    assert -1 <= whole.min() < -0.999 and 0.999 < whole.max() < 1
    assert abs(float(whole.mean())) < 0.01 and abs(float(whole.var()) - 1 / 3) < 0.01
    assert not np.array_equal(uniform(5, "other", range(10), 128), whole[:10])


@pytest.mark.parametrize(
    "positions", [range(3, 40, 4), range(5, 6, 9), range(0, 64, 63), range(7, 7, 2), range(9, 33)]
)
@pytest.mark.parametrize("block", [1, 100, 2**20])
def test_uniform_takes_any_step(positions: range, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = uniform(5, "z", range(64), 12)
    monkeypatch.setattr(seeds, "BLOCK_NUMBERS", block)
    found = uniform(5, "z", positions, 12)
    assert found.dtype == np.float32 and found.shape == (len(positions), 12)
    assert np.array_equal(found, whole[list(positions)])


def test_uniform_is_what_it_was() -> None:
    """Philox4x64 keyed by BLAKE2b, 24 of its 64 bits: figures of the first release, so that a run resumes."""
    assert uniform(5, "z", range(137, 139), 4).tolist() == [
        [-0.6869411468505859, -0.657381534576416, 0.49857163429260254, 0.2497551441192627],
        [0.13582205772399902, 0.3538583517074585, 0.44229936599731445, -0.08921611309051514],
    ]


def test_uniform_is_bounded_in_memory_whatever_the_step() -> None:
    far = 10**15
    found = uniform(5, "z", range(0, 3 * far, far), 8)
    assert np.array_equal(found[2], uniform(5, "z", range(2 * far, 2 * far + 1), 8)[0])


@pytest.mark.parametrize("positions", [range(9, 0, -1), range(0, 9, -1)])
def test_uniform_refuses_to_go_backwards(positions: range) -> None:
    with pytest.raises(ValueError, match="the step must be 1 or more"):
        uniform(5, "z", positions, 4)
