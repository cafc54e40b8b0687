"""Scores of kept and removed images, from the metadata of a set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrdist.data.imaging.codecs import encode
from cxrdist.data.shards.index import write_table
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from cxrdist.errors import UserError
from cxrdist.synth.review.decisions import Reading, read_decisions
from cxrdist.synth.review.report.gates import compare_gates, read_scores
from tests.helpers.review_stores import Row, curated, write_store
from tests.helpers.shard_sets import write_set, write_shard

SCORES: dict[str, Any] = {
    "c1": {"brightness": 10, "contrast": 1.5},
    "c2": {"brightness": 20, "contrast": None},
    "c3": {"brightness": 30.5, "contrast": True},
    "c4": {"brightness": 40, "contrast": 2},
    "c5": None,
}


def synthetic_set(folder: Path, scores: Mapping[str, Any]) -> ShardSet:
    """Two shards of one class, images of 16 px."""
    store, stratum = LocalStore(folder), Stratum("train", "Normal", "synthetic")
    image = encode(np.full((16, 16), 9, np.uint8), "png")
    samples = [
        Sample(key, image, {"patient": None, "origin": "synthetic", "class": "Normal", "scores": of_key})
        for key, of_key in scores.items()
    ]
    rows = [
        write_shard(store, n, stratum, 0, "png", part) for n, part in enumerate((samples[:2], samples[2:]))
    ]
    lineage = {"kind": "synthetic", "real_digest": "a" * 64, "split": "train"}
    write_set(store, ["Normal"], 16, "png", [write_table(store, stratum, rows)], lineage=lineage)
    return ShardSet(folder)


def reading_of(tmp_path: Path, shards: ShardSet, rows: list[Row]) -> Reading:
    return read_decisions(write_store(tmp_path / "review.sqlite", rows, synthetic_digest=shards.digest))


def test_scores_of_curated_images_are_read(tmp_path: Path) -> None:
    shards = synthetic_set(tmp_path / "set", SCORES)
    reading = reading_of(tmp_path, shards, [curated("Ann", key, "keep") for key in ("c1", "c3", "c5")])
    assert read_scores(shards, reading) == {
        "c1": {"brightness": 10.0, "contrast": 1.5},
        "c3": {"brightness": 30.5},
        "c5": {},
    }


def test_another_set_is_refused(tmp_path: Path) -> None:
    shards = synthetic_set(tmp_path / "set", SCORES)
    store = write_store(tmp_path / "other.sqlite", [curated("Ann", "c1", "keep")])
    message = (
        rf"set is not the set that was read: its digest is {shards.digest[:12]}, that of the store b{{12}};"
    )
    with pytest.raises(UserError, match=message):
        read_scores(shards, read_decisions(store))
    reading = reading_of(tmp_path, shards, [curated("Ann", "c1", "keep"), curated("Ann", "c9", "keep")])
    with pytest.raises(UserError, match="set has no image c9, one of 1 that a reader has curated"):
        read_scores(shards, reading)


def test_gates_are_compared_per_reader_and_together(tmp_path: Path) -> None:
    answers = {
        "Ann": {"c1": "keep", "c2": "keep", "c3": "remove", "c4": "remove", "c5": "remove"},
        "Bo": {"c1": "remove", "c2": "unsure", "c3": "remove", "c4": "unsure"},
    }
    rows = [curated(name, key, answer) for name, of in answers.items() for key, answer in of.items()]
    shards = synthetic_set(tmp_path / "set", SCORES)
    reading = reading_of(tmp_path, shards, rows)
    found = compare_gates(reading, read_scores(shards, reading))
    assert (found["gates"], found["without_scores"]) == (["brightness", "contrast"], 1)
    rows_found = [
        (row["gate"], row["reader"], row["kept"], row["removed"], row["auc"]["value"], row["auc"]["why"])
        for row in found["rows"]
    ]
    assert rows_found == [
        ("brightness", "Ann", 2, 2, 1.0, None),
        ("brightness", "Bo", 0, 2, None, "none kept"),
        # c1 is a tie; c2 kept by one; c3, c4 removed by more.
        ("brightness", None, 1, 2, 1.0, None),
        ("contrast", "Ann", 1, 1, 1.0, None),
        ("contrast", "Bo", 0, 1, None, "none kept"),
        ("contrast", None, 0, 1, None, "none kept"),
    ]


def test_lower_scores_of_removed_images_give_less_than_half(tmp_path: Path) -> None:
    rows = [curated("Ann", "c1", "remove"), curated("Ann", "c2", "keep"), curated("Ann", "c4", "keep")]
    found = compare_gates(
        reading_of(tmp_path, synthetic_set(tmp_path / "set", SCORES), rows),
        {key: {"g": float(n)} for n, key in enumerate(("c1", "c2", "c4"))},
    )
    assert [(row["reader"], row["auc"]["value"], row["auc"]["n"]) for row in found["rows"]] == [
        ("Ann", 0.0, 3)
    ]


def test_a_set_without_scores_has_no_rows(tmp_path: Path) -> None:
    shards = synthetic_set(tmp_path / "set", dict.fromkeys(SCORES))
    reading = reading_of(tmp_path, shards, [curated("Ann", "c1", "keep")])
    assert compare_gates(reading, read_scores(shards, reading)) == {
        "gates": [],
        "without_scores": 1,
        "rows": [],
    }
