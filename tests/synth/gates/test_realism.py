"""The ratios are those of a double loop; no matrix of all training images is held."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cxrdist.synth.gates import realism
from cxrdist.synth.gates.realism import NEIGHBOURS, Manifold, RealismGate


def drawn(count: int, dims: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, dims)) * scale).float()


def brute(train: Tensor, queries: Tensor) -> np.ndarray:
    """[n]: the smallest distance over a radius, in numpy."""
    centres, points = train.double().numpy(), queries.double().numpy()
    found = []
    radii = [np.sort(np.linalg.norm(centres - centre, axis=1))[NEIGHBOURS] for centre in centres]
    for point in points:
        found.append(min(np.linalg.norm(point - c) / r for c, r in zip(centres, radii)))
    return np.array(found)


def test_ratios_are_those_of_brute_force() -> None:
    train, queries = drawn(37, 4, 0), drawn(29, 4, 1, 1.5)
    expected = brute(train, queries)
    assert (expected < 1).any() and (expected > 1).any()
    assert Manifold(train).ratios(queries).numpy() == pytest.approx(expected, rel=1e-5)
    assert Manifold(train).ratios(train).numpy() == pytest.approx(np.zeros(37), abs=1e-5)


def test_ratios_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    train, queries = drawn(37, 4, 0), drawn(29, 4, 1)
    at_once = Manifold(train).ratios(queries)
    for chunk in (1, 6, 37):
        monkeypatch.setattr(realism, "CHUNK", chunk)
        assert Manifold(train).ratios(queries).tolist() == pytest.approx(at_once.tolist(), rel=1e-6)


def test_no_matrix_of_all_training_images_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor that any operation returns has a row of queries by a chunk of training images."""
    monkeypatch.setattr(realism, "CHUNK", 10)
    train, queries = drawn(1000, 3, 0), drawn(20, 3, 1)
    manifold = Manifold(train)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            found = function(*args, **(kwargs or {}))
            if isinstance(found, Tensor):
                largest = max(largest, found.numel())
            return found

    with Watch():
        manifold.ratios(queries)
    assert largest == 20 * 10


def gate_of(train: dict[str, Tensor], val: dict[str, Tensor], percent: float = 4) -> RealismGate:
    spaces = ("one", "two")
    return RealismGate(
        spaces,
        {name: {"one": values, "two": 3 * values + 1} for name, values in train.items()},
        {name: {"one": values, "two": 3 * values + 1} for name, values in val.items()},
        percent,
    )


def test_the_score_is_the_larger_ratio_over_its_scale() -> None:
    train, val = {"A": drawn(40, 3, 0)}, {"A": drawn(300, 3, 1)}
    gate = gate_of(train, val)
    ordered = np.sort(brute(train["A"], val["A"]))
    scale = ordered[-6]  # half of 4 % of 301: the sixth highest
    assert gate.scales == {
        ("A", "one"): pytest.approx(scale, rel=1e-5),
        ("A", "two"): pytest.approx(scale, rel=1e-4),
    }
    near, far = drawn(5, 3, 2), drawn(5, 3, 3, 4)
    scores = gate.scores("A", {"one": near, "two": 3 * far + 1})
    expected = np.maximum(brute(train["A"], near), brute(train["A"], far)) / scale
    assert scores.numpy() == pytest.approx(expected, rel=1e-4)


def test_a_class_of_five_training_images_takes_the_manifold_of_all() -> None:
    train = {"A": drawn(40, 3, 0), "B": drawn(NEIGHBOURS, 3, 1), "C": drawn(NEIGHBOURS + 1, 3, 2)}
    gate = gate_of(train, {name: drawn(120, 3, 3) for name in train})
    everything = torch.cat([*train.values()])
    assert torch.equal(gate.manifolds["B", "one"].centres, everything.double())
    assert torch.equal(gate.manifolds["A", "one"].centres, train["A"].double())
    assert torch.equal(gate.manifolds["C", "one"].centres, train["C"].double())


def test_repeated_training_images_have_a_radius_all_the_same() -> None:
    train = torch.ones(8, 3)
    ratios = Manifold(train).ratios(torch.tensor([[1.0, 1, 1], [1, 1, 2]]))
    assert ratios.isfinite().all() and ratios[0] <= 1 < ratios[1]
