"""Stores of readings of the tiny set and a copy of its train images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.synth.review import readers
from cxrdist.synth.review.readers import Reader
from cxrdist.synth.review.serving.pictures import Pictures
from cxrdist.synth.review.serving.pool import Pool
from cxrdist.synth.review.serving.reading import Reading
from cxrdist.synth.review.store import Store
from cxrdist.synth.review.terms import agreed
from tests.helpers.review_client import client, enter
from tests.helpers.review_server import PHRASE
from tests.helpers.review_sets import synthetic_copy

Start = Callable[..., Reading]


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt in no time."""
    monkeypatch.setitem(readers.COST, "n", 2)
    monkeypatch.setitem(readers.COST, "p", 1)


@pytest.fixture(scope="session")
def synthetic_set(tmp_path_factory: pytest.TempPathFactory, tiny_set: Path) -> Path:
    """The train images of ``tiny_set`` under other keys; read-only for all tests."""
    return synthetic_copy(tiny_set, tmp_path_factory.mktemp("sets") / "tiny-synthetic")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path / "review.sqlite", create=True)
    yield found
    found.close()


@pytest.fixture
def start(store: Store, tiny_set: Path, synthetic_set: Path) -> Iterator[Start]:
    """start(*names of readers, limit=, overlap=...): a reading of both sets."""
    closing = []

    def started(*names: str, limit: int | None = None, **asked: object) -> Reading:
        synthetic, real = ShardSet(synthetic_set), ShardSet(tiny_set)
        digests = {"synthetic_digest": [synthetic.digest], "real_digest": [real.digest]}
        terms = agreed(store, digests, asked)
        for name in names:
            readers.add(store, name, PHRASE)
        pool = Pool(synthetic, real, terms.split)
        pictures = Pictures(pool, store.secret)
        closing.append(pictures)
        return Reading(store, pool, pictures, terms, limit)

    yield started
    for pictures in closing:
        pictures.close()


@pytest.fixture
def signed_in(start: Start) -> Callable[..., TestClient]:
    def entered(**options: Any) -> TestClient:
        browser = client(start("Ada", "Ben"), **options)
        assert enter(browser) == 303
        return browser

    return entered


def reader_named(store: Store, name: str) -> Reader:
    return next(reader for reader in readers.readers(store) if reader.name == name)
