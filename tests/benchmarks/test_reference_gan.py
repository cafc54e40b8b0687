from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks.gan import reference_gan, reference_nets
from cxrdist.gan import diffaugment
from cxrdist.nets import conditional

CLASSES = 5


def inputs(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    z, labels = torch.randn(8, 64), torch.arange(8) % 3
    return z, labels, torch.rand(8, 1, size, size) * 2 - 1


def test_the_networks_compute_what_the_projects_do() -> None:
    cfg = reference_nets.config_of(64, CLASSES)
    z, labels, images = inputs(64)
    for layout in (torch.contiguous_format, torch.channels_last):
        for ours, peer, x in (
            (conditional.ConditionalGenerator(cfg), reference_nets.Generator(cfg, layout), z),
            (conditional.ProjectionDiscriminator(cfg), reference_nets.Discriminator(cfg, layout), images),
        ):
            conditional.init_weights(ours, 3)
            peer.load_state_dict(ours.state_dict())
            torch.testing.assert_close(peer(x, labels), ours(x, labels), rtol=1e-4, atol=1e-5)


def test_the_augmentation_is_the_projects() -> None:
    images = inputs(64)[2]
    config = diffaugment.DiffAugmentConfig(
        translation=reference_gan.TRANSLATION,
        brightness=reference_gan.BRIGHTNESS,
        contrast=reference_gan.CONTRAST,
    )
    uniform = 2 * torch.rand(8, diffaugment.AMOUNTS) - 1
    contrast, brightness, right, down = uniform[:, :4].unbind(1)
    amounts = reference_gan.Amounts(
        reference_gan.CONTRAST * contrast,
        2 * reference_gan.BRIGHTNESS * brightness,
        (reference_gan.TRANSLATION * 64 * right).round().long(),
        (reference_gan.TRANSLATION * 64 * down).round().long(),
    )
    ours = diffaugment.diffaugment(images, config, uniform)
    torch.testing.assert_close(reference_gan.augmented(images, amounts), ours)


def test_a_short_training_draws_images_of_each_class() -> None:
    images = [torch.rand(n, 1, 32, 32) * 2 - 1 for n in (3, 30, 7)]
    generator, seen = reference_gan.train(images, time.process_time() + 0.1, seed=0)
    assert seen > 0
    assert seen % reference_gan.BATCH == 0
    drawn = reference_gan.generated(generator, 2, 130)
    assert drawn.shape == (130, 32, 32)
    assert drawn.std() > 0


def test_the_classes_take_turns_and_each_image_has_its_turn() -> None:
    images = [torch.full((n, 1, 4, 4), float(label)) for label, n in enumerate((2, 5))]
    images[1] += torch.arange(5)[:, None, None, None] * 10
    stream = reference_gan.batches(images, np.random.default_rng(0))
    pixels, labels = next(stream)
    assert labels.tolist() == [0, 1] * 10
    assert (pixels[:, 0, 0, 0] % 10 == labels).all()
    assert sorted(pixels[1::2, 0, 0, 0].tolist()) == sorted([1.0, 11.0, 21.0, 31.0, 41.0] * 2)
