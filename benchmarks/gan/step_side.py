"""One process of ``step.py``: times steps of this project or of a plain PyTorch loop, on the same networks."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cxrdist.data.loading.stream import Batch
from cxrdist.data.transforms import to_float
from cxrdist.distributed.dist import Dist, Precision, set_threads
from cxrdist.gan.config import GANConfig
from cxrdist.gan.training.step import ENGINES, STATS, GANStep
from cxrdist.nets.dcgan import DCGANConfig, Discriminator, Generator, init_weights
from cxrdist.nets.strided import Down, Up
from cxrdist.seeds import uniform

SEED, CLASS = 0, "Normal"
WARM_STEPS = 3
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}

Step = Callable[[int], tuple[Tensor, Tensor]]
"""The number of a step -> D's and G's losses."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One run of one side."""

    side: str
    """``ours`` or ``eager``."""
    size: int
    batch: int
    """Global, over all processes."""
    maps: int
    kernel: int
    steps: int
    precision: Precision
    compile: bool

    @property
    def config(self) -> GANConfig:
        return GANConfig(
            batch=self.batch, maps=self.maps, kernel=self.kernel, precision=self.precision, seed=SEED
        )

    @property
    def network(self) -> DCGANConfig:
        return DCGANConfig(size=self.size, z_dim=self.config.z_dim, maps=self.maps, kernel=self.kernel)


def batch_of(side: Side, rank: int = 0, world_size: int = 1) -> Batch:
    """Random images at a rank's positions of the first global batch."""
    share = side.batch // world_size
    first = rank * share
    positions = range(first, first + share)
    drawn = torch.Generator().manual_seed(first)
    pixels = torch.randint(0, 256, (share, 1, side.size, side.size), dtype=torch.uint8, generator=drawn)
    zeros = np.zeros(share, np.int64)
    return Batch(
        pixels=pixels,
        labels=torch.from_numpy(zeros),
        keys=np.zeros(share, "S40"),
        strata=zeros,
        samples=zeros,
        positions=positions,
    )


def networks(side: Side) -> tuple[Generator, Discriminator]:
    generator, discriminator = Generator(side.network), Discriminator(side.network)
    init_weights(generator, 1)
    init_weights(discriminator, 2)
    return generator, discriminator


def ours(side: Side, dist: Dist) -> Step:
    config = side.config
    betas = (config.beta1, config.beta2)
    generator, discriminator = (
        dist.engine(name, net, learning_rate=config.learning_rate, betas=betas, compile=side.compile)
        for name, net in zip(ENGINES, networks(side), strict=True)
    )
    step = GANStep(config, generator, discriminator, dist, CLASS)
    batch = batch_of(side, dist.rank, dist.world_size)

    def run(number: int) -> tuple[Tensor, Tensor]:
        stats = step(number, batch)
        return stats[STATS.index("loss_d")], stats[STATS.index("loss_g")]

    return run


def plain(network: nn.Module) -> nn.Module:
    """The same network of torch's own layers."""
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, Down | Up):
                setattr(parent, name, torchs_own(layer))
    return network


def torchs_own(layer: Down | Up) -> nn.Module:
    inside, outside, kernel = layer.in_channels, layer.out_channels, layer.kernel_size[0]
    padding, bias = (kernel - 1) // 2, layer.bias is not None
    made: nn.Module
    if isinstance(layer, Down):
        made = nn.Conv2d(inside, outside, kernel, stride=2, padding=padding, bias=bias)
    else:
        made = nn.ConvTranspose2d(
            inside, outside, kernel, stride=2, padding=padding, output_padding=kernel % 2, bias=bias
        )
    made.load_state_dict(layer.state_dict())
    return made


def eager(side: Side, device: torch.device) -> Step:
    """The loop of PyTorch's DCGAN tutorial (pytorch.org/tutorials/beginner/dcgan_faces_tutorial): float32, NCHW, D
    not frozen in G's half. Its images lie on the device as floats before the clock runs."""
    config = side.config
    generator, discriminator = (plain(net).to(device) for net in networks(side))
    betas = (config.beta1, config.beta2)
    adam_g = torch.optim.Adam(generator.parameters(), config.learning_rate, betas)
    adam_d = torch.optim.Adam(discriminator.parameters(), config.learning_rate, betas)
    criterion = nn.BCEWithLogitsLoss()
    batch = batch_of(side)
    real = to_float(batch.pixels.to(device))
    z = torch.from_numpy(uniform(SEED, f"z {CLASS}", batch.positions, config.z_dim)).to(device)
    ones, zeros = torch.ones(len(real), device=device), torch.zeros(len(real), device=device)

    def run(number: int) -> tuple[Tensor, Tensor]:
        discriminator.zero_grad()
        loss_real = criterion(discriminator(real), ones)
        loss_real.backward()
        fake = generator(z)
        loss_fake = criterion(discriminator(fake.detach()), zeros)
        loss_fake.backward()
        adam_d.step()
        generator.zero_grad()
        loss_g = criterion(discriminator(fake), ones)
        loss_g.backward()
        adam_g.step()
        return (loss_real + loss_fake).detach(), loss_g.detach()

    return run


def waited(device: torch.device) -> float:
    """The time, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product."""
    side = MATMUL_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    times = []
    for _ in range(12):
        began = waited(device)
        a @ b
        times.append(waited(device) - began)
    return 2 * side**3 / statistics.median(times[2:])


def measured(side: Side, made: Callable[[Side], Step], device: torch.device) -> dict[str, object]:
    """Seconds and operations of a step on one rank, and what the device could do."""
    with FlopCounterMode(display=False) as counter:
        # Uncompiled: the counter does not see into compiled code.
        made(replace(side, compile=False))(0)
    step = made(side)
    for number in range(WARM_STEPS):
        step(number)
    began = waited(device)
    for number in range(side.steps):
        step(WARM_STEPS + number)
    seconds = (waited(device) - began) / side.steps
    return {
        "seconds": seconds,
        "flops": counter.get_total_flops(),
        "bf16_matmul_flops_s": matmul_rate(device, torch.bfloat16),
    }


def measured_ours(side: Side) -> dict[str, object] | None:
    """On rank 0."""
    dist = Dist(side.precision, engines=ENGINES)
    reported = measured(side, lambda side: ours(side, dist), dist.device)
    reported |= {"device": dist.device_name, "precision": dist.precision, "threads": dist.threads}
    reported["processes"] = dist.world_size
    dist.close()
    return reported if dist.is_main else None


def measured_eager(side: Side) -> dict[str, object]:
    """With nothing of what this project sets up for a job, but as many threads: one per core."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = set_threads(on_cpu=device.type == "cpu")
    reported = measured(side, lambda side: eager(side, device), device)
    return reported | {"device": device.type, "precision": "fp32", "threads": threads, "processes": 1}


if __name__ == "__main__":
    asked = Side(**json.loads(sys.argv[1]))
    found = measured_ours(asked) if asked.side == "ours" else measured_eager(asked)
    if found is not None:
        print(json.dumps(found), flush=True)
