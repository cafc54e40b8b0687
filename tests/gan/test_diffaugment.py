from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from cxrdist import counter_rng
from cxrdist.gan.diffaugment import AMOUNTS, DiffAugmentConfig, cut_out, diffaugment, shift
from cxrdist.gan.training.losses import r1_penalty

ALL = DiffAugmentConfig(translation=0.25, brightness=0.1, contrast=0.2, cutout=0.5)


def image(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows)[None, None]


def drawn(seed: int, positions: range) -> Tensor:
    return counter_rng.uniform(seed, counter_rng.positions_on(positions, torch.device("cpu")), AMOUNTS)


def noise(batch: int, side: int = 8) -> Tensor:
    return torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_off_is_the_input_itself() -> None:
    images = noise(2)
    assert diffaugment(images, DiffAugmentConfig(), drawn(0, range(2))) is images


def test_shift_by_hand() -> None:
    one = image([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    moved = shift(
        one.expand(3, -1, -1, -1),
        right_px=torch.tensor([1.0, -2.0, 0.0]),
        down_px=torch.tensor([0.0, 1.0, 5.0]),
    )
    assert moved.equal(
        torch.cat(
            [
                image([[-1, 0.1, 0.2], [-1, 0.4, 0.5]]),
                image([[-1, -1, -1], [0.3, -1, -1]]),
                image([[-1, -1, -1], [-1, -1, -1]]),
            ]
        )
    )


def test_cut_out_by_hand() -> None:
    cut = cut_out(
        torch.zeros(2, 1, 3, 4),
        top_px=torch.tensor([1.0, -1.0]),
        left_px=torch.tensor([2.0, -1.0]),
        side_px=(2, 2),
    )
    assert cut.equal(
        torch.cat(
            [
                image([[0, 0, 0, 0], [0, 0, -1, -1], [0, 0, -1, -1]]),
                image([[-1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
            ]
        )
    )


def test_amounts_by_hand() -> None:
    images, amounts = noise(3), drawn(7, range(10, 13))
    grey = diffaugment(images, DiffAugmentConfig(contrast=0.2, brightness=0.1), amounts)
    for i in range(3):
        expected = images[i] * (1 + 0.2 * amounts[i, 0]) + 2 * 0.1 * amounts[i, 1]
        torch.testing.assert_close(grey[i], expected)
    moved = diffaugment(images, DiffAugmentConfig(translation=0.25), amounts)
    pixels = (2 * amounts[:, 2:4]).round()  # a quarter of 8 pixels
    assert len(pixels.unique()) > 1
    assert moved.equal(shift(images, right_px=pixels[:, 0], down_px=pixels[:, 1]))


def test_the_stated_fraction_is_augmented_and_the_others_stay_as_they_are() -> None:
    images, amounts = noise(2000), drawn(3, range(2000))
    always = diffaugment(images, ALL, amounts)
    sometimes = diffaugment(images, dataclasses.replace(ALL, probability=0.4), amounts)
    is_augmented = (amounts[:, 6] + 1) / 2 < 0.4
    assert sometimes[is_augmented].equal(always[is_augmented])
    assert sometimes[~is_augmented].equal(images[~is_augmented])
    assert 740 < is_augmented.sum() < 860  # 800, within three standard deviations
    assert diffaugment(images, dataclasses.replace(ALL, probability=0), amounts).equal(images)


def test_a_square_of_the_stated_size_is_cut() -> None:
    cut = diffaugment(torch.zeros(200, 1, 8, 8), DiffAugmentConfig(cutout=0.5), drawn(0, range(200)))
    areas = (cut == -1).sum(dim=(1, 2, 3))
    assert (
        areas.max() == 16 and areas.min() == 4
    )  # centres lie anywhere in the image: at a corner a quarter is left
    assert ((cut == -1) | (cut == 0)).all()
    assert (cut == -1).any(dim=0).all()  # every pixel is cut in some image


def test_translation_reaches_its_limits_and_no_further() -> None:
    dot = torch.full((400, 1, 9, 9), -1.0)
    dot[:, :, 4, 4] = 1
    moved = diffaugment(dot, DiffAugmentConfig(translation=0.25), drawn(0, range(400)))
    _, _, rows, columns = (moved == 1).nonzero(as_tuple=True)
    assert len(rows) == 400
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4, 5, 6}


def test_an_image_depends_on_its_own_amounts_alone() -> None:
    images, amounts = noise(6), drawn(1, range(6))
    together = diffaugment(images, ALL, amounts)
    assert diffaugment(images[1::2], ALL, amounts[1::2]).equal(together[1::2])
    assert not diffaugment(images, ALL, drawn(2, range(6))).equal(together)


def test_what_a_shift_brings_in_is_black_whatever_the_brightness() -> None:
    config = DiffAugmentConfig(translation=0.5, brightness=0.5, contrast=0.5)
    moved = diffaugment(torch.full((100, 1, 8, 8), 0.4), config, drawn(0, range(100)))
    values = [set(x.flatten().tolist()) for x in moved]
    assert all(len(v) <= 2 for v in values)
    assert sum(-1.0 in v for v in values) > 80


def test_the_gradient_reaches_g() -> None:
    images = noise(3, side=4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: diffaugment(x, ALL, drawn(0, range(3))), (images,))
    assert torch.autograd.gradgradcheck(lambda x: diffaugment(x, ALL, drawn(0, range(3))) ** 3, (images,))


def test_dtype_is_kept() -> None:
    assert diffaugment(noise(2).bfloat16(), ALL, drawn(0, range(2))).dtype == torch.bfloat16


class Quadratic(torch.nn.Module):
    """D(x) = w * sum(x^2) / 2 + label * sum(x), whose gradient at x is w x + label."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        return self.w * images.square().sum((1, 2, 3)) / 2 + labels * images.sum((1, 2, 3))


def test_r1_against_an_analytic_network() -> None:
    net, images = Quadratic(), noise(3)
    labels = torch.tensor([0, 1, 2])
    expected = (3 * images + labels[:, None, None, None]).square().sum((1, 2, 3)).mean().item()
    penalty = r1_penalty(net, images, labels)
    assert penalty.shape == () and penalty.item() == pytest.approx(expected, rel=1e-6)
    penalty.backward()  # by w: E sum 2 (w x + label) x
    slope = (2 * (3 * images + labels[:, None, None, None]) * images).sum((1, 2, 3)).mean().item()
    assert net.w.grad is not None and net.w.grad.item() == pytest.approx(slope, rel=1e-5)
    assert not images.requires_grad


def test_r1_is_in_fp32_under_autocast() -> None:
    linear = torch.nn.Linear(64, 1)

    class Labelled(torch.nn.Module):
        def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
            out: Tensor = linear(images.flatten(1)).squeeze(1)
            assert out.dtype == torch.float32
            return out

    plain = r1_penalty(Labelled(), noise(2), None)
    with torch.autocast("cpu", torch.bfloat16):
        assert r1_penalty(Labelled(), noise(2).bfloat16(), None).item() == plain.item()
    assert plain.item() == pytest.approx(linear.weight.square().sum().item(), rel=1e-5)
