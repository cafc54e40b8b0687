"""Versions that do not fit together: packages whose metadata lies in a folder in front of sys.path."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrdist.doctor.checks import versions
from cxrdist.doctor.findings import Finding
from cxrdist.doctor.options import DoctorOptions
from tests.helpers.nvidia import A100, fake_smi


def found(level: str) -> list[Finding]:
    return [finding for finding in versions.look(DoctorOptions()) if finding.level == level]


def install(folder: Path, name: str, version: str, needs: Sequence[str] = ()) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}",
        *(f"Requires-Dist: {one}" for one in needs),
    ]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_this_environment_is_fine() -> None:
    assert found("error") == []


def test_a_package_that_is_too_old_is_named_with_who_needs_it(front: Path) -> None:
    tested = metadata.version("accelerate")
    install(front, "accelerate", "1.2.0")
    (error,) = found("error")
    assert error.what == "accelerate 1.2.0 is installed, and cxrdist needs >=1.15"
    assert error.cure == "pip install -c constraints.txt 'accelerate>=1.15'"
    (warning,) = found("warning")
    assert warning.what == f"other versions than those of the tests: accelerate 1.2.0 (tested: {tested})"


def test_the_requirements_of_requirements_count(front: Path) -> None:
    install(front, "accelerate", "1.15.0", ["numpy<2", "no-such-package>=3", "never; extra == 'x'"])
    assert [error.what for error in found("error")] == [
        f"numpy {np.__version__} is installed, and accelerate needs <2",
        "accelerate needs no-such-package, which is not installed",
    ]


def test_a_torchvision_of_another_torch_is_a_warning(front: Path) -> None:
    install(front, "torchvision", "0.20.0", ["torch==2.5.0", "numpy"])
    (warning,) = found("warning")
    assert warning.what == f"torchvision 0.20.0 needs torch==2.5.0, and torch is {torch.__version__}"
    assert warning.cure.endswith("or pip uninstall torchvision")


def test_two_torches_on_the_path_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (told,) = (one for one in found("warning") if one.what.startswith("torch is on"))
    assert told.what.startswith("torch is on sys.path 2 times: ")
    assert told.what.endswith(f", {tmp_path}/torch; the first one is used")


def test_python_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions.sys, "version_info", (3, 10, 4))
    (error,) = found("error")
    assert error.what == "Python 3.10.4, and cxrdist needs >=3.11"


def test_a_torch_without_cuda_beside_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, monkeypatch, A100)
    monkeypatch.setattr(torch.version, "cuda", None)
    (error,) = found("error")
    assert error.what == f"torch {torch.__version__} was built without CUDA, and this machine has NVIDIA GPUs"


@pytest.mark.parametrize(
    ("cuda", "level"), [("13.0", "error"), ("12.6", "warning"), ("12.4", None), ("11.8", None)]
)
def test_the_cuda_of_torch_against_the_driver(
    cuda: str, level: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_smi(tmp_path, monkeypatch, A100, cuda="12.4")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    what = f"torch was built with CUDA {cuda}, and the driver 550.54.15 supports 12.4"
    assert [(one.level, one.what) for one in versions.look(DoctorOptions()) if one.level != "ok"] == (
        [] if level is None else [(level, what)]
    )
