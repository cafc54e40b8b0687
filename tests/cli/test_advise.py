"""``cxrdist advise``."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrdist.cli.advise import training_set
from cxrdist.cli.main import dispatch
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.ingest import default_set
from cxrdist.data.ingest.ingest import IngestOptions
from cxrdist.data.ingest.plan import plan_import
from cxrdist.errors import UserError

Capture = pytest.CaptureFixture[str]
PHANTOMS = {
    "Cardiomegaly": 240,
    "Normal": 222,
    "Pleural Effusion": 202,
    "Pulmonary Edema": 70,
    "Pneumothorax": 56,
}


def advise(capsys: Capture, *words: str) -> list[str]:
    assert dispatch(["advise", *words]) is None
    done = capsys.readouterr()
    assert done.err == ""
    return done.out.splitlines()


def test_a_set_is_advised_on(tiny_set: Path, capsys: Capture) -> None:
    lines = advise(capsys, str(tiny_set))
    assert lines[0] == f"{tiny_set}: 18 training images of 3 classes, 32 px"
    assert lines[1].startswith("this machine: ")
    files = ["configs/gan/demo.yaml", "configs/gan/nih64.yaml"]
    assert lines[3] == f"preset     {' and '.join(files)}: one conditional GAN of all classes"
    assert lines[-1].startswith("accelerate launch ")
    options = f"--config {files[0]} --config {files[1]} --shards {tiny_set} --run runs/gan-tiny"
    assert lines[-1].endswith(f" launch/train_gan.py {options} --no-use-unlabelled --unlabelled-share null")
    assert all(len(line) <= 110 for line in lines[1:-1] if str(tiny_set) not in line)
    topics = [line[:11].strip() for line in lines[3:-2] if line[:1].strip()]
    assert topics == [
        "preset",
        "batch",
        "R1 weight",
        "budget",
        "time",
        "memory",
        "copies",
        "check",
        "classifier",
    ]


def test_the_default_set_need_not_exist(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = advise(capsys)
    assert lines[0] == "shards/phantom: 790 training images of 5 classes, 64 px"
    assert lines[-1].endswith(
        " launch/train_gan.py --config configs/gan/demo.yaml --shards shards/phantom --run runs/gan-phantom"
    )
    assert list(tmp_path.iterdir()) == []
    assert training_set("shards/phantom/").counts == PHANTOMS


def test_the_counts_of_the_default_set_are_those_that_its_import_plans() -> None:
    plan = plan_import(Phantom(), IngestOptions(out="shards/phantom"))
    train = [label for label, split in zip(plan.labels, plan.splits, strict=True) if split == "train"]
    assert default_set.default_counts() == (64, {name: train.count(name) for name in plan.classes})


def test_another_size_begins_with_how_to_make_that_set(tiny_set: Path, capsys: Capture) -> None:
    lines = advise(capsys, str(tiny_set), "--size", "128")
    assert lines[0] == f"{tiny_set}-128: 18 training images of 3 classes, 128 px"
    assert lines[-2] == f"# import the source again with --size 128 --out {tiny_set}-128, then:"
    assert f"--config configs/gan/px128.yaml --shards {tiny_set}-128 " in lines[-1]


def test_what_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such shard set; make one with"):
        dispatch(["advise", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"^--size: must be 1 or more, not 0$"):
        dispatch(["advise", "--size", "0"])
