from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.gates.config import GatesConfig
from cxrdist.synth.gates.copies import coarse
from cxrdist.synth.gates.judge import Judge, Judged
from cxrdist.synth.gates.thresholds import Thresholds

SIDE = 32


class BrightGate:
    """Refuses images whose mean grey value is above the threshold."""

    name = "bright"
    refuses_high = True
    at_least = None

    def scores(self, class_name: str, seen: Any) -> Any:
        raise AssertionError("StubJudge scores")


class StubJudge(Judge):
    """Judges by brightness alone."""

    def judge(self, class_name: str, images: np.ndarray) -> Judged:
        import torch

        scores = images.mean((1, 2)).astype(np.float32)
        admitted = self.gates[0][1].admit(class_name, scores)
        from cxrdist.features.spaces import pixel_space

        signatures = coarse(pixel_space().embed(torch.from_numpy(images[:, None]))).half().numpy()
        return Judged({"bright": scores}, {"bright": admitted}, admitted, signatures, None)


def stub_judge(classes: list[str], limit: float, duplicate_limit: float | None = None) -> Judge:
    real = np.linspace(0, 255, 100, dtype=np.float32)
    limits = Thresholds(True, dict.fromkeys(classes, limit), dict.fromkeys(classes, real), frozenset())
    return StubJudge(
        GatesConfig(name="stub", pixels=1), (), ((BrightGate(), limits),), duplicate_limit=duplicate_limit
    )


class Noise:
    """A user's generator: an image is noise around a grey value that follows from its seed."""

    classes = ("Normal", "Pleural Effusion", "Pneumothorax")
    image_size = SIDE
    version = 1
    distinct = 0
    """Different images; 0: without end."""

    def sample(self, class_name: str, seeds: np.ndarray) -> np.ndarray:
        seeds = seeds % np.uint64(self.distinct) if self.distinct else seeds
        return np.stack([self.one(class_name, int(seed)) for seed in seeds])

    def one(self, class_name: str, seed: int) -> np.ndarray:
        rng = np.random.default_rng([seed, self.classes.index(class_name)])
        grey = rng.integers(40, 200)
        return np.clip(grey + rng.normal(0, 30, (SIDE, SIDE)), 0, 255).astype(np.uint8)


class Few(Noise):
    """Draws three different images."""

    distinct = 3
    version = 2


class Forty(Noise):
    distinct = 40
    version = 3


def forty() -> Forty:
    return Forty()


def noise() -> Noise:
    return Noise()


def few() -> Few:
    return Few()


@pytest.fixture
def synthesize(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[ShardSet, list[str]]]:
    """Runs the job in this process, with a judge that admits dark images; returns the set, and what it said."""

    def job(
        limit: float = 120, duplicate_limit: float | None = None, **changes: Any
    ) -> tuple[ShardSet, list[str]]:
        from cxrdist.synth import rounds
        from cxrdist.synth import synthesize as module

        said: list[str] = []
        real = ShardSet(tiny_set)
        monkeypatch.setattr(module, "fit", lambda *_: stub_judge(real.classes, limit, duplicate_limit))
        for place in (module, rounds):
            monkeypatch.setattr(place, "say", lambda message, **_: said.append(message))
        monkeypatch.setenv("WANDB_MODE", "disabled")
        # A gate file whose gates need no classifier; fit() is replaced.
        gates = tmp_path / "stub.yaml"
        gates.write_text("pixels: 1\n")
        values: dict[str, Any] = {
            "generator": "tests.synth.conftest:noise",
            "shards": str(tiny_set),
            "out": str(tmp_path / "made"),
            "run": str(tmp_path / "run"),
            "gates": str(gates),
            "threads": 1,
        }
        module.synthesize(SynthConfig(**{**values, **changes}))
        return ShardSet(changes.get("out", tmp_path / "made")), said

    return job
