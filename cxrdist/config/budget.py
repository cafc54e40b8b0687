"""How long to train: one option, in epochs or in images, always counted in images; and when to look at a training."""

from __future__ import annotations

import re

from cxrdist.errors import OptionError


def check_budget(text: str, *, percent: bool = False) -> tuple[float, str]:
    """``20 epochs`` or ``50000 images`` -> (20.0, "epochs"). Raises OptionError for anything else.

    ``percent``: ``50 %`` is allowed as well, up to 100.
    """
    match = re.fullmatch(r"\s*([\d_,]+(?:\.\d+)?)\s*(epochs?|images?|%)\s*", text)
    amount = float(match[1].replace(",", "").replace("_", "")) if match else 0.0
    is_share = match is not None and match[2] == "%"
    if match is None or amount <= 0 or (is_share and (not percent or amount > 100)):
        share = ", or '50 %' of the whole budget" if percent else ""
        raise OptionError("budget", f"must be written as '20 epochs' or '50000 images'{share}, not {text!r}")
    return amount, "%" if is_share else match[2].rstrip("s") + "s"


def budget_steps(text: str, *, epoch_images: int, batch: int, whole: str | None = None) -> int:
    """Whole global batches in a budget, rounded to nearest; at least one. ``whole``: the budget that ``50 %`` is a
    part of."""
    amount, unit = check_budget(text, percent=whole is not None)
    share = 1.0
    if unit == "%":
        assert whole is not None
        share = amount / 100
        amount, unit = check_budget(whole)
    images = amount * epoch_images if unit == "epochs" else amount
    return max(1, round(share * images / batch))


def evenly_spaced(steps: int, count: int) -> set[int]:
    """``count`` evenly spaced steps of 1 ... ``steps``, always including the last one."""
    return {-(-steps * i // count) for i in range(1, count + 1)}
