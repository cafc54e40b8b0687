"""The adversarial losses of the paper's Eq. 2, from D's logits."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
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
