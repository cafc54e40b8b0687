"""The default gates, fitted on phantoms of five classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from cxrdist.distributed.dist import Dist
from cxrdist.synth.gates.config import read_gates
from cxrdist.synth.gates.fit import fit
from cxrdist.synth.gates.judge import Judge
from tests.helpers.radiographs import by_class, fitted_classifier, write_phantoms

TRAIN, VAL, TEST = 80, 100, 100
"""Images of each class."""


@pytest.fixture(scope="session")
def train() -> dict[str, np.ndarray]:
    return by_class(TRAIN, 11)


@pytest.fixture(scope="session")
def val() -> dict[str, np.ndarray]:
    return by_class(VAL, 12, studies=1)


@pytest.fixture(scope="session")
def test() -> dict[str, np.ndarray]:
    """Of patients that no gate has seen. One image of each, as in val: images of one patient are not independent."""
    return by_class(TEST, 13, studies=1)


@pytest.fixture(scope="session")
def judge(
    tmp_path_factory: pytest.TempPathFactory, train: dict[str, np.ndarray], val: dict[str, np.ndarray]
) -> Iterator[Judge]:
    shards = write_phantoms(tmp_path_factory.mktemp("gates") / "set", {"train": train, "val": val})
    classifier = fitted_classifier({name: train[name] for name in shards.classes})
    with Dist(threads=1) as dist:
        yield fit(read_gates("default"), shards, shards.classes, [classifier], dist)
