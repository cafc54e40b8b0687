"""``cxrdist mix ...``: what an epoch of a mix takes, and in which order a training sees it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from cxrdist.config.parser import parse
from cxrdist.data.shards.open import DEFAULT_SET
from cxrdist.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class MixShow:
    """Show what one epoch of a mix takes of each class, how often it takes each image, and what is missing."""

    mix: str = "DS3"
    """DS1, DS2, DS3 or the path of a YAML rule."""
    shards: str = DEFAULT_SET
    """Set of real images."""
    synthetic: str | None = None
    """Set of synthetic images; without one, the images that synthesis has to make are listed. Unused by DS1, DS2."""
    warn_repeats: float = 3
    """Warn if an epoch takes each image of a class more often than this."""
    json: bool = False
    """As JSON: mix, shards, synthetic, epoch_images, classes, remarks."""
    allow_other_lineage: bool = False
    """Accept synthetic images whose generator did not learn from this set's train split (a possible leak)."""

    def __post_init__(self) -> None:
        if self.warn_repeats <= 0:
            raise OptionError("warn_repeats", f"must be more than 0, not {self.warn_repeats}")


def show(argv: Sequence[str]) -> None:
    example = "cxrdist mix show DS3 --shards shards/phantom"
    options = parse(MixShow, argv, prog="cxrdist mix show", example=example, positional=("mix",))
    from cxrdist.data.mix.named import named_rule
    from cxrdist.data.tools.mix_table import as_json, epoch_of, print_epoch

    rule = named_rule(options.mix)
    epoch = epoch_of(rule, options.shards, options.synthetic, allow_other_lineage=options.allow_other_lineage)
    if options.json:
        print(json.dumps(as_json(epoch, options.mix, warn_above=options.warn_repeats), indent=1))
    else:
        print_epoch(epoch, options.mix, warn_above=options.warn_repeats)


def order(argv: Sequence[str]) -> None:
    from cxrdist.data.mix.named import named_rule
    from cxrdist.data.tools.mix_order import OrderOptions, order_lines

    example = "cxrdist mix order DS3 --shards shards/phantom --batch 64 --ranks 4 --digest"
    options = parse(OrderOptions, argv, prog="cxrdist mix order", example=example, positional=("mix",))
    rule = named_rule(options.mix)
    with contextlib.closing(order_lines(options, rule)) as steps:
        for lines in steps:
            print(lines, flush=True)


COMMANDS = {"show": show, "order": order}
