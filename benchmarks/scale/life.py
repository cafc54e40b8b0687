"""The life of a job on paper: the seconds that it takes on each resource, and which one is the first to limit it.

A job reads, computes, sends and stores at the same time at best, so the slowest of these sets its pace. What depends
on a machine is given: images a second of a GPU, network, storage. Nothing here is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GPUS_A_MACHINE = 8
"""Within a machine the network between machines is not used."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job by what was measured of it. ``batch`` None: its images do not depend on each other, so any number of
    processes may share them.

    ``per_model``: processes divide each batch of a model, and models follow each other.
    """

    name: str
    images: int
    """That are computed, over all models."""
    batch: int | None = None
    gradient_bytes: int = 0
    """That are all-reduced in a step."""
    calls: float = 0.0
    """Other collectives in a step."""
    read_bytes: float = 0.0
    """Of an image."""
    write_bytes: float = 0.0
    """Of an image: synthetic ones."""
    gathered_bytes: float = 0.0
    """Sent for an image, of jobs without steps: features, scores."""
    checkpoint_bytes: int = 0
    """Of one, with samples and metrics of its look."""
    checkpoints: int = 0

    @property
    def steps(self) -> int:
        return 0 if self.batch is None else -(-self.images // self.batch)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What is assumed. ``images_per_s``: of one GPU."""

    images_per_s: float
    network_gbit_s: float
    latency_s: float = 50e-6
    """Of one small collective between machines."""
    storage_gb_s: float = 1.0
    """Of all processes together, reading; and of one process, writing."""
    requests_per_s: float = 5500.0
    """Of an object store; S3 serves so many GETs a second for a prefix."""
    request_bytes: float = 4 * 2**20
    """Of a block of a set at a URL."""


@dataclass(frozen=True, kw_only=True)
class Life:
    """Seconds on each resource, and figures of the pace that the slowest of them allows."""

    gpus: int
    processes: int
    """That the job can use of the GPUs."""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def bottleneck(self) -> str:
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def total_s(self) -> float:
        return max(self.seconds.values())


def useful(batch: int | None, gpus: int) -> int:
    """The largest number of processes up to ``gpus`` that divides the batch."""
    if batch is None:
        return gpus
    return max(n for n in range(1, min(batch, gpus) + 1) if batch % n == 0)


def life(job: Job, machines: Machines, gpus: int) -> Life:
    """Of a job on so many GPUs, eight a machine."""
    processes = useful(job.batch, gpus)
    network = machines.network_gbit_s * 1e9 / 8
    apart = processes > GPUS_A_MACHINE
    # A ring over all GPUs crosses each machine's network once.
    ring = 2 * (processes - 1) / processes * job.gradient_bytes
    gathered = job.images * job.gathered_bytes * (processes - 1) / processes
    read = job.images * job.read_bytes
    stored = job.checkpoints * job.checkpoint_bytes + job.images * job.write_bytes
    return Life(
        gpus=gpus,
        processes=processes,
        seconds={
            "compute": job.images / machines.images_per_s / processes,
            "network": apart
            * (job.steps * (ring / network + job.calls * machines.latency_s) + gathered / network),
            "reading": read / (machines.storage_gb_s * 1e9),
            "requests": read / machines.request_bytes / machines.requests_per_s,
            "storing": stored / (machines.storage_gb_s * 1e9),
        },
    )


def rates(job: Job, found: Life) -> dict[str, float]:
    """At the pace of the bottleneck: MB that a GPU sends in a step, GB stored in an hour, MB read in a second,
    seconds of the job."""
    seconds = found.total_s
    sent = 2 * (found.processes - 1) / found.processes * job.gradient_bytes
    stored = job.checkpoints * job.checkpoint_bytes + job.images * job.write_bytes
    return {
        "sent_MB_per_step": sent / 1e6,
        "stored_GB_per_h": stored / 1e9 / seconds * 3600,
        "read_MB_per_s": job.images * job.read_bytes / 1e6 / seconds,
        "job_s": seconds,
    }


def first_bottleneck(job: Job, machines: Machines, most: int = 4096) -> tuple[int, str] | None:
    """The smallest number of GPUs at which something takes longer than computing, and what; None if nothing does with
    all GPUs that the job can use, up to ``most``."""
    counts = (
        [n for n in range(1, job.batch + 1) if job.batch % n == 0]
        if job.batch is not None
        else [2**n for n in range(most.bit_length())]
    )
    for gpus in counts:
        found = life(job, machines, gpus)
        if found.bottleneck != "compute":
            return gpus, found.bottleneck
    return None
