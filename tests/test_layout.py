"""What the tree of the package promises: small folders, and imports that stay small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.launching import CLONE

MOST_MODULES = 12
FOLDERS = [
    folder
    for top in ("cxrdist", "benchmarks")
    for folder in sorted({path.parent for path in (CLONE / top).rglob("*.py")})
]
NOT_FOR_TRAINING = ("cxrdist.data.importers", "cxrdist.phantom", "cxrdist.data.imaging.dicom", "pydicom")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(CLONE)))
def test_a_folder_holds_at_most_a_dozen_modules(folder: Path) -> None:
    modules = sorted(path.name for path in folder.glob("*.py") if path.name != "__init__.py")
    assert len(modules) <= MOST_MODULES, modules


def test_the_configuration_of_a_classifier_loads_no_importer_phantom_or_dicom() -> None:
    code = "import json, sys, cxrdist.cls.config; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CLONE, capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert "cxrdist.cls.config" in loaded
    assert [m for m in loaded if any(f"{m}.".startswith(f"{room}.") for room in NOT_FOR_TRAINING)] == []
