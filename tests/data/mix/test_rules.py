from __future__ import annotations

from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdist.config.yaml_files import find_named, load_yaml
from cxrdist.data.mix.rules import (
    OTHERS,
    MixRule,
    TargetRule,
    WeightRule,
    largest_remainder,
    quotas,
    rule_from,
)
from cxrdist.errors import UserError
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.plan import images_to_make
from tests.helpers.launching import CLONE

# Training images per class once 1,000 are taken for validation and 1,000 for test from each class.
PAPER = {
    "Cardiomegaly": 15_098,
    "Normal": 13_781,
    "Pleural Effusion": 12_510,
    "Pulmonary Edema": 3_018,
    "Pneumothorax": 2_013,
}


def rule(name: str) -> MixRule:
    return rule_from(load_yaml(find_named("mix", name)))


def paper_quotas(name: str) -> dict[str, dict[str, int]]:
    return quotas(rule(name), {c: {"real": n} for c, n in PAPER.items()})


# ---- targets


def test_ds1_is_the_papers() -> None:
    assert paper_quotas("DS1") == {c: {"real": n} for c, n in PAPER.items()}
    assert sum(q["real"] for q in paper_quotas("DS1").values()) == 46_420


def test_duplicated_real_has_the_counts_of_ds3_from_real_images_alone() -> None:
    assert paper_quotas("duplicated-real") == {c: {"real": 30_196} for c in PAPER}


@pytest.mark.parametrize(
    ("ratio", "synthetic"), [("0.25", 9_285), ("0.5", 15_475), ("1", 23_210), ("2", 30_945)]
)
def test_synthetic_images_per_real_one_are_the_same_in_every_class(ratio: str, synthetic: int) -> None:
    found = paper_quotas(f"synthetic-{ratio}")
    assert sum(q["synthetic"] for q in found.values()) == synthetic
    for quota in found.values():
        assert quota["real"] + quota["synthetic"] == 9_284
        assert abs(quota["synthetic"] / quota["real"] - float(ratio)) < 0.001


def test_synthetic_balanced_takes_no_real_image() -> None:
    assert paper_quotas("synthetic-balanced") == {c: {"synthetic": 9_284} for c in PAPER}


def test_ds2_is_the_papers() -> None:
    assert paper_quotas("DS2") == {c: {"real": 2_013} for c in PAPER}


def test_ds3_is_the_papers() -> None:
    found = paper_quotas("DS3")
    assert {c: q["real"] for c, q in found.items()} == PAPER
    assert {c: q["synthetic"] for c, q in found.items()} == {
        "Cardiomegaly": 15_098,
        "Normal": 16_415,
        "Pleural Effusion": 17_686,
        "Pulmonary Edema": 27_178,
        "Pneumothorax": 28_183,
    }
    assert {sum(q.values()) for q in found.values()} == {30_196}
    assert sum(q["synthetic"] for q in found.values()) == 104_560
    assert sum(sum(q.values()) for q in found.values()) == 150_980


def test_an_empty_class_is_left_out_of_ds1_and_filled_in_ds3() -> None:
    counts = {"a": {"real": 4}, "b": {"real": 0}}
    assert quotas(rule("DS1"), counts) == {"a": {"real": 4}, "b": {"real": 0}}
    assert quotas(rule("DS2"), counts)["a"] == {"real": 4}
    assert quotas(rule("DS3"), counts)["b"] == {"real": 0, "synthetic": 8}


def test_a_rule_of_ones_own() -> None:
    own = rule_from(
        {"name": "half", "images_per_class": "largest", "times": 0.5, "fill": ["real", "synthetic"]}
    )
    assert quotas(own, {"a": {"real": 10}, "b": {"real": 2}}) == {
        "a": {"real": 5, "synthetic": 0},
        "b": {"real": 2, "synthetic": 3},
    }


counts_st = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.fixed_dictionaries({"real": st.integers(0, 500)}, optional={"synthetic": st.integers(0, 500)}),
    min_size=1,
    max_size=7,
).filter(lambda counts: any(origins["real"] for origins in counts.values()))


@settings(max_examples=150, deadline=None)
@given(
    counts_st,
    st.sampled_from(["own", "smallest", "largest", 1, 7, 300]),
    st.decimals("0.01", "5", places=2).map(float),
    st.sampled_from([["real"], ["synthetic"], ["real", "synthetic"], ["synthetic", "real"]]),
)
def test_a_target_is_met_and_what_fills_it_gives_no_more_than_it_has(
    counts: dict[str, dict[str, int]], target: str | int, times: float, fill: list[str]
) -> None:
    values = {"name": "x", "images_per_class": target, "times": times, "fill": fill}
    real = {name: origins["real"] for name, origins in counts.items()}
    present = [n for n in real.values() if n]
    bases = [
        {"own": real[name], "smallest": min(present), "largest": max(present)}.get(str(target), target)
        for name in counts
    ]
    if any(base and not round(Fraction(str(times)) * int(base)) for base in bases):
        with pytest.raises(UserError, match=r"mix x: times .* is none of .*; raise it"):
            quotas(rule_from(values), counts)
        return
    found = quotas(rule_from(values), counts)
    for name, origins in found.items():
        base = {"own": real[name], "smallest": min(present), "largest": max(present)}.get(str(target), target)
        assert abs(sum(origins.values()) - Fraction(str(times)) * int(base)) <= Fraction(1, 2)
        assert list(origins) == fill and min(origins.values()) >= 0
        for i, origin in enumerate(fill[:-1]):
            assert origins[origin] <= counts[name].get(origin, 0)
            if any(origins[later] for later in fill[i + 1 :]):
                assert origins[origin] == counts[name].get(origin, 0)
    assert quotas(rule_from(values), dict(reversed(counts.items()))) == found


# ---- weights

A_THIRD = {"name": "x", "epoch_images": 10, "weights": {"a": {"real": 1}, "b": {"real": 1, "synthetic": 1}}}


def weighted(**changes: Any) -> WeightRule:
    made = rule_from(A_THIRD | changes)
    assert isinstance(made, WeightRule)
    return made


def test_largest_remainder_by_hand() -> None:
    """Ten seats at 47 : 16 : 15.8 : 12 : 6.1 : 3.1, the worked example of many a text: quotients 4.7, 1.6, 1.58, 1.2,
    0.61, 0.31; floors 4, 1, 1, 1, 0, 0; the three that are left go to the remainders .7, .61 and .6."""
    weights = {"yellow": "47", "white": "16", "red": "15.8", "green": "12", "blue": "6.1", "pink": "3.1"}
    found = largest_remainder({(name, 0): Fraction(w) for name, w in weights.items()}, 10)
    assert [q for _, q in sorted(found.items())] == [
        1,
        1,
        0,
        1,
        2,
        5,
    ]  # blue, green, pink, red, white, yellow


def test_equal_remainders_go_by_the_class_name_and_real_first() -> None:
    counts = {"b": {"real": 9, "synthetic": 9}, "a": {"real": 9}}
    assert quotas(weighted(), counts) == {"a": {"real": 4}, "b": {"real": 3, "synthetic": 3}}
    assert quotas(weighted(epoch_images=11), counts) == {"a": {"real": 4}, "b": {"real": 4, "synthetic": 3}}


def test_weights_are_the_decimals_that_are_written() -> None:
    """Shares 1.5, 0.5 and 3: a tie, which a wins. The binary 0.1 is a little over a tenth, 0.3 a little under three,
    so of these b would win."""
    rule = weighted(epoch_images=5, weights={"a": {"real": 0.3}, "b": {"real": 0.1}, "c": {"real": 0.6}})
    found = quotas(rule, {name: {"real": 9} for name in "abc"})
    assert found == {"a": {"real": 2}, "b": {"real": 0}, "c": {"real": 3}}


def test_the_star_stands_for_each_class_that_is_not_named() -> None:
    rule = weighted(epoch_images="own", weights={"b": {"real": 0}, OTHERS: {"real": 1}})
    counts = {"a": {"real": 5}, "b": {"real": 7}, "c": {"real": 2}}
    assert quotas(rule, counts) == {"a": {"real": 7}, "b": {"real": 0}, "c": {"real": 7}}
    assert not rule.needs_synthetic
    assert weighted().needs_synthetic
    assert not weighted(weights={"*": {"real": 1, "synthetic": 0}}).needs_synthetic


def test_equal_shares_is_as_its_head_says() -> None:
    rare = {"real": 1_857, "synthetic": 7_427}
    assert paper_quotas("equal-shares") == {
        "Cardiomegaly": {"real": 9_284},
        "Normal": {"real": 9_284},
        "Pleural Effusion": {"real": 9_284},
        "Pulmonary Edema": rare,
        "Pneumothorax": rare,
    }
    head = find_named("mix", "equal-shares").read_text()
    for figure in (9_284, 5 * 9_284, 2 * 7_427, 7_427):
        assert f"{figure:,}" in head


def test_square_root_is_as_its_head_says() -> None:
    found = paper_quotas("square-root")
    assert sum(origins["real"] for origins in found.values()) == 46_420
    total = sum(n**0.5 for n in PAPER.values())
    for name, images in PAPER.items():
        assert abs(found[name]["real"] - 46_420 * images**0.5 / total) < 1
    head = find_named("mix", "square-root").read_text()
    for origins in (
        max(found.values(), key=lambda o: o["real"]),
        min(found.values(), key=lambda o: o["real"]),
    ):
        assert f"{origins['real']:,} of the" in head


def test_balanced_is_as_its_head_says() -> None:
    assert paper_quotas("balanced") == {c: {"real": 9_284} for c in PAPER}
    assert not rule("balanced").needs_synthetic
    head = find_named("mix", "balanced").read_text()
    assert "46,420" in head and "9,284" in head


weight_st = st.one_of(st.integers(0, 9), st.decimals("0", "20", places=3).map(float))
weights_st = st.dictionaries(
    st.one_of(st.text("abcdef", min_size=1, max_size=2), st.just(OTHERS)),
    st.dictionaries(st.sampled_from(["real", "synthetic"]), weight_st, min_size=1),
    min_size=1,
    max_size=6,
).filter(lambda weights: any(w for origins in weights.values() for w in origins.values()))


@settings(max_examples=200, deadline=None)
@given(weights_st, st.data())
def test_quotas_by_weight_are_exact_and_within_one_of_their_share(
    weights: dict[str, dict[str, float]], data: st.DataObject
) -> None:
    named = [name for name in weights if name != OTHERS]
    unnamed = data.draw(st.integers(0 if named else 1, 3)) if OTHERS in weights else 0
    classes = data.draw(st.permutations([*named, *(f"other {i}" for i in range(unnamed))]))
    of_class = {name: weights.get(name, weights.get(OTHERS, {})) for name in classes}
    total = sum(Fraction(str(w)) for origins in of_class.values() for w in origins.values())
    counts = {name: {"real": data.draw(st.integers(1, 99))} for name in classes}
    epoch: str | int = data.draw(st.one_of(st.just("own"), st.integers(1, 100_000)))
    rule = rule_from({"name": "x", "epoch_images": epoch, "weights": weights})
    if not total:
        with pytest.raises(UserError, match="all weights of this set's classes are 0"):
            quotas(rule, counts)
        return
    found = quotas(rule, counts)
    images = sum(c["real"] for c in counts.values()) if isinstance(epoch, str) else epoch
    assert sum(q for origins in found.values() for q in origins.values()) == images
    drawn = []
    for name, origins in found.items():
        assert set(origins) == set(of_class[name])
        for origin, quota in origins.items():
            weight = Fraction(str(of_class[name][origin]))
            share = weight * images / total
            assert floor(share) <= quota <= floor(share) + 1 and abs(quota - share) < 1
            assert weight or not quota
            drawn.append((weight, quota))
    for weight, quota in drawn:  # who weighs more never gets less
        assert all(q <= quota for w, q in drawn if w < weight)
    shuffled = data.draw(st.permutations(classes))
    assert list(found) == classes
    assert quotas(rule, {name: counts[name] for name in shuffled}) == found


# ---- mistakes

WEIGHTS = {"name": "x", "epoch_images": 5, "weights": {"*": {"real": 1}}}
TARGET = {"name": "x", "images_per_class": 3}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "x", "images_per_class": "larges"}, "did you mean 'largest'"),
        ({"name": "x", "images_per_clas": 3}, "did you mean 'images_per_class'"),
        (TARGET | {"fill": ["sinthetic"]}, "did you mean 'synthetic'"),
        (TARGET | {"images_per_class": 0}, "images_per_class 0: must be from 1 to 9,007,199,254,740,992"),
        (
            TARGET | {"images_per_class": True},
            "images_per_class True: must be a whole number, or own or smallest",
        ),
        (TARGET | {"images_per_class": 2.5}, "images_per_class 2.5: must be a whole number"),
        (TARGET | {"images_per_class": None}, "images_per_class None: must be a whole number"),
        (TARGET | {"images_per_class": 10**20}, "must be from 1 to 9,007,199,254,740,992"),
        (TARGET | {"times": 0}, "times 0: must be more than 0"),
        (TARGET | {"times": "2"}, "times '2': must be a number"),
        (TARGET | {"times": float("nan")}, "times nan: must be a number"),
        (TARGET | {"fill": 5}, r"fill 5: must be a list of origins, such as \[real, synthetic\]"),
        (TARGET | {"fill": []}, "fill must name at least one origin, and none of them twice"),
        (TARGET | {"fill": [None]}, "fill None: unknown; known: real, synthetic"),
        ({"name": "x"}, r"images_per_class is missing \(or epoch_images and weights\)"),
        ({"images_per_class": 3}, r"mix \?: name is missing"),
        (TARGET | {"name": 3}, r"name 3: must be text \(write it in quotes\)"),
        (TARGET | {5: 6}, "mix x: 5: unknown; known: name, images_per_class"),
        (
            WEIGHTS | {"times": 2},
            "times and epoch_images belong to different kinds of rule: give either images_per_class, times, fill, or "
            "epoch_images, weights, count_power",
        ),
        (WEIGHTS | {"count_power": 2}, "mix x: count_power 2: must be 0, 0.5 or 1"),
        (WEIGHTS | {"count_power": "half"}, "mix x: count_power 'half': must be a number"),
        (
            {"name": "x", "epoch_images": 5, "weights": {"*": {"real": 1, "synthetic": 1}}, "count_power": 1},
            "mix x: count_power 1: is for mixes of real images; remove it, or the weights of synthetic ones",
        ),
        ({"name": "x", "epoch_images": 5}, "weights is missing"),
        ({"name": "x", "weights": {"*": {"real": 1}}}, "epoch_images is missing"),
        (WEIGHTS | {"epoch_images": 0}, "epoch_images 0: must be from 1 to 9,007,199,254,740,992"),
        (WEIGHTS | {"epoch_images": "onw"}, "epoch_images 'onw': unknown; did you mean 'own'"),
        (WEIGHTS | {"epoch_images": 1.5}, "epoch_images 1.5: must be a whole number, or own"),
        (WEIGHTS | {"epoch_images": False}, "epoch_images False: must be a whole number, or own"),
        (WEIGHTS | {"weights": {}}, "weights: must be a mapping from class to origins"),
        (WEIGHTS | {"weights": 3}, "weights: must be a mapping from class to origins"),
        (
            WEIGHTS | {"weights": {"a": 3}},
            r"weights: a: must be a weight for each origin, such as \{real: 1\}",
        ),
        (WEIGHTS | {"weights": {"a": {}}}, "weights: a: must be a weight for each origin"),
        (WEIGHTS | {"weights": {1: {"real": 1}}}, r"weights: class 1: must be text \(write it in quotes\)"),
        (WEIGHTS | {"weights": {"a": {"reel": 1}}}, "weights: a: 'reel': unknown; did you mean 'real'"),
        (WEIGHTS | {"weights": {"a": {1: 1}}}, "weights: a: 1: unknown; known: real, synthetic"),
        (WEIGHTS | {"weights": {"a": {"real": -0.5}}}, "weights: a: real -0.5: must be 0 or more"),
        (WEIGHTS | {"weights": {"a": {"real": True}}}, "weights: a: real True: must be a number"),
        (WEIGHTS | {"weights": {"a": {"real": "1"}}}, "weights: a: real '1': must be a number"),
        (WEIGHTS | {"weights": {"a": {"real": None}}}, "weights: a: real None: must be a number"),
        (WEIGHTS | {"weights": {"a": {"real": float("nan")}}}, "weights: a: real nan: must be a number"),
        (WEIGHTS | {"weights": {"a": {"real": float("inf")}}}, "weights: a: real inf: must be a number"),
        (WEIGHTS | {"weights": {"a": {"real": 0}}}, "all weights are 0, so an epoch would be empty"),
    ],
    ids=str,
)
def test_a_wrong_rule_is_explained(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        rule_from(values)


@pytest.mark.parametrize(
    ("weights", "counts", "words"),
    [
        ({"Normal": 1, "Pneumotorax": 1, "*": 1}, {}, "Pneumotorax: not a class of this set; did you mean 'Pneumo"),
        ({"Normal": 1}, {}, 'Pneumothorax has no weight: name each class of the set, or all others with `"[*]": {r'),
        ({"Normal": 0, "Pneumothorax": 0, "*": 1}, {}, "all weights of this set's classes are 0"),
        (
            {"*": 1},
            {"Pneumothorax": {"real": 0}},
            r"an epoch needs 5 real images of Pneumothorax, and the set has none: set `Pneumothorax: \{real: 0\}`, "
            "or use a set that has some",
        ),
        ({"*": 1}, {"Normal": {"real": 0}, "Pneumothorax": {"real": 0}}, "no real training image in any class"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_a_set_are_explained(
    weights: dict[str, int], counts: dict[str, dict[str, int]], words: str
) -> None:
    rule = weighted(weights={name: {"real": weight} for name, weight in weights.items()})
    with pytest.raises(UserError, match=words):
        quotas(rule, {"Normal": {"real": 3}, "Pneumothorax": {"real": 4}} | counts)


def test_synthetic_images_may_be_made_later_but_not_lack_in_the_set_that_is_given() -> None:
    rule = weighted(weights={"*": {"real": 1, "synthetic": 4}})
    assert quotas(rule, {"a": {"real": 3}}) == {"a": {"real": 2, "synthetic": 8}}
    with pytest.raises(UserError, match=r"an epoch needs 8 synthetic images of a, .* `a: \{synthetic: 0\}`"):
        quotas(rule, {"a": {"real": 3, "synthetic": 0}})


def test_an_epoch_that_no_order_can_hold_is_refused() -> None:
    rule = TargetRule(name="x", images_per_class=2**50, times=1e9)
    with pytest.raises(
        UserError, match="mix x: an epoch of 1,125,899,906,842,624,000,000,000 images; at most 9,007"
    ):
        quotas(rule, {"a": {"real": 3}})


# ---- who works for a rule


class Counted:
    """A set as far as synthesis asks it what to make."""

    classes = ("Normal", "Pneumothorax")

    def samples(self, split: str, class_name: str, origin: str) -> int:
        assert (split, origin) == ("train", "real")
        return {"Normal": 30, "Pneumothorax": 10}[class_name]


def write_mix(name: str, text: str) -> None:
    folder = Path("configs/mix")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(f"name: {name}\n{text}")


def test_synthesis_makes_the_quota_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made: Any = Counted()
    assert images_to_make(SynthConfig(mix="DS3"), made) == {"Normal": 30, "Pneumothorax": 50}
    write_mix("mine", 'epoch_images: own\nweights: {Pneumothorax: {real: 1, synthetic: 3}, "*": {real: 4}}')
    assert images_to_make(SynthConfig(mix="mine"), made) == {"Pneumothorax": 15}
    with pytest.raises(
        UserError, match=r"^mix: DS1 uses no synthetic images; choose a mix that does, such as DS3"
    ):
        images_to_make(SynthConfig(mix="DS1"), made)
    write_mix("few", 'epoch_images: 9\nweights: {"*": {real: 50, synthetic: 1}}')
    with pytest.raises(UserError, match=r"an epoch of few on .* contains no synthetic image"):
        images_to_make(SynthConfig(mix="few"), made)


def test_mix_files_say_how_they_are_used() -> None:
    for path in sorted((CLONE / "configs" / "mix").glob("*.yaml")):
        assert f"--mix {path.stem}" in path.read_text()
        assert rule(path.stem).name == path.stem
