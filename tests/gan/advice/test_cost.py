"""Time and memory of a training, estimated from its networks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxrdist.config.parser import parse
from cxrdist.config.yaml_files import find
from cxrdist.gan.advice.cost import Cost, cost_of
from cxrdist.gan.config import GANConfig
from cxrdist.gan.networks import build

TINY = GANConfig(
    architecture="conditional", z_dim=4, embed_dim=4, widths=(8, 6, 4), d_widths=(8, 6, 4), batch=8
)


def preset(name: str) -> GANConfig:
    return parse(GANConfig, [], prog="test", example="", default_config=find(f"configs/gan/{name}.yaml"))


def test_the_flops_of_the_papers_dcgan_are_those_counted_in_the_benchmark() -> None:
    """benchmarks/results/gan_step.json counts 1,492.0 GFLOP in a step of 64 images."""
    cost = cost_of(preset("paper"), image_size=256, labels=1)
    assert cost.flops_per_image * 64 / 1e9 == pytest.approx(1492, rel=0.005)


def test_the_rate_is_that_of_the_demo() -> None:
    cost = cost_of(preset("demo"), image_size=64, labels=5)
    assert cost.cpu_seconds(60_000, cores=1) == pytest.approx(300, rel=0.005)  # 200 images a second
    assert cost.cpu_seconds(60_000, cores=2) == pytest.approx(150, rel=0.005)


def test_flops_by_hand() -> None:
    """Forward passes at 32 px: G 3 times, D 8 times, and with R1 6 times more every so many steps."""
    # linear, transposed convolutions from 4x4 and 8x8, bands; modulations
    g = 2 * (8 * 8 * 16 + 16 * 8 * 6 * 16 + 64 * 6 * 4 * 16 + 256 * 9 * 4 * 4 + 8 * 2 * (8 + 6 + 4))
    # bands, convolutions to 8x8 and 4x4, linear to 128; the logit's sums are no matrix product
    d = 2 * (256 * 9 * 4 * 4 + 64 * 16 * 4 * 6 + 16 * 16 * 6 * 8 + 128 * 8 * 16)
    assert cost_of(TINY, image_size=32, labels=3).flops_per_image == 3 * g + 8 * d
    with_r1 = replace(TINY, regularizer="r1", r1_every=4)
    assert cost_of(with_r1, image_size=32, labels=3).flops_per_image == 3 * g + (8 + 6 / 4) * d


def test_parameters_are_those_of_the_built_networks() -> None:
    cost = cost_of(TINY, image_size=32, labels=3)
    networks = build(TINY, image_size=32, classes=3, seeds=(1, 2))
    expected = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert [cost.parameters_g, cost.parameters_d] == expected


def test_memory() -> None:
    cost = Cost(1.0, parameters_g=100, parameters_d=10, activation_bytes_per_image=1000)
    assert cost.memory_bytes(replace(TINY, ema_half_life_images=0), processes=1) == 16 * 110 + 8 * 1000
    assert (
        cost.memory_bytes(replace(TINY, ema_half_life_images=1), processes=2) == 20 * 110 + 4 * 100 + 4 * 1000
    )
    assert cost.memory_bytes(replace(TINY, accumulate=4), processes=1) == 16 * 110 + 2 * 1000


def test_activations_grow_with_r1_and_with_the_size() -> None:
    plain, with_r1 = (
        cost_of(replace(TINY, regularizer=regularizer), image_size=32, labels=3).activation_bytes_per_image
        for regularizer in ("none", "r1")
    )
    larger = cost_of(replace(TINY, widths=(8, 6, 4, 2), d_widths=(8, 6, 4, 2)), image_size=64, labels=3)
    # the images that D sees, and its maps of 16x16
    assert 2 * 4 * (32 * 32 + 4 * 256) < plain < with_r1 and plain < larger.activation_bytes_per_image
