"""The adversarial losses of the paper's Eq. 2, from D's logits, and R1."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


def d_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """What D minimises: the negative of Eq. 2, -E log D(x) - E log(1 - D(G(z))).

    Logits [B] and [B'] -> scalar, the mean over each batch. softplus, since log(sigmoid) overflows.
    """
    return softplus(-real_logits).mean() + softplus(fake_logits).mean()


def g_loss(fake_logits: Tensor, kind: Literal["non-saturating", "minimax"] = "non-saturating") -> Tensor:
    """What G minimises, from D's logits [B] on generated images -> scalar, the mean over the batch.

    ``non-saturating``: -E log D(G(z)) (Goodfellow et al. 2014), whose gradient lasts while D is winning;
    ``minimax``: E log(1 - D(G(z))), Eq. 2 to the letter. Raises ValueError for another kind.
    """
    if kind == "non-saturating":
        return softplus(-fake_logits).mean()
    if kind == "minimax":
        return -softplus(fake_logits).mean()
    raise ValueError(f"G's loss is {kind!r}, but it must be 'non-saturating' or 'minimax'")


def r1_penalty(discriminator: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    """E |dD/dx|^2 at real images [B, 1, H, W] in [-1, 1] with labels [B] -> scalar, which can be differentiated
    by D's weights (R1, Mescheder et al. 2018; the loss takes gamma / 2 of it).

    ``discriminator`` is the plain module: neither DDP, DeepSpeed nor torch.compile differentiates twice. In fp32
    under autocast too: a sum of squares over all pixels, and a second derivative, are lost in bf16.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images.detach().float().requires_grad_()
        logits = discriminator(images, labels)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)).mean()
