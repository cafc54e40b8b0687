from __future__ import annotations

from cxrdist.cards.gates import ClassGate, Gates, gates_of

FULL = {
    "name": "default",
    "fitted_on": "train",
    "calibrated_on": "val",
    "classifiers": ["d" * 64],
    "pooled": ["Pneumothorax"],
    "classes": {
        "Pneumothorax": {
            "tried": 4000,
            "admitted": 1000,
            "duplicates": 3,
            "coverage": {"a" * 64: 0.91, "b" * 64: 0.83},
            "passed": {"pixels": 3900, "copy": 3990},
            "thresholds": {"pixels": 1.2},
            "scores": {"realism": {"synthetic": [1, 2, 3, 4, 5], "real": [2, 3, 4, 5, 6]}},
            "copy_rate": 0.02,
            "copy_null_rate": 0.01,
        },
        "Normal": {"tried": 100, "admitted": 50, "coverage": None},
    },
}


def test_counts_alone_are_read() -> None:
    classes = {"Normal": {"tried": 10, "admitted": 4}, "classes": {"tried": 3, "admitted": 3}}
    gates = gates_of({"gates": {"name": "none", "classes": classes}})
    of = {"Normal": ClassGate(tried=10, admitted=4), "classes": ClassGate(tried=3, admitted=3)}
    assert gates == Gates(name="none", classes=of)
    assert (gates.total("tried"), gates.total("admitted"), gates.names) == (13, 7, [])


def test_the_full_form_is_read() -> None:
    gates = gates_of({"gates": FULL})
    assert (gates.name, gates.fitted_on, gates.calibrated_on) == ("default", "train", "val")
    assert (gates.classifiers, gates.pooled) == (("d" * 64,), ("Pneumothorax",))
    assert gates.classes["Pneumothorax"] == ClassGate(
        tried=4000,
        admitted=1000,
        duplicates=3,
        coverage=0.83,
        passed={"pixels": 3900, "copy": 3990},
        thresholds={"pixels": 1.2},
        scores={"realism": {"synthetic": [1, 2, 3, 4, 5], "real": [2, 3, 4, 5, 6]}},
        copy_rate=0.02,
        copy_null_rate=0.01,
    )
    assert gates.classes["Normal"] == ClassGate(tried=100, admitted=50)
    assert gates.names == ["copy", "pixels", "realism"]
    assert [*gates.copy_rates] == ["Pneumothorax"]
    assert gates.total("admitted") == 1050


def test_a_manifest_without_gates_has_none() -> None:
    assert gates_of({}) == gates_of({"gates": None}) == gates_of({"gates": {}}) == Gates()
    assert Gates().total("tried") is None
    assert gates_of({"gates": {"classes": {"Normal": {"admitted": 5}}}}).total("tried") is None
