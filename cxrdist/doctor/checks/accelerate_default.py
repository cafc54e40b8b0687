"""The config that ``accelerate launch`` takes where --config_file is not given, perhaps written years ago."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cxrdist.distributed.launch_config import default_file, read
from cxrdist.doctor.findings import Finding, ok, warning
from cxrdist.doctor.launch.config import Launch, problems
from cxrdist.doctor.options import DoctorOptions
from cxrdist.process import available_cores

HARMLESS: dict[str, tuple[Any, ...]] = {
    "compute_environment": ("LOCAL_MACHINE",),
    "debug": (False,),
    "distributed_type": ("NO",),
    "downcast_bf16": (False, "no"),
    "enable_cpu_affinity": (False,),
    "gpu_ids": ("all",),
    "machine_rank": (0,),
    "main_training_function": ("main",),
    "mixed_precision": ("no", None),
    "num_machines": (1,),
    "num_processes": (1,),
    "rdzv_backend": ("static",),
    "same_network": (True, False),
    "use_cpu": (False,),
}
"""Values that change nothing of a launch."""


def look(options: DoctorOptions) -> Iterator[Finding]:
    import torch

    file = default_file()
    if file is None:
        yield ok("no default config: `accelerate launch` starts what its options say")
        return
    values = read(str(file))
    for found in problems(Launch(str(file), values), gpus=torch.cuda.device_count(), cores=available_cores()):
        # The launch of a config is not ended by it.
        yield found if options.config_file is None else replace(found, level="warning")
    changes = [f"{key} {value}" for key, value in values.items() if _changes(key, value)]
    if changes:
        yield warning(
            f"{file} changes every `accelerate launch` without --config_file: {', '.join(changes)}",
            "give --config_file to every launch, or remove that file if you do not need it",
        )
    else:
        yield ok(f"{file} changes nothing")


def _changes(key: str, value: Any) -> bool:
    if key in HARMLESS:
        return value not in HARMLESS[key]
    return value not in (None, {}, [], False, "")
