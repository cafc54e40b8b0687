"""The images of both sets by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import UserError
from cxrdist.synth.review.serving.pool import Pool
from tests.helpers.review_sets import synthetic_copy
from tests.helpers.shard_sets import pixels


def test_each_number_has_the_key_class_and_pixels_of_one_image(tiny_set: Path, synthetic_set: Path) -> None:
    pool = Pool(ShardSet(synthetic_set), ShardSet(tiny_set), "val")
    by_key = pixels(synthetic_set) | pixels(tiny_set)
    for number in range(len(pool)):
        assert (pool.pixels(number) == by_key[pool.key(number)]).all()
        assert pool.numbers_of({pool.key(number), "unknown"}).tolist() == [number]
    real = ShardSet(tiny_set)
    for class_index, name in enumerate(pool.classes):
        reader = real.stratum("val", name, "real")
        keys = {pool.key(number) for number in pool.numbers(is_real=True, class_index=class_index)}
        assert keys == {reader.key(number).decode() for number in range(reader.samples)}
        assert {pool.class_name(number) for number in pool.numbers_of(keys)} == {name}
        assert {pool.origin(number) for number in pool.numbers_of(keys)} == {"real"}
    assert len(pool.numbers(is_real=False)) == sum(
        entry.samples for entry in ShardSet(synthetic_set).manifest.strata
    )


def test_a_flipped_bit_is_found_when_the_image_is_read(tmp_path: Path, tiny_set: Path) -> None:
    place = synthetic_copy(tiny_set, tmp_path / "synthetic")
    pool = Pool(ShardSet(place), ShardSet(tiny_set), "val")
    stratum = pool._strata[0]
    offset = int(stratum.row(0)["offset_bytes"]) + 60
    data = bytearray((place / stratum.shards[0].name).read_bytes())
    data[offset] ^= 1
    (place / stratum.shards[0].name).write_bytes(data)
    pool = Pool(ShardSet(place), ShardSet(tiny_set), "val")
    with pytest.raises(UserError, match="its bytes do not match their hash"):
        pool.pixels(0)
    assert isinstance(pool.pixels(1), np.ndarray)
