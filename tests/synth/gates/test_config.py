"""Files of gates: what they say, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrdist.errors import UserError
from cxrdist.synth.gates.config import GatesConfig, read_gates


def read(tmp_path: Path, text: str) -> GatesConfig:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    return read_gates(str(path))


def test_the_files_of_configs_gates() -> None:
    default, strict, none = (read_gates(name) for name in ("default", "strict", "none"))
    assert str(default) == "pixels 1, realism 4, label 5, copy 1, duplicates 0.6, coverage 0.2"
    assert default.percents == {"pixels": 1, "realism": 4, "label": 5, "copy": 1}
    assert all(percent > default.percents[gate] for gate, percent in strict.percents.items())
    assert (str(none), none.is_off, none.percents) == ("none", True, {})
    assert [gates.name for gates in (default, strict, none)] == ["default", "strict", "none"]
    assert not default.is_off and default.needs_classifier


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    gates = read(tmp_path, "pixels: 0.5\nlabel: null\ncopy: 2\n")
    assert gates == GatesConfig(name="own", pixels=0.5, copy=2)
    assert str(gates) == "pixels 0.5, copy 2"
    assert not gates.needs_classifier
    assert read(tmp_path, "label: 5\n").needs_classifier
    assert read(tmp_path, "duplicates: 1\n") == GatesConfig(name="own", duplicates=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("realsim: 4\n", "realsim is no gate; did you mean 'realism'?"),
        ("name: mine\n", "name is no gate"),
        ("pixels: 0\n", "pixels is 0: expected a percentage above 0, at most 50, or null"),
        ("pixels: 51\n", "pixels is 51: expected a percentage above 0, at most 50, or null"),
        ("label: -1\n", "label is -1: expected a percentage"),
        ("label: five\n", "label is 'five': expected a percentage"),
        ("copy: true\n", "copy is True: expected a percentage"),
        ("copy: .nan\n", "copy is nan: expected a percentage"),
        ("copy: .inf\n", "copy is inf: expected a percentage"),
        ("copy: [1]\n", "copy is [1]: expected a percentage"),
        ("duplicates: 1.5\n", "duplicates is 1.5: expected a fraction above 0, at most 1, or null"),
        ("coverage: 20\n", "coverage is 20: expected a fraction above 0, at most 1, or null"),
    ],
)
def test_errors_name_the_file_and_what_is_expected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'own.yaml'}: {message}")


def test_a_file_that_does_not_exist() -> None:
    with pytest.raises(UserError, match="defualt") as error:
        read_gates("defualt")
    assert "default" in str(error.value)


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    for text in ("pixels: [", "- pixels\n"):
        with pytest.raises(UserError, match=r"own\.yaml"):
            read(tmp_path, text)
