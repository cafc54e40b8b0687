from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from cxrdist.distributed import dist as dist_module
from cxrdist.distributed import machine
from cxrdist.distributed.dist import Dist
from cxrdist.distributed.machine import resolve_precision
from cxrdist.errors import UserError
from cxrdist.run.checkpoint import (
    load_checkpoint,
    load_weights,
    newest_checkpoint,
    save_weights,
    weights_sha256,
)
from cxrdist.run.folder import RunFolder, finished_summary, write_summary
from cxrdist.run.tracking.metrics_file import MetricsFile
from tests.helpers.checkpoints import save_checkpoint


def model(value: float = 0.5) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)
    return net


def saved(folder: Path, images: int, value: float, keep: int = 2) -> None:
    net = model(value)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(
        folder, images, {"net": net}, {"net": optimizer.state_dict()}, {"value": value}, keep=keep
    )


def test_the_newest_whole_checkpoint_is_found_and_loaded(tmp_path: Path) -> None:
    for images in (8, 16, 24):
        saved(tmp_path, images, images / 10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images-000000000016", "images-000000000024"]
    (tmp_path / "images-000000000024/net.safetensors").write_bytes(b"torn")
    (tmp_path / ".images-000000000032.tmp").mkdir()
    path = newest_checkpoint(tmp_path)
    assert path == tmp_path / "images-000000000016"
    net = model()
    loaded = load_checkpoint(path, {"net": net})
    assert (loaded.images, loaded.state) == (16, {"value": 1.6})
    assert loaded.optimizers["net"]["state"][0]["step"] == 1
    assert net[1].num_batches_tracked == 1


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent") is None


def test_weights_have_one_digest_whatever_their_memory_layout() -> None:
    net = nn.Conv2d(3, 4, 3)
    before = weights_sha256(net)
    assert weights_sha256(net.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        net.bias[0] += 1
    assert weights_sha256(net) != before


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", nn.Linear(2, 2))
    with pytest.raises(UserError, match="not the weights of this network"):
        load_weights(tmp_path / "w.safetensors", nn.Linear(3, 2))
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x04.")  # a pickle is not read
    with pytest.raises(UserError, match="not the weights of this network"):
        load_weights(tmp_path / "w.safetensors", nn.Linear(2, 2))
    with pytest.raises(UserError, match="no such file"):
        load_weights(tmp_path / "absent", nn.Linear(2, 2))


def test_metrics_past_the_resumed_point_are_dropped(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path, 0)
    for images in (10, 20, 30):
        file.log(images, {"loss": images / 100})
    with (tmp_path / "metrics.jsonl").open("a") as raw:
        raw.write('{"images": 40, "lo')
    MetricsFile(tmp_path, 20).log(25, {"loss": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"images": 10, "loss": 0.1}, {"images": 20, "loss": 0.2}, {"images": 25, "loss": 1.0}]


def test_a_run_folder_is_held_once_and_keeps_its_config(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = RunFolder(folder, "cls", {"seed": 1, "run": "a"})
    with pytest.raises(UserError, match="is being written by a cls job"):
        RunFolder(folder, "cls", {"seed": 1, "run": "a"})
    first.release()
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"seed": 1, "run": "a"}
    RunFolder(
        folder, "cls", {"seed": 3, "run": "a"}
    ).release()  # nothing is trained yet: a mistake is put right
    RunFolder(folder, "cls", {"seed": 1, "run": "a"}).release()
    (folder / "checkpoints/images-000000000064").mkdir(parents=True)
    RunFolder(folder, "cls", {"seed": 1, "run": "moved"}).release()
    with pytest.raises(UserError, match=r"another config \(seed 1, now 2\)"):
        RunFolder(folder, "cls", {"seed": 2, "run": "a"})
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"seed": 1, "run": "a"}


def test_a_run_of_a_version_with_fewer_options_is_refused_as_such(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", "cls", {"seed": 1}).release()
    (tmp_path / "run/checkpoints/images-1").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"another version of cxrdist, without the option augment: resume it with"
    ):
        RunFolder(tmp_path / "run", "cls", {"seed": 1, "augment": {"flip": False}})
    RunFolder(tmp_path / "run", "cls", {"seed": 1, "loader": {"workers": 2}}).release()


def test_a_folder_that_holds_something_else_is_no_run(tiny_set: Path, tmp_path: Path) -> None:
    before = sorted(p.name for p in tiny_set.iterdir())
    with pytest.raises(
        UserError, match=r"is not empty \(it holds .*\) and is not a run folder: give another --run"
    ):
        RunFolder(tiny_set, "cls", {})
    assert sorted(p.name for p in tiny_set.iterdir()) == before


def test_a_finished_run_on_another_set_is_refused(tmp_path: Path) -> None:
    write_summary(tmp_path, {"status": "finished", "shards": {"real": "abc"}})
    assert finished_summary(tmp_path, {"real": "abc"}) is not None
    with pytest.raises(UserError, match="finished run on another shard set"):
        finished_summary(tmp_path, {"real": "def"})
    with pytest.raises(UserError, match="finished run on other soft labels"):
        finished_summary(tmp_path, {"real": "abc", "soft_labels": "123"})


def test_processes_that_are_not_connected_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that started two, of which each sees itself alone, as accelerate's may on CPU."""

    class Alone:
        process_index = 0
        num_processes = 1
        device = torch.device("cpu")

        def __init__(self, **_: object) -> None: ...

    monkeypatch.setattr(dist_module, "Accelerator", Alone)
    monkeypatch.setattr(dist_module, "connect", lambda *_: None)
    launched = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="started 2 processes, but they are not connected"):
        Dist("fp32")


def test_more_processes_than_cores_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    monkeypatch.setattr(machine, "available_cores", lambda: 2)
    machine.warn_if_crowded(on_cpu=True)
    assert capsys.readouterr() == (
        "",
        "warning: 64 processes share 2 cores and will be slower than 2: launch with --num_processes 2\n",
    )


def test_bf16_is_automatic_only_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, expected in (("flags : avx2 amx_bf16 amx_tile", "bf16"), ("flags : avx2 avx512f", "fp32")):
        monkeypatch.setattr(Path, "read_text", lambda _, flags=flags: flags)
        assert resolve_precision("auto", on_cpu=True) == expected
    assert resolve_precision("bf16", on_cpu=True) == "bf16"
