"""GPUs and drivers that this machine does not have: a script as nvidia-smi, and torch's answers replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cxrdist.doctor.checks import gpus
from cxrdist.doctor.options import DoctorOptions
from tests.helpers.nvidia import A100, BUSY, T4, fake_smi

Patch = pytest.MonkeyPatch


def lines() -> list[tuple[str, str]]:
    return [(finding.level, finding.what) for finding in gpus.look(DoctorOptions())]


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def has_cuda(monkeypatch: Patch, count: int, peers: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 3))
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda a, b: peers)
    monkeypatch.setattr(torch.version, "cuda", "12.4")


def test_a_machine_without_gpus(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lines() == [("ok", "no NVIDIA GPU: jobs run on the CPU")]


def test_a_driver_that_fails(tmp_path: Path, monkeypatch: Patch) -> None:
    """An error where there is a GPU; a login node with the same software has none."""
    failure = "NVIDIA-SMI has failed because it could not talk to the driver."
    fake_smi(tmp_path, monkeypatch, fails=failure)
    monkeypatch.setattr(gpus, "PCI_DEVICES", tmp_path / "pci")
    (device := tmp_path / "pci/0000:41:00.0").mkdir(parents=True)
    (device / "vendor").write_text("0x8086\n")
    ((level, what),) = lines()
    assert level == "warning" and what.startswith(
        f"nvidia-smi fails: {failure}; there is no NVIDIA GPU on the"
    )
    (device / "vendor").write_text("0x10de\n")
    assert lines() == [("error", f"nvidia-smi fails: {failure}")]


def test_gpus_that_torch_does_not_find(tmp_path: Path, monkeypatch: Patch) -> None:
    fake_smi(tmp_path, monkeypatch, A100)
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    listed = ("ok", "1 x NVIDIA A100-SXM4-80GB, driver 550.54.15, CUDA up to 12.4")
    assert lines() == [listed, ("error", "nvidia-smi lists 1 GPUs, and torch.cuda.is_available() is False")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert lines() == [listed, ("warning", "CUDA_VISIBLE_DEVICES='' hides all GPUs: jobs run on the CPU")]


def test_different_models_full_memory_and_a_busy_gpu(tmp_path: Path, monkeypatch: Patch) -> None:
    fake_smi(tmp_path, monkeypatch, A100, BUSY, T4)
    has_cuda(monkeypatch, 3)
    names = "2 x NVIDIA A100-SXM4-80GB, 1 x Tesla T4"
    different = "NVIDIA A100-SXM4-80GB, Tesla T4"
    assert lines() == [
        ("ok", f"{names}, driver 550.54.15, CUDA up to 12.4"),
        ("warning", f"GPUs of different models: {different}: every step waits for the slowest one"),
        ("warning", "GPU 1: 40.0 of 80.0 GiB are in use by others"),
        ("warning", "GPU 2 is 90 % busy with another program"),
        ("ok", "torch uses 3 of them: CUDA 12.4, bf16, NCCL 2.27.3"),
    ]


def test_no_peer_access_and_a_gpu_that_is_gone(tmp_path: Path, monkeypatch: Patch) -> None:
    fake_smi(tmp_path, monkeypatch, A100, A100, A100)
    has_cuda(monkeypatch, 2, peers=False)
    assert lines()[2:] == [
        ("warning", "the driver lists 3 GPUs, and torch finds 2"),
        ("warning", "no peer access between GPUs 0 and 1: NCCL copies through the memory of the host"),
    ]
