"""Targets, class weights and mixup, each with a value computed independently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import beta

from cxrdist.cls.training.targets import Mixup, SoftLabels, class_weights, smoothed
from cxrdist.errors import UserError

CPU = torch.device("cpu")


def test_class_weights_average_one_over_an_epoch() -> None:
    weights = class_weights({"a": 60, "b": 30, "c": 10})
    assert weights == pytest.approx([100 / 180, 100 / 90, 100 / 30])
    assert sum(w * n for w, n in zip(weights, (60, 30, 10), strict=True)) == pytest.approx(100)
    assert class_weights({"a": 5, "none": 0, "b": 5}) == [1.0, 0.0, 1.0]


def test_smoothing_divides_its_part_among_all_classes() -> None:
    labels = torch.tensor([2, 0])
    assert torch.equal(smoothed(labels, 4, 0.0), torch.eye(4)[labels])
    expected = torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.1, 0.0, 0.0, 0.0]])
    expected[1] = torch.tensor([0.7, 0.1, 0.1, 0.1])
    torch.testing.assert_close(smoothed(labels, 4, torch.tensor([[0.2], [0.4]])), expected)


def test_soft_labels_replace_the_targets_of_their_keys_alone(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(
        "image,label,predicted,p:a,p:b,error\nk3,a,b,0.25,0.75,\nbroken,,,,,not an image\nk1,b,a,0.5,0.5,\n"
    )
    soft = SoftLabels.read(str(path), ["a", "b"], CPU)
    targets = torch.eye(2)[torch.tensor([0, 1, 0, 1])]
    found = soft.put(targets, np.array(["k0", "k1", "k2", "k3"], "S40"))
    assert found.tolist() == [[1, 0], [0.5, 0.5], [1, 0], [0.25, 0.75]]
    assert torch.equal(soft.put(targets, np.array(["x", "y", "z", "zz"], "S40")), targets)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("key,p:a\n1,1\n", "has no column image"),
        ("image,a\n1,1\n", "none that begins with p:"),
        ("image,p:a,p:b\nk,0.5\n", ":2: 2 values in 3 columns"),
        ("image,p:a,p:b\nk,0.5,0.6\n", ":2: 0.5, 0.6: not probabilities that sum to 1"),
        ("image,p:a,p:b\nk,x,0.6\n", ":2: x, 0.6: not probabilities"),
        ("image,p:a,p:b\nk,,\n", "no image with probabilities"),
        ("image,p:b,p:a\nk,0.5,0.5\n", "has the classes b, a, but the set has a, b"),
    ],
)
def test_what_is_no_file_of_soft_labels_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=why) as caught:
        SoftLabels.read(str(path), ["a", "b"], CPU)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_draws_its_shares_from_beta(alpha: float) -> None:
    shares = Mixup(alpha, 5, CPU).shares(torch.arange(20_000)).numpy()
    deciles = np.linspace(0.1, 0.9, 9)
    assert np.quantile(shares, deciles) == pytest.approx(beta(alpha, alpha).ppf(deciles), abs=0.02)


def test_partners_are_a_permutation_that_changes_with_the_step() -> None:
    mixup = Mixup(0.4, 5, CPU)
    first, second = mixup.partners(0, 64), mixup.partners(1, 64)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(64))
    assert not torch.equal(first, second)
    assert torch.equal(first, Mixup(0.4, 5, CPU).partners(0, 64))
