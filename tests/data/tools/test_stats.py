from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrdist.cli.shards import stats as stats_command
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.tools.confounding import age_group, association, corrected_v, z_of
from cxrdist.data.tools.info import print_info
from cxrdist.data.tools.stats import as_json, percentile, stats
from cxrdist.errors import UserError
from tests.helpers.pixel_sets import Image, flat, forge


def films(count: int, **meta: Any) -> list[Image]:
    return [(flat(9), meta) for _ in range(count)]


# ---- figures of each class and split


def test_grey_values_are_those_of_numpy_over_all_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (16, 16), np.uint8) ** 2 // 3 for _ in range(7)]
    images[0][:2] = 255
    images[1][:3] = 0
    place = forge(
        tmp_path,
        {
            ("train", "Normal", "real"): [[(i, {}) for i in images[:3]], [(i, {}) for i in images[3:5]]],
            ("test", "Normal", "real"): [[(i, {}) for i in images[5:]]],
        },
    )
    (normal,) = as_json(stats(place))["classes"]
    assert (normal["class"], normal["origin"], normal["images"]) == ("Normal", "real", 7)
    assert [*normal["splits"]] == ["train", "test"]
    for figures, of in (
        (normal, images),
        (normal["splits"]["train"], images[:5]),
        (normal["splits"]["test"], images[5:]),
    ):
        pixels = np.stack(of)
        low, median, high = np.percentile(pixels, [5, 50, 95], method="inverted_cdf")
        assert figures["grey"] == {
            "mean": round(float(pixels.mean()), 3),
            "std": round(float(pixels.std()), 3),
            "p5": low,
            "p50": median,
            "p95": high,
            "black": round(float((pixels == 0).mean()), 5),
            "saturated": round(float((pixels == 255).mean()), 5),
        }


def test_people_and_films_are_counted_by_class_and_split(tmp_path: Path) -> None:
    place = forge(
        tmp_path,
        {
            ("train", "Normal", "real"): [
                [
                    (flat(1), {"patient": "p", "view": "PA", "sex": "F", "age": 30}),
                    (flat(1), {"patient": "p", "view": "AP", "sex": "F", "age": 31}),
                ],
                [(flat(1), {"patient": "q", "view": "PA", "sex": "M", "age": 60})],
            ],
            ("val", "Normal", "real"): [[(flat(1), {"patient": None, "view": None, "sex": "", "age": None})]],
            ("train", "Edema", "real"): [[(flat(1), {})]],
        },
    )
    normal, edema = as_json(stats(place))["classes"]
    del normal["grey"]
    splits = normal.pop("splits")
    assert normal == {
        "class": "Normal",
        "origin": "real",
        "images": 4,
        "patients": 2,
        "views": {"AP": 1, "PA": 2, "unknown": 1},
        "sexes": {"F": 2, "M": 1, "unknown": 1},
        "ages": {
            "mean": 40.33,
            "min": 30,
            "lower_quartile": 30,
            "median": 31,
            "upper_quartile": 60,
            "max": 60,
        },
    }
    assert (splits["train"]["images"], splits["train"]["patients"], splits["train"]["views"]) == (
        3,
        2,
        {"AP": 1, "PA": 2},
    )
    assert (splits["val"]["images"], splits["val"]["patients"], splits["val"]["ages"]) == (1, 0, None)
    assert (edema["images"], edema["patients"], edema["views"], edema["ages"]) == (1, 0, {"unknown": 1}, None)


def test_an_age_of_0_is_known_and_none_is_not(tmp_path: Path) -> None:
    images = [(flat(1), {"age": age}) for age in (None, 0, 5)]
    (normal,) = as_json(stats(forge(tmp_path, {("train", "Normal", "real"): [images]})))["classes"]
    assert (normal["ages"]["min"], normal["ages"]["max"], normal["ages"]["mean"]) == (0, 5, 2.5)


@pytest.mark.parametrize("q", [5, 25, 50, 75, 95])
def test_percentiles_are_numpys(q: int) -> None:
    rng = np.random.default_rng(q)
    for count in (1, 2, 3, 19, 20, 21, 40, 100):
        values = rng.integers(0, 9, count)
        counts = {float(v): int(n) for v, n in zip(*np.unique(values, return_counts=True))}
        assert percentile(counts, q) == np.percentile(values, q, method="inverted_cdf")


def test_a_damaged_set_is_named(tmp_path: Path) -> None:
    place = forge(tmp_path, {("train", "Normal", "real"): [films(2)]})
    tar = tmp_path / "train-normal-real-000000.tar"
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(UserError, match=r"train-normal-real-000000\.tar: changed since it was written"):
        stats(place)


def test_an_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    small = np.zeros((8, 8), np.uint8)
    place = forge(tmp_path, {("train", "Normal", "real"): [[*films(1), (small, {})]]})
    with pytest.raises(UserError, match=r"000000\.tar: sample k0001: 8x8 uint8, not 16x16 uint8"):
        stats(place)


# ---- what tells the class


def test_an_association_by_hand() -> None:
    """Chi-squared of [[10, 30], [30, 10]] is 80 * (10*10 - 30*30)^2 / 40^4 = 20, with one degree of freedom."""
    a = association("view", {"Normal": {"AP": 10, "PA": 30}, "Edema": {"AP": 30, "PA": 10}})
    assert a is not None
    assert a.images == 80
    # Bergsma: phi^2 = 20/80 - 1/79, both sides of the table 2 - 1/79.
    assert a.cramers_v == pytest.approx(((20 / 80 - 1 / 79) / (1 - 1 / 79)) ** 0.5, abs=1e-12)
    assert (a.accuracy, a.majority) == (60 / 80, 40 / 80)
    assert (a.balanced_accuracy, a.chance) == (0.75, 0.5)
    assert a.clearest == ("Normal", "PA", 0.75, 0.25)
    assert a.is_beyond_chance and a.is_confound
    assert a.warning.startswith(
        "class predicts view: 75% of Normal are PA, of the others 25%. A classifier can recognise Normal by "
        "how the film was taken (Cramér's V 0.49; guessed from the view alone, 75% of equally large classes are "
        "right, where chance gives 50%)"
    )


def test_guessing_counts_each_class_once_where_classes_are_unequal() -> None:
    a = association("view", {"Normal": {"AP": 10, "PA": 80}, "Edema": {"AP": 9, "PA": 1}})
    assert a is not None
    assert (a.accuracy, a.majority) == (0.9, 0.9)
    assert a.balanced_accuracy == pytest.approx((0.9 + 80 / 90) / 2)
    assert a.clearest == ("Edema", "AP", 0.9, 10 / 90)


@pytest.mark.parametrize(
    ("chi_squared", "freedom"), [(6.635, 1), (9.210, 2), (13.277, 4), (20.090, 8)], ids=str
)
def test_the_limit_of_chance_is_that_of_the_tables(chi_squared: float, freedom: int) -> None:
    """Upper 1 % points of chi-squared, as printed in statistical tables; 2.326 is the normal one's."""
    assert z_of(chi_squared, freedom) == pytest.approx(2.326, abs=0.03)


def test_what_follows_entirely_is_1_and_what_does_not_at_all_is_0() -> None:
    everything = association("view", {"a": {"AP": 50}, "b": {"PA": 50}})
    nothing = association("view", {"a": {"AP": 25, "PA": 25}, "b": {"AP": 50, "PA": 50}})
    assert everything is not None and nothing is not None
    assert everything.cramers_v == pytest.approx(1, abs=1e-3) and everything.balanced_accuracy == 1
    assert nothing.cramers_v == 0 and not nothing.is_confound and nothing.balanced_accuracy == 0.5
    assert corrected_v(0.0, 1, 2, 2) == 0


def test_what_a_few_images_share_by_chance_is_no_confound() -> None:
    """Chi-squared of [[8, 4], [4, 8]] is 24 * (8*8 - 4*4)^2 / 12^4 = 2.67: chance makes one in ten so large."""
    a = association("view", {"a": {"AP": 8, "PA": 4}, "b": {"AP": 4, "PA": 8}})
    assert a is not None and a.cramers_v > 0.2
    assert not a.is_beyond_chance and not a.is_confound
    a = association("view", {"a": {"AP": 80, "PA": 40}, "b": {"AP": 40, "PA": 80}})
    assert a is not None and a.is_beyond_chance and a.is_confound


@pytest.mark.parametrize(
    "table", [{}, {"a": {"AP": 3}}, {"a": {"AP": 3, "PA": 2}, "b": {}}, {"a": {"AP": 3}, "b": {"AP": 1}}]
)
def test_with_one_class_or_one_value_there_is_nothing_to_tell(table: dict[str, dict[str, int]]) -> None:
    assert association("view", table) is None


def test_ages_fall_into_groups() -> None:
    ages = (0, 19, 19.9, 20, 39, 40, 59, 60, 79, 80, 90)
    assert [age_group(age) for age in ages] == [
        *["0 to 19"] * 3,
        *["20 to 39"] * 2,
        *["40 to 59"] * 2,
        *["60 to 79"] * 2,
        *["80 or older"] * 2,
    ]


def confounded(tmp_path: Path, edema_ap: int, edema_pa: int) -> str:
    """60 normal films, a third AP, and some of edema; sexes even, ages the same."""
    normal = [*films(10, view="AP", sex="F", age=50), *films(10, view="AP", sex="M", age=50)]
    normal += [*films(20, view="PA", sex="F", age=50), *films(20, view="PA", sex="M", age=50)]
    edema = [*films(edema_ap, view="AP"), *films(edema_pa, view="PA")]
    even = [(pixels, meta | {"sex": "FM"[i % 2], "age": 50}) for i, (pixels, meta) in enumerate(edema)]
    synthetic = films(50, view=None)
    return forge(
        tmp_path,
        {
            ("train", "Normal", "real"): [normal],
            ("train", "Edema", "real"): [even[::2]],
            ("val", "Edema", "real"): [even[1::2]],
            ("train", "Normal", "synthetic"): [synthetic],
        },
    )


def test_a_class_that_predicts_the_view_gets_a_warning(tmp_path: Path) -> None:
    found = stats(confounded(tmp_path / "skewed", 18, 2))
    (line,) = found.warnings
    assert line.startswith("class predicts view: 90% of Edema are AP, of the others 33%.")
    assert [(a.about, a.images) for a in found.associations] == [("view", 80), ("sex", 80)]
    assert as_json(found)["warnings"] == [line]
    assert stats(confounded(tmp_path / "even", 7, 14)).warnings == []


def test_sex_and_age_that_predict_the_class_get_a_warning(tmp_path: Path) -> None:
    place = forge(
        tmp_path,
        {
            ("train", "Normal", "real"): [[*films(15, sex="F", age=30), *films(15, sex="M", age=35)]],
            ("train", "Edema", "real"): [[*films(25, sex="M", age=70), *films(5, sex="F", age=85)]],
        },
    )
    sex, age = stats(place).warnings
    assert sex.startswith("class predicts sex: 83% of Edema are M, of the others 50%.")
    assert age.startswith("class predicts age: 100% of Normal are 20 to 39, of the others 0%.")


def test_the_command_for_people_and_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = confounded(tmp_path, 18, 2)
    stats_command([place])
    told, logged = capsys.readouterr()
    lines = [line.split() for line in told.splitlines()]
    assert ["Edema,", "real", "20", "-", "9.0", "±", "0.0", "9", "9", "9", "0.0%", "0.0%"] in lines
    assert [
        "Edema,",
        "real",
        "90%",
        "AP,",
        "10%",
        "PA",
        "50%",
        "F,",
        "50%",
        "M",
        "50.0",
        "50,",
        "50,",
        "50",
    ] in [line[:14] for line in lines]
    assert ["Normal,", "synthetic", "-", "-", "-", "-", "-"] in lines
    assert logged.startswith("warning: class predicts view: 90% of Edema are AP")
    stats_command([place, "--json"])
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(json.dumps(as_json(stats(place))))
    assert "110 img in" in printed.err or "130 img in" in printed.err


def test_a_class_name_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = forge(tmp_path, {("train", "Mass [bold]", "real"): [films(1)]})
    stats_command([place])
    assert capsys.readouterr().out.count("Mass [bold]") == 2
    print_info(place)
    assert "Mass [bold]" in capsys.readouterr().out


def test_the_phantom_is_confounded_by_design() -> None:
    views: dict[str, dict[str, int]] = {}
    for record in Phantom().records():
        of_class = views.setdefault(str(record.label), {})
        of_class[str(record.view)] = of_class.get(str(record.view), 0) + 1
    a = association("view", views)
    assert a is not None and a.is_confound
    assert a.clearest[:2] == ("Pulmonary Edema", "AP")
