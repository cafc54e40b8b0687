"""A reading goes on after `review apply` removed images: they are not shown, and what was decided stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cxrdist.cli.main import dispatch
from cxrdist.data.shards.manifest import read_manifest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.synth.review.serving import serve as serve_module
from cxrdist.synth.review.serving.pages import Pages
from cxrdist.synth.review.serving.reading import Reading
from tests.helpers.review_server import with_readers
from tests.synth.review.conftest import reader_named
from tests.synth.review.serving.test_reading import FILM, KEEP, read_all, rows, say

REMOVE = {"answer": "remove", "reason": "artefact or noise", "seconds": 1}


def test_readers_go_on_with_the_images_that_are_left(
    tmp_path: Path,
    tiny_set: Path,
    synthetic_set: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = Path(shutil.copytree(synthetic_set, tmp_path / "tiny-synthetic"))
    store = with_readers(tmp_path / "review.sqlite", "Ada")
    words = ["review", "serve", str(place), "--shards", str(tiny_set), "--store", str(store), "--port", "0"]
    uses: list[Callable[[Reading], None]] = []

    def run(reading: Reading, *others: object, **options: object) -> object:
        uses.pop()(reading)
        return Pages(reading, ("curate",), None)

    monkeypatch.setattr(serve_module, "application", run)
    monkeypatch.setattr(serve_module.uvicorn.Server, "run", lambda self, sockets: None)

    def first(reading: Reading) -> None:
        ada = reader_named(reading.store, "Ada")
        assert say(reading, ada, "blinded", FILM) and say(reading, ada, "curate", REMOVE)
        assert reading.state(ada, "curate")["undo"] is not None

    uses.append(first)
    dispatch(words)
    assert "changed since" not in capsys.readouterr().out
    old = read_manifest(place)
    dispatch(["review", "apply", str(place), "--from", str(store)])
    assert read_manifest(place).samples == old.samples - 1
    seen: list[str] = []

    def second(reading: Reading) -> None:
        ada = reader_named(reading.store, "Ada")
        (removed,) = (row["key"] for row in rows(reading) if row["task"] == "curate")
        assert removed not in reading.pool
        state = reading.state(ada, "curate")
        assert (state["done"], state["total"], state["undo"]) == (0, old.samples - 1, None)
        assert reading.state(ada, "blinded")["done"] == 1
        seen.extend(read_all(reading, ada, "curate", KEEP)[1:])
        assert removed not in seen and len({*seen}) == old.samples - 1

    capsys.readouterr()
    uses.append(second)
    dispatch(words)
    said = capsys.readouterr().out
    assert (
        "it was changed since this reading began: what was removed is not shown, and decisions stay" in said
    )
    assert {*seen} == {
        reader.key(number).decode()
        for reader in (ShardSet(place).stratum("train", name, "synthetic") for name in old.classes)
        for number in range(reader.samples)
    }
    # Both say the same of the store as before.
    dispatch(["review", "apply", str(place), "--from", str(store)])
    assert "removed before, no change: 1 image" in capsys.readouterr().out
    dispatch(["review", "report", str(store), "--set", str(place), "--out", str(tmp_path / "report")])
    assert f"Ada: {old.samples} curated, 1 real or synthetic" in capsys.readouterr().out
    report = json.loads((tmp_path / "report" / "report.json").read_bytes())
    assert report["set_digests"] == [read_manifest(place).digest, old.digest]
