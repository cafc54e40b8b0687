from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.default_set import open_real
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.open import check_same_kind, open_synthetic
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError


def test_sets_of_another_size_or_other_classes_do_not_mix(
    tiny_set: Path, images: Path, tmp_path: Path
) -> None:
    options = IngestOptions(out=str(tmp_path / "small"), size=16, val=0.2, test=0.2, workers=1)
    ingest(Folder(root=str(images)), options)
    two = replace(options, out=str(tmp_path / "two"), size=32, classes=("Normal", "Pneumothorax"))
    ingest(Folder(root=str(images)), two)
    real = ShardSet(tiny_set)
    check_same_kind(real, ShardSet(tiny_set))
    with pytest.raises(UserError, match=r"has images of 32 px and .*small of 16 px"):
        check_same_kind(real, ShardSet(tmp_path / "small"))
    with pytest.raises(UserError, match=r"different class names \(Pleural Effusion\)"):
        check_same_kind(real, ShardSet(tmp_path / "two"))


def test_a_real_set_is_no_synthetic_one(tiny_set: Path) -> None:
    with pytest.raises(UserError, match="is a set of real images: give it as --shards"):
        open_synthetic(str(tiny_set), open_real(str(tiny_set)))


def test_a_set_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such shard set; make one with `cxrdist import"):
        open_real(str(tmp_path / "absent"))
