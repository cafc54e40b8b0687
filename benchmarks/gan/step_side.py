"""One process of ``step.py``: times steps of this project or of a plain PyTorch loop, on the same networks."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch._inductor.config
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.common import CLONE
from benchmarks.gan.reference_gan import Amounts, Inputs, Rates, Trainer
from benchmarks.gan.reference_nets import Discriminator, Generator
from cxrdist import counter_rng
from cxrdist.config.parser import parse
from cxrdist.data.loading.device import DeviceCopies
from cxrdist.data.loading.stream import Batch
from cxrdist.data.transforms import to_float
from cxrdist.distributed.dist import Dist, Precision, set_threads
from cxrdist.gan.config import GANConfig
from cxrdist.gan.diffaugment import AMOUNTS, DiffAugmentConfig
from cxrdist.gan.networks import build
from cxrdist.gan.training.step import ENGINES, PURPOSES, STATS, GANStep
from cxrdist.models import z_of
from cxrdist.nets.strided import Down, Up
from cxrdist.seeds import derive

SEED, CLASS = 0, "Normal"
CLASSES = 5
"""Of a conditional GAN."""
WARM_STEPS = 3
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}

Step = Callable[[int], tuple[Tensor, Tensor]]
"""The number of a step -> D's and G's losses."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One run of one side."""

    side: str
    """``ours`` or ``eager``."""
    preset: str | None
    """Config of a conditional GAN, relative to the clone; None: a DCGAN of ``maps`` and ``kernel``."""
    size: int
    batch: int
    """Global, over all processes."""
    maps: int
    kernel: int
    steps: int
    precision: Precision
    compile: bool
    cuda_graphs: bool = False
    """Of compiled networks."""

    @property
    def net(self) -> str:
        return self.config.architecture

    @property
    def config(self) -> GANConfig:
        words = ["--batch", str(self.batch), "--precision", self.precision, "--seed", str(SEED)]
        if self.preset is None:
            words += ["--maps", str(self.maps), "--kernel", str(self.kernel)]
        else:
            # All images of a batch are compared, as by the peer.
            words += ["--config", str(CLONE / self.preset), "--minibatch-std-images", "null"]
        return parse(GANConfig, words, prog="step_side.py", example="")

    @property
    def r1_every(self) -> int:
        """Steps until the next with R1; 1 if none has it."""
        return self.config.r1_every if self.config.regularizer == "r1" else 1


def batch_of(side: Side, rank: int = 0, world_size: int = 1) -> Batch:
    """Random images at a rank's positions of the first global batch; their classes take turns."""
    share = side.batch // world_size
    first = rank * share
    positions = range(first, first + share)
    drawn = torch.Generator().manual_seed(first)
    pixels = torch.randint(0, 256, (share, 1, side.size, side.size), dtype=torch.uint8, generator=drawn)
    labels = np.arange(first, first + share) % CLASSES if side.preset else np.zeros(share, np.int64)
    return Batch(
        pixels=pixels,
        labels=torch.from_numpy(labels),
        keys=np.zeros(share, "S40"),
        strata=labels,
        samples=np.zeros(share, np.int64),
        positions=positions,
    )


def pinned(batch: Batch) -> Batch:
    """As a training's batches are on machines with a GPU."""
    if not torch.cuda.is_available():
        return batch
    return replace(batch, pixels=batch.pixels.pin_memory(), labels=batch.labels.pin_memory())


def networks(side: Side) -> tuple[nn.Module, nn.Module]:
    return build(side.config, image_size=side.size, classes=CLASSES, seeds=(1, 2))


def ours(side: Side, dist: Dist) -> Step:
    config = side.config
    betas = (config.beta1, config.beta2)
    generator, discriminator = (
        dist.engine(name, net, learning_rate=config.learning_rate, betas=betas, compile=side.compile)
        for name, net in zip(ENGINES, networks(side), strict=True)
    )
    step = GANStep(config, generator, discriminator, dist, CLASS)
    batch = pinned(batch_of(side, dist.rank, dist.world_size))
    copies = DeviceCopies(dist.device)

    def run(number: int) -> tuple[Tensor, Tensor]:
        stats = step(number, copies.finish(*copies.start(batch)))
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


def draws(config: GANConfig, generator: nn.Module, positions: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z [B, z_dim], and the amounts [B, AMOUNTS] of each augmentation, as our step draws them: the sides then have
    the same losses."""
    seed = derive(config.seed, "gan step", CLASS)
    drawn = counter_rng.bits(seed, positions, config.z_dim + len(PURPOSES) * AMOUNTS)
    amounts = counter_rng.to_uniform(drawn[:, config.z_dim :]).split(AMOUNTS, dim=1)
    return z_of(generator, drawn[:, : config.z_dim]), amounts


def eager(side: Side, device: torch.device) -> Step:
    """A plain loop: float32, NCHW. Its images lie on the device as floats, with z and the amounts of augmentations,
    before the clock runs."""
    batch, made = batch_of(side), networks(side)
    real, labels = to_float(batch.pixels.to(device)), batch.labels.to(device)
    positions = counter_rng.positions_on(batch.positions, device)
    z, amounts = draws(side.config, made[0], positions)
    if side.preset is None:
        return eager_dcgan(side.config, made, real, z)
    of_real, of_fake, of_g = (reference_amounts(side.config.diffaugment, some, side.size) for some in amounts)
    return eager_conditional(side.config, made, Inputs(real, labels, z, (of_real, of_fake, of_g)))


def eager_dcgan(config: GANConfig, made: tuple[nn.Module, nn.Module], real: Tensor, z: Tensor) -> Step:
    """The loop of PyTorch's DCGAN tutorial (pytorch.org/tutorials/beginner/dcgan_faces_tutorial), D not frozen in G's
    half."""
    device = real.device
    generator, discriminator = (plain(net).to(device) for net in made)
    betas = (config.beta1, config.beta2)
    adam_g = torch.optim.Adam(generator.parameters(), config.learning_rate, betas)
    adam_d = torch.optim.Adam(discriminator.parameters(), config.learning_rate, betas)
    criterion = nn.BCEWithLogitsLoss()
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


def eager_conditional(config: GANConfig, made: tuple[nn.Module, nn.Module], inputs: Inputs) -> Step:
    """The loop of ``reference_gan.py`` on our weights, in torch's default layout."""
    shape: Any = made[0].cfg
    generator, discriminator = Generator(shape), Discriminator(shape)
    for peer, net in zip((generator, discriminator), made, strict=True):
        peer.load_state_dict(net.state_dict())
        peer.to(inputs.real.device)
    rates = Rates(
        learning_rate=config.learning_rate,
        betas=(config.beta1, config.beta2),
        r1_weight=config.r1_weight,
        r1_every=config.r1_every,
    )
    trainer = Trainer(generator, discriminator, rates)
    return lambda number: trainer.step(number, inputs)


def reference_amounts(config: DiffAugmentConfig, uniform: Tensor, size: int) -> Amounts:
    """Amounts [B, AMOUNTS] in [-1, 1) of our augmentation -> those of the reference loop, 0 for images that are not
    augmented."""
    is_augmented = (uniform[:, 6] + 1) / 2 < config.probability
    contrast, brightness, right, down = (uniform[:, :4] * is_augmented[:, None]).unbind(1)
    most_px = config.translation * size
    return Amounts(
        contrast=config.contrast * contrast,
        brightness=2 * config.brightness * brightness,
        right_px=(most_px * right).round().long(),
        down_px=(most_px * down).round().long(),
    )


def waited(device: torch.device) -> float:
    """The time, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_mib(device: torch.device) -> int:
    """The most memory used so far: of the device, or of this process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


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


class Flops(TorchDispatchMode):
    """Sums the floating-point operations of convolutions and matrix products. Torch's ``FlopCounterMode`` counts the
    same, but its hooks on modules do not support the second derivatives of R1."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def measured(side: Side, made: Callable[[Side], Step], device: torch.device) -> dict[str, object]:
    """Seconds and operations of a step on one rank, and what the device could do."""
    counted = made(replace(side, compile=False))  # the counter does not see into compiled code
    with Flops() as counter:
        for number in range(side.r1_every):
            counted(number)
    torch._inductor.config.triton.cudagraphs = side.cuda_graphs
    step = made(side)
    for number in range(WARM_STEPS):
        step(number)
    began = waited(device)
    for number in range(side.steps):
        step(WARM_STEPS + number)
    seconds = (waited(device) - began) / side.steps
    return {
        "seconds": seconds,
        "flops": counter.total / side.r1_every,
        "peak_mib": peak_mib(device),
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
