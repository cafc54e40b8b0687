"""How many images of each class a synthesis makes."""

from __future__ import annotations

import pytest

from cxrdist.errors import OptionError
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.plan import counted

CLASSES = ["Normal", "Pulmonary Edema", "Pneumothorax"]


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("1000", {"Normal": 1000, "Pulmonary Edema": 1000, "Pneumothorax": 1000}),
        ("1_000", {"Normal": 1000, "Pulmonary Edema": 1000, "Pneumothorax": 1000}),
        ("Pneumothorax=50, Pulmonary Edema=20", {"Pulmonary Edema": 20, "Pneumothorax": 50}),
    ],
)
def test_a_count_is_of_each_class_or_of_those_named(text: str, images: dict[str, int]) -> None:
    found = counted(text, CLASSES)
    assert found == images and [*found] == [*images]  # in the set's order


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0", "a number of images of 1 or more"),
        ("-5", "a number of images of 1 or more"),
        ("many", "a number of images of 1 or more"),
        ("Normal=", "a number of images of 1 or more"),
        ("Normal=1.5", "a number of images of 1 or more"),
        ("Pneumothrax=5", "'Pneumothrax' is no class of the set; did you mean 'Pneumothorax'?"),
        ("Normal=5,Normal=6", "Normal is named twice"),
        ("1_000_000_001", "at most 1,000,000,000 images of a class"),
        ("Normal=5,6", "'6' is not written as 'class=number'"),
    ],
)
def test_another_count_is_refused(text: str, why: str) -> None:
    with pytest.raises(OptionError) as caught:
        counted(text, CLASSES)
    assert why in str(caught.value)


def test_a_mix_or_a_count() -> None:
    with pytest.raises(OptionError, match="give one of them"):
        SynthConfig(mix="DS3", count="5")
    assert SynthConfig().mix_name == "DS3"


def test_no_run_of_a_gan_is_refused() -> None:
    for gan in ("", " , "):
        with pytest.raises(OptionError, match="expected a run folder"):
            SynthConfig(gan=gan)
