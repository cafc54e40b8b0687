from __future__ import annotations

import numpy as np
import pytest
import torch

from cxrdist import counter_rng
from cxrdist.counter_rng import bits, normal, positions_on, threefry, to_uniform, uniform

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_known_answers_of_random123(
    counter: tuple[int, int], key: tuple[int, int], expected: tuple[int, int]
) -> None:
    found = threefry(key, torch.tensor([counter[0]]), torch.tensor([counter[1]]))
    assert tuple(int(word) for word in found) == expected


def reference_bits(seed: int, position: int, width: int) -> list[int]:
    """Threefry-2x32-20 in numpy's wrapping uint32, from the paper's description."""
    rotations = [13, 15, 26, 6, 17, 29, 16, 24]
    low, high = seed & 0xFFFFFFFF, seed >> 32
    keys = np.array([low, high, 0x1BD11BDA ^ low ^ high], np.uint32)
    row = []
    for pair in range(width // 2):
        x = np.array([position & 0xFFFFFFFF], np.uint32) + keys[0]
        y = np.array([((position >> 32) << 16) + pair], np.uint32) + keys[1]
        for number in range(20):
            x = x + y
            turn = np.uint32(rotations[number % 8])
            y = ((y << turn) | (y >> (np.uint32(32) - turn))) ^ x
            if number % 4 == 3:
                block = number // 4 + 1
                x = x + keys[block % 3]
                y = y + keys[(block + 1) % 3] + np.uint32(block)
        row += [int(x[0]), int(y[0])]
    return row


@pytest.mark.parametrize("position", [0, 1, 77, 2**32 - 1, 2**32, 2**47 + 12345])
def test_bits_equal_a_numpy_reference(position: int) -> None:
    for seed in (0, 5, 2**63 - 1):
        found = bits(seed, torch.tensor([position]), 6)
        assert found.dtype == torch.int64
        assert found[0].tolist() == reference_bits(seed, position, 6)


def test_a_row_is_a_function_of_its_position_alone() -> None:
    whole = bits(9, positions_on(range(100), CPU), 10)
    assert torch.equal(bits(9, positions_on(range(7, 100, 3), CPU), 10), whole[7::3])
    assert torch.equal(bits(9, positions_on(range(100), CPU), 4), whole[:, :4])
    assert not torch.equal(bits(10, positions_on(range(100), CPU), 10), whole)
    assert len(set(whole.flatten().tolist())) > 995


def test_uniform_covers_its_range_exactly() -> None:
    corners = to_uniform(torch.tensor([0, 255, 256, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
    assert corners.tolist() == [-1, -1, -1 + 2**-23, -(2**-23), 0, 1 - 2**-23]
    drawn = uniform(1, positions_on(range(20_000), CPU), 8)
    assert drawn.dtype == torch.float32
    assert drawn.mean().abs() < 0.006 and (drawn.square().mean() - 1 / 3).abs() < 0.004


def test_normal_has_the_moments_and_tails_of_a_normal_distribution() -> None:
    drawn = normal(1, positions_on(range(50_000), CPU), 8).double()
    assert torch.isfinite(drawn).all()
    assert drawn.mean().abs() < 0.006
    assert drawn.square().mean().sub(1).abs() < 0.01
    assert drawn.pow(4).mean().sub(3).abs() < 0.08
    for limit, share in ((1, 0.3173), (2, 0.0455), (3, 0.0027)):
        assert (drawn.abs() > limit).double().mean().item() == pytest.approx(share, rel=0.06)
    correlation = torch.corrcoef(drawn.T) - torch.eye(8)
    assert correlation.abs().max() < 0.02


def test_normal_is_finite_for_the_extreme_bits() -> None:
    extremes = torch.tensor([[0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0xFFFFFFFF]])
    assert torch.isfinite(counter_rng.to_normal(extremes)).all()


@pytest.mark.parametrize("width", [0, 3, 2**17 + 2])
def test_width_is_checked(width: int) -> None:
    with pytest.raises(ValueError, match=f"width {width}: must be even"):
        bits(0, torch.tensor([0]), width)
