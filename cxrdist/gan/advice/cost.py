"""Time and memory of a training, estimated from its networks on the meta device, where nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cxrdist.gan.config import GANConfig
from cxrdist.gan.networks import Networks, construct
from cxrdist.gan.training.losses import d_loss

PROBE_IMAGES = 10

# Measured: demo.yaml's networks trained about 200 images of 64 px per CPU second of one core (AMD EPYC; 190 to 230
# over several runs), at 0.188 GFLOP an image by `cost_of`. Other networks are scaled by their FLOPs, an estimate.
# Wide networks are faster: those of modern.yaml trained 17 images of 256 px a second on two cores in bf16
# (benchmarks/results/gan_step.json), and this constant gives 4.8.
FLOPS_PER_CORE_S = 200 * 0.188e9

# Passes of an image through a network, in units of a forward pass. A backward pass counts 1 for the gradient of the
# maps and 1 for that of the weights.
G_PASSES = 3  # forward and backward; D's update uses the same generated images
D_PASSES = 8  # real and generated images forward and backward; G's update without D's weights
R1_PASSES = 6  # forward, the gradient of the image, and a backward pass through both

ADAM_BYTES = 16
"""Per float32 parameter: the weight, its gradient and Adam's two moments."""
WEIGHT_BYTES = 4
PROCESS_BYTES = 400 * 2**20
"""Python, torch and its libraries. Measured: a training of demo.yaml in one process used 453 MB at most, of which
networks, Adam and activations of 20 images are 44 MB by `cost_of`."""


@dataclass(frozen=True)
class Cost:
    """An estimate. Activations are those kept for the backward pass of D's update, in float32."""

    flops_per_image: float
    """Multiplications and additions of a training step, per image of its batch."""
    parameters_g: int
    parameters_d: int
    activation_bytes_per_image: float

    def cpu_seconds(self, images: int, cores: int) -> float:
        """Seconds of a training on CPU, if all cores work at the measured rate."""
        return images * self.flops_per_image / (FLOPS_PER_CORE_S * cores)

    def memory_bytes(self, config: GANConfig, processes: int) -> float:
        """Memory of the networks, Adam, the moving average and activations of one process."""
        fixed = ADAM_BYTES * (self.parameters_g + self.parameters_d)
        if config.ema_half_life_images:
            fixed += WEIGHT_BYTES * self.parameters_g
        if processes > 1:  # the gradients once more, in DDP's buckets
            fixed += WEIGHT_BYTES * (self.parameters_g + self.parameters_d)
        images = config.batch / processes / config.accumulate
        return fixed + images * self.activation_bytes_per_image


def cost_of(config: GANConfig, *, image_size: int, labels: int) -> Cost:
    """The cost of training a model with this many labels. Raises UserError for a config that is not possible."""
    with torch.device("meta"):
        networks = construct(config, image_size=image_size, classes=labels)
        z = torch.empty(PROBE_IMAGES, config.z_dim)
        real = torch.empty(PROBE_IMAGES, 1, image_size, image_size)
        of_labels = torch.zeros(PROBE_IMAGES, dtype=torch.int64)
        generator, discriminator = networks
        r1_passes = R1_PASSES / config.r1_every if config.regularizer == "r1" else 0
        flops: float = G_PASSES * forward_flops(generator, z, of_labels)
        flops += (D_PASSES + r1_passes) * forward_flops(discriminator, real, of_labels)
        activations = saved_bytes(config, networks, z, real, of_labels)
    parameters_g, parameters_d = (sum(p.numel() for p in network.parameters()) for network in networks)
    return Cost(flops / PROBE_IMAGES, parameters_g, parameters_d, activations / PROBE_IMAGES)


def forward_flops(network: nn.Module, *inputs: Tensor) -> int:
    """Multiplications and additions of a forward pass of convolutions and matrix products."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return int(counter.get_total_flops())


def saved_bytes(config: GANConfig, networks: Networks, z: Tensor, real: Tensor, labels: Tensor) -> int:
    """Bytes of the tensors that autograd keeps for the backward pass of D's update, in a step with R1 if there is
    one."""
    generator, discriminator = networks
    weights = {p.untyped_storage()._cdata for network in networks for p in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:
            kept[storage] = tensor  # alive, so that no other storage gets the same address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fake = generator(z, labels)
        loss = d_loss(discriminator(real, labels), discriminator(fake.detach(), labels))
        if config.regularizer == "r1":
            # As losses.r1_penalty, whose autocast does not know the meta device.
            images = real.clone().requires_grad_()
            logits = discriminator(images, labels)
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
            loss = loss + gradient.square().sum()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
