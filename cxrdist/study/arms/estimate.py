"""How long the jobs of a study will take, and how much disk, before any of them has run.

From finished runs of the same kind in the study if there are some; else classifiers are timed for a few steps on this
machine, and GANs are scaled from a measured rate by their images' pixels.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
import yaml
from torch.nn.functional import cross_entropy

from cxrdist.config.budget import check_budget
from cxrdist.config.presets import preset_of
from cxrdist.config.yaml_files import find
from cxrdist.data.shards.manifest import Manifest, read_manifest
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.storage.store import store_of
from cxrdist.errors import UserError
from cxrdist.files import read_json
from cxrdist.nets.classifiers import build_network, network_config
from cxrdist.process import available_cores
from cxrdist.study.arms.jobs import Job, Plan, script

START_S = {"import": 25.0, "evaluation": 26.0, "synthesis": 10.0, "prediction": 15.0}
"""Seconds of the jobs that do not depend on a budget: those of the demo (2,290 images of 64 px, one core each)."""
JOB_START_S = 10.0
"""Of launcher, imports and evaluation of a training: a classifier of the demo took 64 s, 54 of them in its loop."""
GAN_64PX_IMG_PER_CORE_S = 200.0
"""configs/gan/demo.yaml on an AMD EPYC; see docs/gans.md."""
TIMED_STEPS = 3
DEFAULT_SIZE, DEFAULT_IMAGES = 64, 1_000
PNG_BYTES_PER_PIXEL = 0.5
"""NIH radiographs: 30 to 35 KiB of 256 x 256 pixels."""
CHECKPOINTS = 3
ADAM_AND_WEIGHTS = 4
"""float32 tensors of a checkpoint per parameter: two networks, two moments."""
GAN_BYTES = 40 * 2**20


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of a whole study."""

    seconds_by_kind: Mapping[str, float]
    """Of one job of each kind."""
    seconds: float
    """Of all jobs, ``parallel`` at a time."""
    disk_bytes: float
    basis: str
    """What it rests on."""


class Estimator:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.config = plan, plan.config

    def estimate(self) -> Estimate:
        by_kind = {job.kind: self.seconds_of(job.kind) for job in self.plan.jobs}
        known = sorted(kind for kind in by_kind if self.finished_s.get(kind))
        rest = sorted(set(by_kind) - set(known))
        basis = [f"finished runs of this study for {', '.join(known)}"] if known else []
        if rest:
            size = f"{self.size} px" + ("" if self.manifest else f" and {self.images:,} images (no set yet)")
            basis.append(f"a timing of this machine and measured rates at {size} for {', '.join(rest)}")
        return Estimate(
            seconds_by_kind=by_kind,
            seconds=makespan(self.plan.jobs, by_kind, self.config.parallel),
            disk_bytes=self.disk_bytes(),
            basis=" and ".join(basis),
        )

    @cached_property
    def manifest(self) -> Manifest | None:
        """Of the first fold's set, if it exists."""
        place = self.config.set_of(0)
        return read_manifest(place) if store_of(place).exists(MANIFEST) else None

    @cached_property
    def size(self) -> int:
        if self.manifest is not None:
            return self.manifest.image_size
        words = shlex.split(self.config.source or "")
        sizes = [value for option, value in pairwise(words) if option == "--size"]
        return int(sizes[0]) if sizes and sizes[0].isdigit() else DEFAULT_SIZE

    @cached_property
    def images(self) -> int:
        """Real images of a set."""
        if self.manifest is None:
            return DEFAULT_IMAGES
        return sum(
            sum(origins.values()) for classes in self.manifest.counts.values() for origins in classes.values()
        )

    @cached_property
    def finished_s(self) -> dict[str, list[float]]:
        """Seconds of the finished jobs of each kind."""
        found: dict[str, list[float]] = {}
        for job in self.plan.jobs:
            summary = job.run / "summary.json" if job.run is not None else None
            if summary is not None and summary.is_file() and job.kind not in ("evaluation", "prediction"):
                found.setdefault(job.kind, []).append(float(read_json(summary).get("seconds", 0.0)))
        return found

    def seconds_of(self, kind: str) -> float:
        if self.finished_s.get(kind):
            return fmean(self.finished_s[kind]) + JOB_START_S
        if kind in ("classifier", "search"):
            options = self.cls_options
            images = images_of(options["budget"], self.images)
            return JOB_START_S + images * self.seconds_per_image / self.speed_up
        if kind == "gan":
            images = images_of(self.gan_options["budget"], self.images)
            scale = (self.size / 64) ** 2
            return JOB_START_S + images * scale / (
                GAN_64PX_IMG_PER_CORE_S * available_cores() / self.config.parallel
            )
        return START_S[kind]

    @property
    def speed_up(self) -> float:
        """Of a job's share of the machine over the one device, or all cores, of the timing."""
        if torch.cuda.is_available():
            return max(1, torch.cuda.device_count() // self.config.parallel)
        return 1 / self.config.parallel

    @cached_property
    def cls_options(self) -> dict[str, Any]:
        base = self.config.cls_config or preset_of("cls", self.size)
        budget = ["--budget", self.config.budget] if self.config.budget else []
        return printed_config(
            "train_cls.py", ["--config", str(find(base)), *budget, *self.config.cls_options]
        )

    @cached_property
    def gan_options(self) -> dict[str, Any]:
        return printed_config("train_gan.py", ["--config", self.config.gan_config, *self.config.gan_options])

    @cached_property
    def network(self) -> torch.nn.Module:
        options = self.cls_options
        classes = len(self.manifest.classes) if self.manifest is not None else 5
        return build_network(network_config(options, image_size=self.size, classes=classes))

    @cached_property
    def seconds_per_image(self) -> float:
        """Of a training step of the classifier on one device, timed now."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        batch = self.cls_options["batch"]
        network = self.network.to(device)
        images = torch.zeros(batch, 1, self.size, self.size, device=device)
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        optimizer = torch.optim.Adam(network.parameters())
        for step in range(1 + TIMED_STEPS):
            if step == 1:  # the first one allocates
                began_s = time.perf_counter()
            optimizer.zero_grad()
            loss = cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()
        return (time.perf_counter() - began_s) / TIMED_STEPS / batch

    def disk_bytes(self) -> float:
        image = PNG_BYTES_PER_PIXEL * self.size**2
        weights = 4 * sum(weight.numel() for weight in self.network.parameters())
        of_kind = {
            "import": self.images * image,
            # DS3 fills every class to twice the largest, at most 2 C times all images.
            "synthesis": 2 * self.images * image,
            "gan": GAN_BYTES,
            "classifier": CHECKPOINTS * ADAM_AND_WEIGHTS * weights,
            "search": CHECKPOINTS * ADAM_AND_WEIGHTS * weights,
            "evaluation": 2**20,
            "prediction": 2**20,
        }
        return sum(of_kind[job.kind] for job in self.plan.jobs)


def images_of(budget: str, epoch_images: int) -> float:
    amount, unit = check_budget(budget)
    return amount * epoch_images if unit == "epochs" else amount


def printed_config(name: str, words: list[str]) -> dict[str, Any]:
    """The resolved options of a job. Raises UserError with the job's own error."""
    done = subprocess.run(
        [sys.executable, script(name), *words, "--print-config"], capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("error: "))
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def makespan(jobs: tuple[Job, ...], seconds: Mapping[str, float], parallel: int) -> float:
    """Seconds until all jobs have ended, if each starts as soon as its needs and a slot allow."""
    ended: dict[str, float] = {}
    free = [0.0] * parallel
    for job in jobs:
        slot = min(range(parallel), key=lambda n: free[n])
        began = max([free[slot], *(ended[name] for name in job.needs)])
        ended[job.name] = free[slot] = began + seconds[job.kind]
    return max(free)
