"""GPUs and their driver, as the driver and as torch see them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cxrdist.doctor.findings import Finding, error, ok, warning
from cxrdist.doctor.nvidia import GPU, Driver, driver
from cxrdist.doctor.options import DoctorOptions

PCI_DEVICES, NVIDIA = Path("/sys/bus/pci/devices"), "0x10de"
BUSY_PERCENT = 20
FULL_SHARE = 0.1
"""Share of a GPU's memory that others may use before it is said."""


def look(_: DoctorOptions) -> Iterator[Finding]:
    import torch

    found = driver()
    if found is None and not torch.cuda.is_available():
        yield from _none()
        return
    if found is not None:
        yield from _of_driver(found)
    if not torch.cuda.is_available():
        yield from _unusable(found)
        return
    yield from _of_torch(found)


def _none() -> Iterator[Finding]:
    if Path("/dev/nvidia0").exists():
        yield warning(
            "there is a /dev/nvidia0, and neither nvidia-smi nor torch finds a GPU",
            "start the container with --gpus all (NVIDIA Container Toolkit)",
        )
    else:
        yield ok("no NVIDIA GPU: jobs run on the CPU")


def _has_nvidia_device() -> bool:
    vendors = PCI_DEVICES.glob("*/vendor")
    return Path("/dev/nvidia0").exists() or any(one.read_text().strip() == NVIDIA for one in vendors)


def _of_driver(found: Driver) -> Iterator[Finding]:
    if found.failure:
        what = f"nvidia-smi fails: {found.failure}"
        if _has_nvidia_device():
            yield error(
                what, "load the driver that belongs to the kernel (reboot after an update), or reinstall it"
            )
        else:
            yield warning(
                f"{what}; there is no NVIDIA GPU on the PCI bus, so jobs run on the CPU",
                "nothing, unless this machine should have a GPU: then ask who allocates it",
            )
        return
    names = [gpu.name for gpu in found.gpus]
    kinds = {name: names.count(name) for name in names}
    listed = ", ".join(f"{number} x {name}" for name, number in kinds.items()) or "no GPU"
    if found.gpus:
        listed += f", driver {found.gpus[0].driver}" + (f", CUDA up to {found.cuda}" if found.cuda else "")
    yield ok(listed)
    if len(kinds) > 1:
        yield warning(
            f"GPUs of different models: {', '.join(kinds)}: every step waits for the slowest one",
            "choose equal ones with CUDA_VISIBLE_DEVICES",
        )
    for gpu in found.gpus:
        yield from _in_use(gpu)


def _in_use(gpu: GPU) -> Iterator[Finding]:
    if gpu.used_mib > FULL_SHARE * gpu.memory_mib:
        used = f"{gpu.used_mib / 1024:.1f} of {gpu.memory_mib / 1024:.1f} GiB"
        yield warning(
            f"GPU {gpu.index}: {used} are in use by others",
            "end what runs there (nvidia-smi lists it), or leave the GPU out with CUDA_VISIBLE_DEVICES",
        )
    elif gpu.busy_percent > BUSY_PERCENT:
        yield warning(
            f"GPU {gpu.index} is {gpu.busy_percent} % busy with another program",
            "wait for it, or leave the GPU out with CUDA_VISIBLE_DEVICES",
        )


def _unusable(found: Driver | None) -> Iterator[Finding]:
    """torch finds no GPU, and the driver may."""
    import torch

    if found is None or not found.gpus:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None:
        return  # of versions
    if visible in ("", "-1", "NoDevFiles"):
        yield warning(
            f"CUDA_VISIBLE_DEVICES={visible!r} hides all GPUs: jobs run on the CPU",
            "unset it, if you did not mean that",
        )
        return
    yield error(
        f"nvidia-smi lists {len(found.gpus)} GPUs, and torch.cuda.is_available() is False",
        f"the driver is too old for CUDA {torch.version.cuda}, or its devices are not in this container; "
        "`python -c 'import torch; torch.zeros(1).cuda()'` gives the reason",
    )


def _of_torch(found: Driver | None) -> Iterator[Finding]:
    import torch

    count = torch.cuda.device_count()
    bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16 (jobs use fp32)"
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    yield ok(f"torch uses {count} of them: CUDA {torch.version.cuda}, {bf16}, NCCL {nccl}")
    if found is not None and count < len(found.gpus) and "CUDA_VISIBLE_DEVICES" not in os.environ:
        yield warning(
            f"the driver lists {len(found.gpus)} GPUs, and torch finds {count}",
            "one may have failed: look at nvidia-smi and dmesg",
        )
    apart = [
        f"{a} and {b}"
        for a in range(count)
        for b in range(a + 1, count)
        if not torch.cuda.can_device_access_peer(a, b)
    ]
    if apart:
        yield warning(
            f"no peer access between GPUs {', '.join(apart[:4])}{' ...' * (len(apart) > 4)}: NCCL copies through "
            "the memory of the host",
            "nothing is wrong on GPUs without NVLink; in a virtual machine, switch off ACS and IOMMU",
        )
