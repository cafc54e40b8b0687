"""The adversarial losses (Eq. 2 of the paper), from D's logits, and R1."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


def d_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The loss that D minimises: the negative of Eq. 2, -E log D(x) - E log(1 - D(G(z))).

    Logits [B] and [B'] -> scalar, with the mean over each batch. Uses softplus, since log(sigmoid) overflows.
    """
    return softplus(-real_logits).mean() + softplus(fake_logits).mean()


def g_loss(fake_logits: Tensor, kind: Literal["non-saturating", "minimax"] = "non-saturating") -> Tensor:
    """The loss that G minimises: D's logits [B] on generated images -> scalar, the mean over the batch.

    ``non-saturating``: -E log D(G(z)) (Goodfellow et al. 2014), whose gradient does not vanish if D is much better;
    ``minimax``: E log(1 - D(G(z))), Eq. 2 as it is. Raises ValueError for another kind.
    """
    if kind == "non-saturating":
        return softplus(-fake_logits).mean()
    if kind == "minimax":
        return -softplus(fake_logits).mean()
    raise ValueError(f"g_loss {kind!r}: must be 'non-saturating' or 'minimax'")


def r1_penalty(discriminator: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    """E |dD/dx|^2 at real images [B, 1, H, W] in [-1, 1] with labels [B] -> scalar, differentiable with respect to
    D's weights (R1, Mescheder et al. 2018; the loss adds gamma / 2 of it).

    ``discriminator`` must be the plain module, since DDP, DeepSpeed and torch.compile do not support double backward.
    Computed in fp32 under autocast too: bf16 is not precise enough for a sum of squares over all pixels.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images.detach().float().requires_grad_()
        logits = discriminator(images, labels)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)).mean()
