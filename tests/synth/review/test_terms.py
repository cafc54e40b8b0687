"""The first start settles what a store is of."""

from __future__ import annotations

import pytest

from cxrdist.errors import OptionError, UserError
from cxrdist.synth.review.store import Store
from cxrdist.synth.review.terms import Terms, agreed

SETS = {"synthetic_digest": ["a" * 64], "real_digest": ["b" * 64]}


def test_the_first_start_settles_the_terms(store: Store) -> None:
    expected = Terms("a" * 64, "b" * 64, "val", 7, 0.5, 0.2)
    assert agreed(store, SETS, {"seed": 7, "overlap": None}) == expected
    assert agreed(store, SETS, {}) == expected
    assert agreed(store, SETS, {"seed": 7, "share_real": 0.5}) == expected
    kept = {row["name"]: row["value"] for row in store.rows("SELECT * FROM meta")}
    created = kept.pop("created")
    assert kept == {
        **{name: of[0] for name, of in SETS.items()},
        "seed": "7",
        "share_real": "0.5",
        "overlap": "0.2",
        "split": "val",
    }
    assert created.endswith("Z") and len(created) == len("2025-01-31T08:15:30.250Z")


@pytest.mark.parametrize("name", ["synthetic", "real"])
def test_another_set_is_refused(store: Store, name: str) -> None:
    agreed(store, SETS, {})
    with pytest.raises(
        UserError, match=rf"another {name} set \(.* than this one \(cccccccccccc\).*another --store"
    ):
        agreed(store, {**SETS, f"{name}_digest": ["c" * 64, "d" * 64]}, {})


def test_a_reading_goes_on_after_images_were_removed(store: Store) -> None:
    before = agreed(store, SETS, {})
    for earlier in (["a" * 64], ["d" * 64, "a" * 64]):
        assert agreed(store, {**SETS, "synthetic_digest": ["c" * 64, *earlier]}, {}) == before


def test_another_seed_is_refused(store: Store) -> None:
    agreed(store, SETS, {})
    with pytest.raises(
        OptionError, match=r"seed: .* was begun with 0, not 1: leave the option out"
    ) as caught:
        agreed(store, SETS, {"seed": 1})
    assert caught.value.field == "seed"
