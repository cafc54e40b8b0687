from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrdist.errors import UserError
from cxrdist.gan.diversity import COLLAPSED_BELOW, Diversity, nearest_distance
from cxrdist.gan.training.watch import Watch


def looks(watch: Watch, accuracies: list[float], every: int = 2000, start: int = 0) -> list[list[str]]:
    """Which causes each look names, by a word of their warnings."""
    found = []
    for number, accuracy in enumerate(accuracies, 1):
        warnings = watch.look(start + number * every, {"d_accuracy": accuracy}, {"Normal": 1.0})
        found.append(["D" if "D has classified every image correctly" in w else w for w in warnings])
    return found


def test_d_has_collapsed_when_it_is_always_right_for_three_looks_and_5000_images() -> None:
    assert looks(Watch("warn"), [1.0, 1.0, 0.9, 1.0, 0.999, 1.0, 1.0]) == [[], [], [], [], [], ["D"], []]
    assert looks(Watch("warn"), [0.998] * 5) == [[]] * 5
    # 1,000 images from look to look: the fifth look is the first after 5,000.
    assert looks(Watch("warn"), [1.0] * 6, every=1000) == [[], [], [], [], ["D"], []]
    assert looks(Watch("warn"), [1.0] * 4, every=50_000) == [[], [], ["D"], []]


def test_a_cause_that_went_and_came_again_is_told_again() -> None:
    watch = Watch("warn")
    assert looks(watch, [1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0]) == [[], [], ["D"], [], [], [], ["D"]]
    assert [line.split(" D has")[0] for line in watch.warnings] == [
        "after 6,000 images",
        "after 14,000 images",
    ]


def test_classes_are_watched_apart() -> None:
    watch = Watch("warn")
    told = []
    for number in range(1, 5):
        spread = {"Mass": 0.29, "Nodule": 0.29 if number > 1 else 0.3, "Normal": 0.31}
        told.append(watch.look(number * 3000, {"d_accuracy": 0.8}, spread))
    assert [len(warnings) for warnings in told] == [0, 0, 1, 1]
    assert (
        "the samples of Mass have been nearly alike for 9,000 images (their diversity is 0.29 of"
        in told[2][0]
    )
    assert "the samples of Nodule have been nearly alike for 9,000 images" in told[3][0]
    assert watch.warnings == [told[2][0], told[3][0]]


def test_a_resumed_watch_says_what_the_uninterrupted_one_does() -> None:
    accuracies = [1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0]
    whole = Watch("warn")
    expected = looks(whole, accuracies)
    for cut in range(1, len(accuracies)):
        first = Watch("warn")
        before = looks(first, accuracies[:cut])
        again = Watch("warn")
        again.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert before + looks(again, accuracies[cut:], start=cut * 2000) == expected
        assert again.warnings == whole.warnings and again.state_dict() == whole.state_dict()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_figures_that_are_not_finite_stop_with_advice(value: float) -> None:
    message = (
        r"after 64 images loss_g is no longer finite: lower --learning-rate or set --precision fp32, "
        "and start again with another --run"
    )
    with pytest.raises(UserError, match=message):
        Watch("warn").check_finite(64, {"loss_d": 1.0, "loss_g": value})
    with pytest.raises(UserError, match="d_accuracy is no longer finite"):
        Watch("warn").look(64, {"d_accuracy": value}, {})
    with pytest.raises(UserError, match="the diversity of Mass is no longer finite"):
        Watch("warn").look(64, {"d_accuracy": 0.5}, {"Mass": value})


def test_a_collapse_stops_where_that_was_asked() -> None:
    watch = Watch("stop")
    assert looks(watch, [1.0, 1.0]) == [[], []]
    with pytest.raises(
        UserError, match=r"D has classified every image correctly for 6,000.*--regularizer r1"
    ):
        watch.look(6000, {"d_accuracy": 1.0}, {})
    assert len(watch.warnings) == 1
    again = Watch("stop")
    again.load_state_dict(watch.state_dict())
    with pytest.raises(UserError, match="D has classified every image correctly for 8,000"):
        again.look(8000, {"d_accuracy": 1.0}, {})
    assert len(again.warnings) == 1


def test_the_nearest_other_image_counts() -> None:
    # Flat images of grey 0, 10, 13 and 100: nearest others at 10, 3, 3 and 87; in groups of two at 10, 10, 87, 87.
    images = np.stack([np.full((32, 32), grey, np.uint8) for grey in (0, 10, 13, 100)])
    assert nearest_distance(images, 4) == pytest.approx((10 + 3 + 3 + 87) / 4)
    assert nearest_distance(images, 2) == pytest.approx((10 + 10 + 87 + 87) / 4)
    assert nearest_distance(images[:3], 2) == pytest.approx(10)  # the third has no group
    assert nearest_distance(images, 1) == 0


def test_what_stopped_at_the_last_look_is_not_finished_by_starting_it_again() -> None:
    watch = Watch("stop")
    looks(watch, [1.0, 1.0])
    watch.check_end()
    with pytest.raises(UserError, match="for 6,000"):
        watch.look(6000, {"d_accuracy": 1.0}, {})
    for on_collapse in ("stop", "warn"):
        again = Watch(on_collapse)
        again.load_state_dict(watch.state_dict())
        if on_collapse == "warn":
            again.check_end()
            continue
        with pytest.raises(
            UserError, match=r"D has classified every image correctly for 6,000.*--on-collapse warn accepts"
        ):
            again.check_end()
        again.look(8000, {"d_accuracy": 0.9}, {})
        again.check_end()


class Images:
    """The train images of a set, one class each of 40, 2 and 1."""

    def __init__(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
        self.of = {"Normal": noise.repeat(2, 1).repeat(2, 2), "Pair": noise[:2], "One": noise[:1]}

    image_size = 16

    def stratum(self, split: str, class_name: str, origin: str) -> Images:
        assert (split, origin) == ("train", "real")
        self.read, self.samples = self.of[class_name], len(self.of[class_name])
        return self

    def pixels(self, number: int) -> np.ndarray:
        image: np.ndarray = self.read[number]
        return image


def test_a_few_images_again_and_again_are_no_diversity() -> None:
    real = Images()
    diversity = Diversity(real, ["Normal", "Pair", "One"])  # type: ignore[arg-type]
    other = np.random.default_rng(1).integers(0, 256, (64, 16, 16), dtype=np.uint8)
    assert 0.9 < diversity.of("Normal", other) < 1.1
    for modes in (1, 2, 4, 8):
        assert diversity.of("Normal", other[np.arange(64) % modes]) == 0
    assert diversity.of("Normal", real.of["Normal"]) == 1
    assert diversity.of("Pair", other[np.zeros(64, int)]) == 0
    assert diversity.unmeasured == ["One"]  # nothing to compare with


@pytest.mark.skipif("CXRDIST_REAL_DATA" not in os.environ, reason="needs $CXRDIST_REAL_DATA")
def test_real_chests_are_diverse_and_eight_of_them_are_not() -> None:
    paths = sorted((Path(os.environ["CXRDIST_REAL_DATA"]) / "nih64/images").glob("*.png"))[::4][:128]
    chests = np.stack([np.asarray(Image.open(path).convert("L").resize((64, 64))) for path in paths])
    real = Images()
    real.of["Normal"] = chests[:64]
    diversity = Diversity(real, ["Normal"])  # type: ignore[arg-type]
    assert 0.8 < diversity.of("Normal", chests[64:]) < 1.25
    jitter = np.random.default_rng(0).normal(0, 5, (64, 64, 64))
    for modes in (1, 2, 4, 8):
        alike = np.clip(chests[64 + np.arange(64) % modes] + jitter, 0, 255).astype(np.uint8)
        assert diversity.of("Normal", alike) < COLLAPSED_BELOW / 2
