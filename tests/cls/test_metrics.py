from __future__ import annotations

import pytest
import torch

from cxrdist.cls.metrics import metrics_of


def test_metrics_of_a_known_confusion() -> None:
    """Of three a's two are right, of two b's one, of one c none; chosen so that accuracy is not the mean recall."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    chosen = torch.tensor([0, 0, 1, 1, 2, 0])
    found = metrics_of(torch.nn.functional.one_hot(chosen, 3).float() * 5, labels, ["a", "b", "c"])
    assert found["confusion"] == [[2, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert found["per_class"] == {"a": 0.666667, "b": 0.5, "c": 0.0}
    assert found["accuracy"] == 0.5
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 3, abs=1e-6)
    assert found["n"] == {"a": 3, "b": 2, "c": 1}


def test_auroc_of_a_perfect_and_a_blind_classifier() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    perfect = torch.tensor([[2.0, 0], [1, 0], [0, 1], [0, 2]])
    assert metrics_of(perfect, labels, ["a", "b"])["macro_auroc"] == 1.0
    assert metrics_of(torch.zeros(4, 2), labels, ["a", "b"])["macro_auroc"] == 0.5
