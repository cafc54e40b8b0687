"""docs/examples/site_table.py, the importer that docs/importing.md walks through: it works, and is quoted exactly."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.importers.common.base import Record
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.writing import write_pool
from cxrdist.data.tools.verify import verify
from cxrdist.errors import OptionError
from tests.helpers.inline_pool import InlinePool
from tests.helpers.launching import CLONE

EXAMPLE = CLONE / "docs" / "examples" / "site_table.py"
WALK_THROUGH = (
    (CLONE / "docs" / "importing.md").read_text().partition("\n## Adding a source in one file\n")[2]
)
QUOTED = re.findall(r"^```python\n(.*?)^```$", WALK_THROUGH, re.DOTALL | re.MULTILINE)
FINDINGS = {"Normal": "No finding", "Pneumothorax": "pneumothorax; nodule", "Cardiomegaly": "Cardiomegaly"}


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("site_table", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["site_table"] = module  # dataclasses look up the module of their class
    spec.loader.exec_module(module)
    yield module
    del sys.modules["site_table"]


def site(root: Path) -> Path:
    """Five frontal images of each class, one patient each, a lateral one, and one that shows no target."""
    lines = [
        f"2019/{name}-{number}.png,p-{name}-{number},{findings},PA,F,058Y"
        for name, findings in FINDINGS.items()
        for number in range(5)
    ]
    lines += ["2019/side.png,p-side,pneumothorax,LL,M,61", "2019/other.png,p-other,nodule,AP,M,61"]
    (root / "2019").mkdir(parents=True)
    pixels = np.random.default_rng(0)
    for line in lines:
        image = pixels.integers(0, 256, (20, 16), dtype=np.uint8)
        Image.fromarray(image).save(root / line.partition(",")[0])
    (root / "studies.csv").write_text("\n".join(["file,patient,findings,projection,sex,age", *lines]) + "\n")
    return root


def test_the_example_yields_a_record_per_line_of_the_table(example: ModuleType, tmp_path: Path) -> None:
    records = [*example.SiteTable(root=str(site(tmp_path / "site"))).records()]
    assert len(records) == 17
    assert records[5] == Record(
        source_id="2019/Pneumothorax-0.png",
        patient_id="p-Pneumothorax-0",
        findings=("pneumothorax", "nodule"),
        view="PA",
        sex="F",
        age=58,
        file="2019/Pneumothorax-0.png",
    )
    assert [record.source_id for record in records if record.left_out == "lateral view"] == ["2019/side.png"]


def test_the_example_imports_a_site(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_pool, "ProcessPoolExecutor", InlinePool)
    importer = example.SiteTable(root=str(site(tmp_path / "site")))
    out = str(tmp_path / "set")
    manifest = ingest(importer, IngestOptions(out=out, size=16, val=1, test=1, workers=1))
    assert manifest.classes == ["Cardiomegaly", "Normal", "Pneumothorax"]
    of_split = {"train": 3, "val": 1, "test": 1}
    assert manifest.counts == {
        split: {name: {"real": images} for name in manifest.classes} for split, images in of_split.items()
    }
    assert manifest.provenance.importer == "site-table"
    assert manifest.provenance.source_options == {"views": "frontal"}
    assert manifest.provenance.left_out is not None and manifest.provenance.left_out["lateral view"] == 1
    assert sum(manifest.provenance.left_out.values()) == 2
    assert verify(out) == []


def test_the_example_refuses_an_unknown_view(example: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^views: 'side' is not a choice; known: frontal, all$"):
        example.SiteTable(root=str(tmp_path), views="side")


@pytest.mark.parametrize("number", range(len(QUOTED)))
def test_the_walk_through_quotes_the_example(number: int) -> None:
    assert QUOTED[number] in EXAMPLE.read_text()


def test_the_walk_through_quotes_every_step() -> None:
    assert len(QUOTED) == 6
