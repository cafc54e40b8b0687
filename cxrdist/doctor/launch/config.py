"""What a config of accelerate would start, and what is wrong with it before anything is started."""

from __future__ import annotations

import difflib
import importlib.util
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrdist.distributed.launch_config import KNOWN_KEYS, TYPES
from cxrdist.doctor.findings import Finding, error, warning

ON_GPUS = ("MULTI_GPU", "DEEPSPEED")
NOT_SUPPORTED = ("FSDP", "MEGATRON_LM", "XLA", "TP")
DEFAULT_PORT = 29500
NUMBERS: dict[str, tuple[int, float]] = {
    "num_processes": (1, math.inf),
    "num_machines": (1, math.inf),
    "machine_rank": (0, math.inf),
    "main_process_port": (0, 65535),
}
"""Keys, and the smallest and largest value of each."""
CPU2 = "configs/accelerate/cpu2.yaml"


@dataclass(frozen=True)
class Launch:
    """``values``: of a config file, with what the command line gives instead. ``place``: the file, for messages."""

    place: str
    values: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.values.get("distributed_type", "NO"))

    @property
    def processes(self) -> int:
        return self._number("num_processes", 1 if self.kind == "NO" else -1)

    @property
    def machines(self) -> int:
        return self._number("num_machines", 1)

    @property
    def machine(self) -> int:
        return self._number("machine_rank", 0)

    @property
    def local_processes(self) -> int:
        """On each machine."""
        return self.processes // max(1, self.machines)

    @property
    def on_cpu(self) -> bool:
        return bool(self.values.get("use_cpu")) or self.kind not in ON_GPUS

    @property
    def address(self) -> str:
        return str(self.values.get("main_process_ip") or "")

    @property
    def port(self) -> int:
        given = self.values.get("main_process_port")
        return DEFAULT_PORT if given is None else self._number("main_process_port", DEFAULT_PORT)

    def _number(self, key: str, default: int) -> int:
        value = self.values.get(key, default)
        return value if isinstance(value, int) else default


def problems(launch: Launch, *, gpus: int, cores: int) -> Iterator[Finding]:
    """What ``accelerate launch`` or the jobs would refuse, and what would be slow. ``gpus``, ``cores``: of this
    machine."""
    yield from _keys(launch)
    if not_numbers := list(_not_numbers(launch)):
        yield from not_numbers  # of which nothing can be computed
        return
    yield from _kind(launch)
    yield from _precision(launch)
    yield from _counts(launch, gpus=gpus, cores=cores)
    yield from _machines(launch)
    if launch.kind == "DEEPSPEED":
        yield from _deepspeed(launch)


def _keys(launch: Launch) -> Iterator[Finding]:
    for key in sorted(set(map(str, launch.values)) - KNOWN_KEYS):
        close = difflib.get_close_matches(key, KNOWN_KEYS, n=1)
        yield error(
            f"{launch.place}: the installed accelerate does not know the key {key}, and stops",
            f"write {close[0]}" if close else "remove the key, or install the accelerate that wrote it",
        )
    if launch.values.get("compute_environment", "LOCAL_MACHINE") != "LOCAL_MACHINE":
        yield error(
            f"{launch.place}: compute_environment is {launch.values['compute_environment']}, which jobs refuse",
            "write LOCAL_MACHINE",
        )


def _not_numbers(launch: Launch) -> Iterator[Finding]:
    for key, (least, most) in NUMBERS.items():
        value = launch.values.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            yield error(f"{launch.place}: {key} is {value!r}", "write a whole number")
        elif not least <= value <= most:
            cure = f"write {least} or more" if most == math.inf else f"write one from {least} to {most}"
            yield error(f"{launch.place}: {key} is {value}", cure)


def _kind(launch: Launch) -> Iterator[Finding]:
    if "distributed_type" not in launch.values:
        yield error(
            f"{launch.place}: no distributed_type, and accelerate stops without",
            f"copy that of {CPU2} or gpu.yaml",
        )
    elif launch.kind not in TYPES:
        what = f"{launch.place}: distributed_type is {launch.values['distributed_type']!r}"
        yield error(what, f"write one of {', '.join(TYPES)}; in YAML 1.1 NO needs quotes")
    elif launch.kind in NOT_SUPPORTED:
        yield error(
            f"{launch.place}: {launch.kind}, which jobs refuse",
            "launch with configs/accelerate/gpu.yaml (DDP)",
        )
    elif launch.kind == "MULTI_CPU" and launch.processes > 1:
        yield error(
            f"{launch.place}: under MULTI_CPU accelerate starts one process, not {launch.processes}",
            f"write MULTI_GPU with use_cpu: true, as {CPU2} does",
        )
    elif launch.kind == "NO" and launch.processes > 1:
        yield error(
            f"{launch.place}: distributed_type NO starts one process, not {launch.processes}",
            "write MULTI_GPU; on CPU with use_cpu: true",
        )
    if dynamo := launch.values.get("dynamo_config"):
        yield warning(
            f"{launch.place}: dynamo_config {dynamo} is not used by the jobs", "give --compile to the job"
        )


def _precision(launch: Launch) -> Iterator[Finding]:
    precision = launch.values.get("mixed_precision")
    if isinstance(precision, bool):
        yield error(
            f"{launch.place}: mixed_precision is read as {precision}, and accelerate stops",
            'write it in quotes: mixed_precision: "no"',
        )
    elif precision not in (None, "no", "bf16"):
        yield error(
            f"{launch.place}: mixed_precision is {precision}, which jobs refuse",
            'write bf16, or "no" and give --precision to the job',
        )


def _counts(launch: Launch, *, gpus: int, cores: int) -> Iterator[Finding]:
    local = launch.local_processes
    if launch.processes < 1:
        yield error(f"{launch.place}: num_processes is {launch.processes}", "give --num_processes")
    elif launch.processes % launch.machines:
        yield error(
            f"{launch.place}: {launch.processes} processes on {launch.machines} machines: accelerate starts {local} "
            "on each",
            "give a num_processes (of all machines together) that num_machines divides",
        )
    elif launch.kind == "MULTI_GPU" and not launch.on_cpu and local > gpus:
        found = "no GPU" if gpus == 0 else "1 GPU" if gpus == 1 else f"{gpus} GPUs"
        what = f"{launch.place}: {local} processes on this machine, on which torch finds {found}"
        if gpus:
            yield error(what, f"give --num_processes {gpus * launch.machines}")
        elif launch.machines > 1:  # there is no config for several machines without GPUs
            yield warning(what, "see the section GPUs, unless they shall compute on the CPU")
        else:
            yield error(what, f"launch with {CPU2}")
    elif (launch.on_cpu or gpus == 0) and local > cores:
        yield warning(
            f"{launch.place}: {local} processes share {cores} cores, and are slower than {cores}",
            f"give --num_processes {cores * launch.machines}",
        )
    ids = launch.values.get("gpu_ids")
    if ids not in (None, "all") and not launch.on_cpu and len(str(ids).split(",")) != local:
        yield error(
            f"{launch.place}: gpu_ids is {ids}, for {local} processes",
            "name as many GPUs as processes of a machine, or write all",
        )


def _machines(launch: Launch) -> Iterator[Finding]:
    if launch.machine >= launch.machines:
        yield error(
            f"{launch.place}: machine_rank is {launch.machine}, of {launch.machines} machines (numbered from 0)",
            f"give --machine_rank 0 to {launch.machines - 1}"
            if launch.machines > 1
            else "write machine_rank: 0",
        )
    if launch.machines > 1 and not launch.address:
        yield error(
            f"{launch.place}: {launch.machines} machines, and no main_process_ip",
            "give the address of machine 0 with --main_process_ip",
        )
    if launch.machines > 1 and launch.port == 0:
        yield error(
            f"{launch.place}: main_process_port is 0, so each machine takes another port",
            f"give the same one on all machines, --main_process_port {DEFAULT_PORT}",
        )


def _deepspeed(launch: Launch) -> Iterator[Finding]:
    settings = launch.values.get("deepspeed_config") or {}
    if not isinstance(settings, dict):
        yield error(
            f"{launch.place}: deepspeed_config is {settings!r}",
            "write its settings below it, such as deepspeed_config_file: configs/deepspeed/zero2.json",
        )
        return
    if importlib.util.find_spec("deepspeed") is None:
        yield error(
            f"{launch.place}: DeepSpeed is not installed", "pip install -c constraints.txt -e '.[deepspeed]'"
        )
    elif shutil.which("g++") is None or shutil.which("ninja") is None:
        yield warning(
            "DeepSpeed compiles parts of itself with g++ and ninja, and one of them is not on PATH",
            "install them (Debian: g++ ninja-build), or load the cluster's module",
        )
    file = settings.get("deepspeed_config_file")
    if file is not None and not Path(str(file)).is_file():
        yield error(
            f"{launch.place}: deepspeed_config_file {file} is not here: it is relative to the current folder",
            "run the command in the clone, or write the whole path",
        )
    starts = settings.get("deepspeed_multinode_launcher", "pdsh")
    if launch.machines > 1 and starts != "standard":
        yield error(
            f"{launch.place}: accelerate would start DeepSpeed on the other machines itself, by {starts}",
            "add deepspeed_multinode_launcher: standard to deepspeed_config, and start each machine yourself",
        )
