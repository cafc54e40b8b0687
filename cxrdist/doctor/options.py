"""Options of ``cxrdist doctor``."""

from __future__ import annotations

from dataclasses import dataclass

from cxrdist.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Check this machine, and the launch of a config, for what ends or slows a job; exit code 1 if there is an error.

    Every line is ok, warning or error, with what was found and what to do. Nothing is changed.
    """

    config_file: str | None = None
    """Config of accelerate, such as configs/accelerate/gpu.yaml: its processes are started, and exchange data. With
    several machines, run the same command on each."""
    num_processes: int | None = None
    """Processes on all machines; null: that of the config."""
    num_machines: int | None = None
    """Machines; null: that of the config."""
    machine_rank: int | None = None
    """Number of this machine, from 0; null: that of the config."""
    main_process_ip: str | None = None
    """Address of machine 0; null: that of the config."""
    main_process_port: int | None = None
    """Port of machine 0; null: that of the config."""
    timeout: float = 60
    """Seconds without progress after which the launch counts as failed."""
    run: str = "runs"
    """Folder that runs are written to: its disk, locks and renames are checked, between machines too."""
    shards: str | None = None
    """Set that jobs will read; its digest must be equal on all machines."""
    gan: tuple[str, ...] = ()
    """YAML files of train_gan.py (its --config), for the disk space of its checkpoints."""
    cls: tuple[str, ...] = ()
    """YAML files of train_cls.py (its --config), for the same."""
    salt_file: str | None = None
    """File with the salt; null: your own."""
    json: bool = False
    """As JSON."""

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise OptionError("timeout", f"must be more than 0, not {self.timeout:g}")
        for name in ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port"):
            if getattr(self, name) is not None and self.config_file is None:
                raise OptionError(name, "has no effect without --config-file; add it")
        for name in ("num_processes", "num_machines"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(name, f"must be 1 or more, not {value}")
