"""All checks, in the order of the report."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from cxrdist.doctor.findings import Section, error, section
from cxrdist.doctor.options import DoctorOptions

CHECKS = {
    "versions": "versions",
    "GPUs": "gpus",
    "limits of this machine": "limits",
    "variables": "variables",
    "default config of accelerate": "accelerate_default",
    "folder of runs": "file_system",
    "disk space": "disk",
    "clock": "clock",
    "set": "shards",
    "salt": "salt",
    "W&B": "tracking",
    "launch": "launch",
}
"""Title -> module of checks/, whose ``look`` yields the findings."""


def checkup(options: DoctorOptions) -> Iterator[Section]:
    """The sections of a report, each when it is found: the last one may take a minute."""
    for title, module in CHECKS.items():
        try:
            # Imported late, each by itself: a torch that can't be imported must not end the other checks.
            look = import_module(f"cxrdist.doctor.checks.{module}").look
        except ImportError as failure:
            yield Section(title, (error(f"not checked: {failure}", "see the section versions"),))
            continue
        yield section(title, look, options)
