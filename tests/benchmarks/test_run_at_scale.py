"""The arithmetic of the paper at scale, of numbers that can be computed by hand, and what is counted of a job."""

from __future__ import annotations

import pytest
import torch

from benchmarks.scale.life import Job, Machines, first_bottleneck, life, rates, useful
from benchmarks.scale.recorded import bytes_of
from benchmarks.scale.run_at_scale import jobs, sync_batchnorm_calls
from benchmarks.scale.traffic import Traffic, of_job, of_step

# 1,000 steps of 16 images; 1 GB of gradients; 1 MB an image; ten checkpoints of 2 GB.
TINY = Job(
    name="tiny",
    images=16_000,
    batch=16,
    gradient_bytes=10**9,
    calls=10,
    read_bytes=10**6,
    checkpoint_bytes=2 * 10**9,
    checkpoints=10,
)
# 8 Gbit/s are 1 GB/s.
SLOW = Machines(
    images_per_s=100,
    network_gbit_s=8,
    latency_s=0.001,
    storage_gb_s=2,
    requests_per_s=100,
    request_bytes=10**6,
)


def test_processes_divide_the_batch() -> None:
    assert [useful(64, gpus) for gpus in (1, 8, 12, 64, 512)] == [1, 8, 8, 64, 64]
    assert useful(None, 512) == 512


def test_seconds_on_each_resource() -> None:
    on_eight = life(TINY, SLOW, 8)
    assert on_eight.seconds == {
        "compute": 20.0,
        "network": 0.0,
        "reading": 8.0,
        "requests": 160.0,
        "storing": 10.0,
    }
    assert (on_eight.processes, on_eight.bottleneck, on_eight.total_s) == (8, "requests", 160.0)
    # 16 processes on two machines: each step sends 2 * 15/16 GB in 1.875 s and makes ten calls of 1 ms.
    on_sixteen = life(TINY, SLOW, 512)
    assert (on_sixteen.gpus, on_sixteen.processes) == (512, 16)
    assert on_sixteen.seconds["compute"] == 10.0
    assert on_sixteen.seconds["network"] == pytest.approx(1000 * (1.875 + 0.01))
    assert on_sixteen.bottleneck == "network"


def test_rates_at_the_pace_of_the_bottleneck() -> None:
    assert rates(TINY, life(TINY, SLOW, 8)) == {
        "sent_MB_per_step": 1750.0,
        "stored_GB_per_h": 20 / 160 * 3600,
        "read_MB_per_s": 100.0,
        "job_s": 160.0,
    }


def test_a_job_without_steps_writes_and_gathers() -> None:
    job = Job(name="synthesis", images=1000, write_bytes=10**6, gathered_bytes=16)
    found = life(job, SLOW, 16)
    assert found.processes == 16
    assert found.seconds["storing"] == 0.5
    assert found.seconds["network"] == pytest.approx(1000 * 16 * 15 / 16 / 1e9)


def test_the_first_bottleneck() -> None:
    # On one GPU computing takes the 160 s of the requests.
    assert first_bottleneck(TINY, SLOW) == (2, "requests")
    slow_gpus = Machines(images_per_s=1e-3, network_gbit_s=8)
    assert first_bottleneck(TINY, slow_gpus) is None
    # Storing 20 GB takes 10 s; computing as long on 16 GPUs, and less on no number that divides 16.
    quick = Machines(images_per_s=101, network_gbit_s=1e9, latency_s=0, storage_gb_s=2, requests_per_s=1e9)
    assert first_bottleneck(TINY, quick) == (16, "storing")


def test_what_a_step_sends_is_the_same_in_every_step() -> None:
    one_step = [("main", "all_reduce", 8), ("main", "gradients", 100), ("main", "gradients", 50)]
    events = [(0, "main", "broadcast", 1000), (0, "loader", "all_reduce", 16)]
    for step in range(1, 6):
        events += [(step, thread, kind, size) for thread, kind, size in one_step]
        events += [(step, "loader", "all_reduce", 16)] * (step < 5)
    events.append((5, "main", "all_gather", 400))  # a look, after the last step
    expected = {"all_reduce": 1, "all_reduce (loader)": 1.0, "gradients": 2}
    assert of_step(events) == Traffic(150, 2.0, 24.0, expected)
    assert of_job(events) == (len(events), sum(event[3] for event in events))
    with pytest.raises(ValueError, match="steps differ"):
        of_step([*events, (3, "main", "barrier", 0)])


def test_bytes_of_what_a_rank_sends() -> None:
    assert bytes_of(torch.zeros(3, 5, dtype=torch.float64)) == 120
    assert bytes_of([None]) < 20


def test_the_paper() -> None:
    of = {"gradient_bytes": 4, "small_calls": 2.0, "kinds": {"gradients": 3}, "checkpoint_bytes": 10}
    facts = {
        "train_gan": {**of, "samples_bytes_per_look": 5},
        "train_cls": of,
        "synthesize": {"tar_bytes_per_image": 7, "run_bytes_per_image": 1},
        "evaluate_gan": {"features_bytes_per_image": 9},
        "phantom": {"image_bytes": 81_420},
    }
    paper = jobs(facts, "phantom")
    assert {name: (job.images, job.steps, job.checkpoints) for name, job in paper.items()} == {
        "train_gan": (200_000, 3_125, 100),
        "synthesize": (104_560, 0, 0),
        "train_cls": (15_098_000, 117_954, 100),
        "evaluate_gan": (81_420, 0, 0),
    }
    assert (paper["train_gan"].checkpoint_bytes, paper["synthesize"].write_bytes) == (15, 8)
    assert paper["evaluate_gan"].read_bytes == pytest.approx(51_420)
    assert paper["train_gan"].calls == 5 + sync_batchnorm_calls()
