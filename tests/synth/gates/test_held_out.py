"""Of real images that no gate has seen, each refuses its percentage at most, up to chance of a known size.

A threshold that is the k-th of n validation images refuses another image with a probability that is beta distributed
with k and n + 1 - k, whatever the distribution of the scores; so of m held-out images a beta-binomial number. The
tests allow what a right gate stays below in 999 of 1,000 draws of the images: no more is chance.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from cxrdist.features.spaces import PIXELS, random_space
from cxrdist.synth.gates.copies import CopyGate, TrainImages
from cxrdist.synth.gates.judge import Gate, Judge
from cxrdist.synth.gates.pixels import STATISTICS, PixelGate, statistics_of
from cxrdist.synth.gates.realism import RealismGate
from cxrdist.synth.gates.thresholds import Thresholds, thresholds
from tests.helpers.radiographs import REAL_DATA, pixels_of, real_films

CHANCE = 0.999


def allowed(limits: Thresholds, held_out: dict[str, int]) -> int:
    """The largest number of refused images that chance explains, of ``{class: images}`` held out."""
    pooled = sum(count for name, count in held_out.items() if name in limits.pooled)
    draws = [(limits, name, count) for name, count in held_out.items() if name not in limits.pooled]
    if pooled:
        draws.append((limits, next(iter(limits.pooled)), pooled))
    each = []
    for of, name, count in draws:
        n = len(of.real[name])
        k = round(of.expected_refusals(name) * (n + 1))
        each.append(betabinom(count, k, n + 1 - k).pmf(np.arange(count + 1)))
    total = functools.reduce(np.convolve, each)  # of independent numbers
    return int(np.searchsorted(total.cumsum(), CHANCE))


def refused(gate: Gate, limits: Thresholds, seen: dict[str, dict[str, torch.Tensor]]) -> int:
    return sum(int((~limits.admit(name, gate.scores(name, of).numpy())).sum()) for name, of in seen.items())


def test_what_chance_allows_by_hand() -> None:
    """One of one validation images beyond, k = 1, n = 1: uniform, so of one image 0 or 1 with equal chances."""
    limits = thresholds({"A": np.zeros(1, np.float32)}, 50, refuses_high=True)
    assert limits.expected_refusals("A") == 0.5
    assert allowed(limits, {"A": 1}) == 1
    many = thresholds({"A": np.arange(99_999, dtype=np.float32)}, 5, refuses_high=True)
    assert allowed(many, {"A": 10_000}) == pytest.approx(500 + 3.09 * np.sqrt(10_000 * 0.05 * 0.95), abs=8)


def test_each_gate_refuses_at_most_its_percentage_of_fresh_phantoms(
    judge: Judge, test: dict[str, np.ndarray]
) -> None:
    judged = {name: judge.judge(name, images) for name, images in test.items()}
    counts = {name: len(images) for name, images in test.items()}
    for gate, limits in judge.gates:
        assert all(
            limits.expected_refusals(name) <= judge.config.percents[gate.name] / 100 for name in counts
        )
        found = sum(int((~of.passed[gate.name]).sum()) for of in judged.values())
        assert found <= allowed(limits, counts), gate.name
    assert sum(judge.config.percents.values()) == 11
    refused_by_any = np.mean([1 - of.admitted.mean() for of in judged.values()])
    assert (
        0 < refused_by_any <= 0.11 + 0.03
    )  # 0.03: three deviations of the mean, if gates refused different images


@pytest.mark.skipif(REAL_DATA is None, reason="needs $CXRDIST_REAL_DATA")
@pytest.mark.parametrize("name", ["nih64", pytest.param("nih256", marks=pytest.mark.slow)])
def test_each_gate_refuses_at_most_its_percentage_of_real_films(name: str) -> None:
    """One image of each patient in val and test: those of one patient are alike, so not independent."""
    images, patients = real_films(name)
    for split in ("val", "test"):
        images[split] = images[split][np.unique(patients[split], return_index=True)[1]]
    space = random_space(images["train"].shape[1], torch.device("cpu"))

    def see(films: np.ndarray) -> dict[str, torch.Tensor]:
        parts = torch.tensor(films)[:, None].split(64)
        embedded = {STATISTICS: statistics_of, space.name: space.embed}
        return {key: torch.cat([embed(part) for part in parts]) for key, embed in embedded.items()} | {
            PIXELS: pixels_of(films)
        }

    train, val, test = ({"all": see(images[split])} for split in ("train", "val", "test"))
    gates: list[tuple[Gate, float]] = [
        (PixelGate({"all": train["all"][STATISTICS]}), 1),
        (RealismGate([space.name], train, val, 4), 4),
        (CopyGate(TrainImages.of(train["all"][PIXELS], torch.from_numpy(patients["train"]))), 1),
    ]
    for gate, percent in gates:
        scores = {"all": gate.scores("all", val["all"]).numpy()}
        limits = thresholds(scores, percent, refuses_high=gate.refuses_high, at_least=gate.at_least)
        assert refused(gate, limits, test) <= allowed(limits, {"all": len(images["test"])}), gate.name
