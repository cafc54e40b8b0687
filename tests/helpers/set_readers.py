"""Every way to read a shard set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.mix.rules import TargetRule
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.tools.info import print_info
from cxrdist.data.tools.mix_table import epoch_of, print_epoch
from tests.helpers.forging import STRATUM


def read_pixels(place: Path) -> None:
    reader = ShardSet(place).stratum(*vars(STRATUM).values())
    for number in range(min(reader.samples, 5)):
        reader.pixels(number)


def read_whole(place: Path) -> None:
    reader = ShardSet(place).stratum(*vars(STRATUM).values())
    assert list(reader.whole(0))


def stream(place: Path) -> None:
    shards = ShardSet(place)
    quota = {"Normal": {"real": shards.samples("train", "Normal", "real")}}
    Stream(shards, None, quota, StreamOptions(batch=2, seed=0)).read(0)


def mix(place: Path) -> None:
    print_epoch(
        epoch_of(TargetRule(name="DS1", images_per_class="own"), str(place), None), "DS1", warn_above=3
    )


READERS: tuple[Callable[[Path], None], ...] = (read_pixels, read_whole, stream)
OTHERS: tuple[Callable[[Path], None], ...] = (mix, lambda place: print_info(str(place)))
