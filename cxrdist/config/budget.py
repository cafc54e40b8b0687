"""How long to train: one option, in epochs or in images, always counted in images; and when to look at a training."""

from __future__ import annotations

import re

from cxrdist.errors import OptionError


def check_budget(text: str) -> tuple[float, str]:
    """``20 epochs`` or ``50000 images`` -> (20.0, "epochs"). Raises OptionError for anything else."""
    match = re.fullmatch(r"\s*([\d_,]+(?:\.\d+)?)\s*(epochs?|images?)\s*", text)
    amount = float(match[1].replace(",", "").replace("_", "")) if match else 0.0
    if match is None or amount <= 0:
        raise OptionError("budget", f"must be written as '20 epochs' or '50000 images', not {text!r}")
    return amount, match[2].rstrip("s") + "s"


def budget_steps(text: str, *, epoch_images: int, batch: int) -> int:
    """Whole global batches in a budget, rounded to nearest; at least one."""
    amount, unit = check_budget(text)
    images = amount * epoch_images if unit == "epochs" else amount
    return max(1, round(images / batch))


def evenly_spaced(steps: int, count: int) -> set[int]:
    """``count`` evenly spaced steps of 1 ... ``steps``, always including the last one."""
    return {-(-steps * i // count) for i in range(1, count + 1)}
