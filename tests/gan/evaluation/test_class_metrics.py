"""Near copies, the choice of a checkpoint, label agreement, diversity and bootstrap intervals: exact on tiny data."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from cxrdist.features.distances import kernel_distance, manifolds
from cxrdist.features.memorization import TrainImages, aligned_distances, relative_distances
from cxrdist.features.spaces import pixel_space
from cxrdist.gan.diversity import nearest_distance
from cxrdist.gan.evaluation.bootstrap import RESAMPLES, Estimate, Resampled, mean_of, resamples, share
from cxrdist.gan.evaluation.choice import Choice, Score, TrainSide, choose, score
from cxrdist.gan.evaluation.class_metrics import (
    ClassImages,
    class_metrics,
    compare_with_intervals,
    lines,
    mean_over_classes,
    mean_pair_distance,
    nearest_diversity,
)
from cxrdist.gan.evaluation.metrics import Sets, compare

T = TypeVar("T")


def known(value: T | None) -> T:
    assert value is not None
    return value


def drawn(n: int, dims: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed)) + shift


def smooth(n: int, seed: int) -> Tensor:
    """Images [n, 1, 64, 64] in [-1, 1] with structures of 8 px."""
    rough = torch.rand(n, 1, 96, 96, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return avg_pool2d(rough, 33, 1) * 20


def pixels(images: Tensor) -> Tensor:
    return pixel_space().embed(((images + 1) * 127.5).round().clamp(0, 255).byte())


# ---- near copies


def test_the_aligned_distance_is_that_of_the_correlation_of_the_central_windows() -> None:
    a, b = drawn(1, 1024, 0), drawn(1, 1024, 1)
    shifts = range(-2, 3)
    centre = b.view(32, 32)[2:30, 2:30].flatten()
    unzoomed = [
        torch.corrcoef(torch.stack((a.view(32, 32)[2 + y : 30 + y, 2 + x : 30 + x].flatten(), centre)))[0, 1]
        for y in shifts
        for x in shifts
    ]
    highest = (2 - 2 * float(max(unzoomed))) ** 0.5
    assert float(aligned_distances(a, b)) <= highest + 1e-5  # zoomed windows may be closer
    planted = b.view(32, 32).roll((2, -1), (0, 1)).flatten()[None]
    assert float(aligned_distances(planted, b)) == pytest.approx(0, abs=2e-3)


def test_shift_zoom_and_grey_values_do_not_hide_a_copy() -> None:
    images = smooth(12, 0)
    train = TrainImages.of(pixels(images), torch.arange(12), torch.arange(12))
    assert train.threshold is not None and 0.3 < train.threshold < 1
    shifted = images.roll((3, -2), (2, 3))
    darker = images * 0.7 - 0.2
    enlarged = torch.nn.functional.interpolate(images, scale_factor=66 / 64, mode="bilinear")[..., 1:65, 1:65]
    for changed in (images, shifted, darker, enlarged):
        found = train.nearest(pixels(changed))
        assert found.where.tolist() == list(range(12))
        assert known(train.near_copies(pixels(changed))).tolist() == [True] * 12
    others = pixels(smooth(40, 1))
    assert float(known(train.near_copies(others)).double().mean()) <= 0.15


def test_an_average_of_training_images_is_no_near_copy() -> None:
    images = smooth(12, 0)
    train = TrainImages.of(pixels(images), torch.arange(12), torch.arange(12))
    assert known(train.near_copies(pixels(images.mean(0, keepdim=True)))).tolist() == [False]
    flat = torch.zeros(1, 1024)
    assert known(train.near_copies(flat)).tolist() == [False]


def test_relative_distances_leave_out_films_of_the_same_patient() -> None:
    """Patients a, a, b, c. Of the first image: nearest is b at 4; next are the others but not b: c at 8. Own films
    are not compared."""
    distances = torch.tensor([[0.0, 1, 4, 8], [1, 0, 6, 3], [4, 6, 0, 2], [8, 3, 2, 0]])
    patients = torch.tensor([0, 0, 1, 2])
    found = relative_distances(distances, patients, patients)
    assert found.where.tolist() == [2, 3, 3, 2]
    assert found.distances.tolist() == pytest.approx([4 / 8, 3 / 6, 2 / 5, 2 / 5.5])
    generated = relative_distances(torch.tensor([[1.0, 2, 4, 8]]), patients)
    assert (generated.where.tolist(), generated.distances.tolist()) == ([0], pytest.approx([1 / 6]))


def test_the_threshold_is_the_5th_percentile_of_training_images() -> None:
    images = pixels(smooth(30, 2))
    patients = torch.arange(30) // 2
    train = TrainImages.of(images, patients, torch.randperm(30))
    found = relative_distances(aligned_distances(images, images), patients, patients).distances
    assert train.threshold == pytest.approx(float(np.quantile(found.numpy(), 0.05)), rel=1e-5)


@pytest.mark.parametrize("patients", [[0], [0, 0, 0], [0, 0, 1]])
def test_fewer_than_three_patients_have_no_threshold(patients: list[int]) -> None:
    numbers = torch.tensor(patients)
    train = TrainImages.of(pixels(smooth(len(patients), 0)), numbers, torch.arange(len(patients)))
    assert train.threshold is None and train.near_copies(pixels(smooth(2, 1))) is None


# ---- the choice of a checkpoint


def at(images: int, kid: float | None, rate: float | None) -> Score:
    return Score(images, {"a": kid}, {"a": rate})


def test_the_lowest_kid_within_the_limit_is_chosen_and_the_newest_of_equals() -> None:
    scores = [at(1, 0.5, 0.0), at(2, 0.2, 0.1), at(3, 0.2, 0.1), at(4, 0.1, 0.11)]
    assert choose(scores, 0.1) == Choice(2, True)
    assert choose(scores, 1) == Choice(3, True)
    assert choose([*scores, at(5, None, 0.0)], 0.1) == Choice(2, True)
    assert choose([at(1, 0.3, None), at(2, 0.4, 0.0)], 0.1) == Choice(0, True)


def test_without_one_within_the_limit_the_lowest_copy_rate_is_chosen() -> None:
    found = choose([at(1, 0.5, 0.4), at(2, 0.2, 0.3), at(3, 0.1, 0.6)], 0.1)
    assert found == Choice(1, False)
    assert found.results(0.1) == {"by": "lowest copy_rate", "copy_limit": 0.1, "is_within_copy_limit": False}


def test_what_is_not_chosen_when_it_is_the_newest_is_never_chosen() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        scores = [at(i, float(draw.integers(5)), float(draw.integers(4)) / 10) for i in range(6)]
        kept = 0
        for count in range(1, 7):
            if choose(scores[:count], 0.1).index == count - 1:
                kept = count - 1
        assert kept == choose(scores, 0.1).index


def test_a_score_is_the_mean_over_classes() -> None:
    images = pixels(smooth(20, 0))
    side = TrainSide(drawn(20, 4, 0), TrainImages.of(images, torch.arange(20), torch.arange(20)))
    alone = TrainSide(drawn(1, 4, 0), TrainImages.of(images[:1], torch.arange(1), torch.arange(1)))
    features = {"a": drawn(10, 4, 1), "b": drawn(10, 4, 2), "alone": drawn(10, 4, 3)}
    made = {"a": images[:10], "b": torch.cat((images[:5], pixels(smooth(5, 9)))), "alone": images[:10]}
    found = score(64, features, made, {"a": side, "b": side, "alone": alone})
    kids = [known(kernel_distance(features[name], side.features)) for name in "ab"]
    assert found.kids == {"a": kids[0], "b": kids[1], "alone": None}
    rate = float(known(side.images.near_copies(made["b"])).double().mean())
    assert found.copy_rates == {"a": 1.0, "b": rate, "alone": None} and 0.5 <= rate < 1
    assert found.kid == pytest.approx(sum(kids) / 2)
    assert found.results()["copy_rate"] == pytest.approx((1 + rate) / 2)
    assert set(found.results()) == {"images", "kid_train", "per_class", "copy_rate", "copy_rate_per_class"}


# ---- bootstrap


def test_resamples_draw_patients_with_all_their_images() -> None:
    groups = np.array([b"x", b"y", b"x", b"z"], object)
    weights = known(resamples(groups, 0, "test"))
    assert weights.shape == (RESAMPLES, 4)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()
    assert torch.equal(weights, known(resamples(groups, 0, "test")))
    assert not torch.equal(weights, known(resamples(groups, 1, "test")))
    assert resamples(groups[[0, 2]], 0, "test") is None


def test_replicates_are_the_metrics_of_the_resampled_images() -> None:
    """Against a loop over the drawn images. KID leaves out pairs of an image with itself; the radii stay."""
    a, b, k = drawn(9, 3, 0, 0.5), drawn(8, 3, 1), 2
    patients = np.array([1, 1, 2, 3, 4, 5, 6, 6])
    found = known(Resampled.of(a, b, patients, 0, "test"))
    kids, overlap = found.kid(), found.overlap(k)
    distances = torch.cdist(a, b)
    real_radii = torch.cdist(b, b).sort(1).values[:, k]
    generated_radii = torch.cdist(a, a).sort(1).values[:, k]

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x.double() @ y.double()) / 3 + 1) ** 3

    for index in (0, 17):
        i, j = (
            torch.repeat_interleave(torch.arange(len(w)), w.long()).tolist()
            for w in (found.of_generated[index], found.of_real[index])
        )
        means = []
        for points, numbers in ((a, i), (b, j)):
            pairs = [kernel(points[x], points[y]) for x in numbers for y in numbers if x != y]
            means.append(sum(pairs) / len(pairs))
        across = sum(kernel(a[x], b[y]) for x in i for y in j) / (len(i) * len(j))
        assert float(kids[index]) == pytest.approx(sum(means) - 2 * across)
        covered = [any(distances[x, y] < real_radii[y] for x in i) for y in j]
        recalled = [any(distances[x, y] < generated_radii[x] for x in i) for y in j]
        assert float(overlap["coverage"][index]) == pytest.approx(sum(covered) / len(j))
        assert float(overlap["recall"][index]) == pytest.approx(sum(recalled) / len(j))
    every = Resampled(a, b, torch.ones(1, 9).double(), torch.ones(1, 8).double())
    assert float(every.kid()) == pytest.approx(kernel_distance(a, b))
    whole = known(manifolds(a, b, k))
    assert {name: float(one) for name, one in every.overlap(k).items()} == {
        "coverage": whole.coverage,
        "recall": pytest.approx(whole.recall),
    }


def test_an_interval_is_centred_and_within_the_range() -> None:
    replicates = torch.arange(201, dtype=torch.float64) / 200  # mean 0.5, percentiles 0.025 and 0.975
    assert Estimate(0.6, replicates).interval() == pytest.approx([0.125, 1.075])
    assert Estimate(0.6, replicates).interval(0, 1) == pytest.approx([0.125, 1.0])
    assert Estimate(0.6, None).interval() is None
    both = known(mean_of([Estimate(0.2, replicates), Estimate(0.4, replicates.flip(0))]))
    assert both.value == pytest.approx(0.3) and known(both.replicates).tolist() == pytest.approx([0.5] * 201)
    assert mean_of([]) is None and known(mean_of([both, Estimate(0.0, None)])).replicates is None


def test_the_interval_of_a_share_has_the_binomial_width() -> None:
    """sqrt(p (1 - p) / n) = 0.02: plus or minus 0.039."""
    flags = torch.arange(400) < 80
    low, high = known(share(flags, resamples(np.arange(400), 0, "test")).interval(0, 1))
    assert low == pytest.approx(0.161, abs=0.01) and high == pytest.approx(0.239, abs=0.01)


def test_intervals_are_added_to_kid_coverage_and_recall_alone() -> None:
    sets = Sets(drawn(40, 3, 0, 1.0), drawn(30, 3, 1), drawn(25, 3, 2))
    found = compare_with_intervals(sets, np.arange(25), 3, 0, "a")
    plain = compare(sets, 3)
    for name, figures in found.items():
        assert {key: value for key, value in figures.items() if key != "interval"} == plain[name]
        assert ("interval" in figures) == (name in ("kid", "coverage", "recall"))
    for name in ("kid", "coverage", "recall"):
        low, high = found[name]["interval"]
        assert low < found[name]["value"] < high
    one_patient = compare_with_intervals(sets, np.zeros(25), 3, 0, "a")
    assert one_patient["kid"]["interval"] is None


# ---- agreement and diversity


def class_images(agreeing: int, seed: int) -> tuple[ClassImages, TrainImages]:
    """A class 1 of two, of 10 generated images of which so many agree, and of 4 held-out ones of which 3 do."""
    made, train, real = (pixels(smooth(n, seed + i)) for i, n in enumerate((10, 12, 4)))
    logits = torch.tensor([[0.0, 1.0]] * agreeing + [[1.0, 0.0]] * (10 - agreeing))
    images = ClassImages(
        label=1,
        generated={"logits": logits, "pixels": made, "classifier": drawn(10, 4, 0) * 2},
        train={"logits": drawn(12, 2, 0), "pixels": train, "classifier": drawn(12, 4, 1)},
        real={
            "logits": torch.tensor([[0.0, 1.0]] * 3 + [[1.0, 0.0]]),
            "pixels": real,
            "classifier": drawn(4, 4, 2),
        },
        patients=np.arange(4),
    )
    return images, TrainImages.of(train, torch.arange(12), torch.arange(12))


def test_agreement_near_copies_and_diversity_of_a_class() -> None:
    images, train = class_images(7, 0)
    found = class_metrics(images, train, 0, "a").results()
    assert (found["agreement"]["value"], found["agreement"]["real"]["value"]) == (0.7, 0.75)
    assert found["near_copies"]["value"] == float(
        known(train.near_copies(images.generated["pixels"])).double().mean()
    )
    assert found["near_copies"]["null"]["value"] == float(
        known(train.near_copies(images.real["pixels"])).double().mean()
    )
    pairs = [torch.pdist(features.double()).mean() for features in (drawn(10, 4, 0) * 2, drawn(12, 4, 1))]
    assert found["diversity"]["pairwise"] == pytest.approx(float(pairs[0] / pairs[1]), rel=1e-5)
    grey = [images.generated["pixels"].view(-1, 32, 32), images.train["pixels"].view(-1, 32, 32)]
    expected = nearest_distance(grey[0].numpy(), 10) / nearest_distance(grey[1].numpy(), 10)
    assert found["diversity"]["nearest"] == pytest.approx(expected, rel=1e-5)


def test_classes_count_equally_in_the_mean() -> None:
    both = [class_metrics(*class_images(count, seed), 0, "a") for count, seed in ((7, 0), (2, 5))]
    found = mean_over_classes(both)
    assert found.agreement.value == pytest.approx(0.45)
    rates = [known(one.copies).value for one in both]
    assert known(found.copies).value == pytest.approx(sum(rates) / 2)
    assert found.pairwise == pytest.approx((both[0].pairwise + both[1].pairwise) / 2)


def test_a_class_of_two_patients_has_no_near_copy_rate() -> None:
    images, _ = class_images(10, 0)
    train = TrainImages.of(images.train["pixels"], torch.arange(12) % 2, torch.arange(12))
    found = class_metrics(images, train, 0, "a")
    assert found.results()["near_copies"] == {"value": None, "interval": None, "null": None}
    assert lines({"a": found.results()})[1].split()[-4:-2] == ["-", "-"]


def test_repeated_images_have_no_diversity() -> None:
    train = pixels(smooth(12, 0))
    assert nearest_diversity(train, train) == 1
    assert nearest_diversity(train[:2].repeat(6, 1), train) == 0
    assert mean_pair_distance(torch.tensor([[0.0], [1.0], [3.0]])) == 2
    assert mean_pair_distance(torch.zeros(1, 4)) is None
