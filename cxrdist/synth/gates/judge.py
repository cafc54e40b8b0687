"""All gates of a synthesis, fitted and calibrated: what they say of a block of generated images.

fit.py builds it. Everything that a gate looks at is computed once, in batches of one size, so scores do not depend on
how many images are judged together or on how many ranks judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cxrdist.features.embed import BATCH
from cxrdist.features.spaces import PIXELS, Space
from cxrdist.synth.gates.config import GatesConfig
from cxrdist.synth.gates.copies import coarse
from cxrdist.synth.gates.coverage import coverage
from cxrdist.synth.gates.label import PROBABILITIES
from cxrdist.synth.gates.thresholds import Thresholds

CPU = torch.device("cpu")


class Gate(Protocol):
    """Scores images; the threshold on the score is calibrated outside."""

    name: str
    refuses_high: bool

    @property
    def at_least(self) -> float | None:
        """The threshold of a gate that refuses high scores is not below this."""
        ...

    def scores(self, class_name: str, seen: Mapping[str, Tensor]) -> Tensor:
        """``seen``: what ``see`` returns of n images -> [n] float32."""
        ...


@dataclass(frozen=True)
class Judged:
    """What the gates say of n images."""

    scores: dict[str, np.ndarray]
    """``{gate: [n] float32}``."""
    passed: dict[str, np.ndarray]
    """``{gate: [n] bool}``, each gate for itself."""
    admitted: np.ndarray
    """[n] bool: passed by all of them."""
    coarse: np.ndarray | None
    """[n, 256] float16, for the search for duplicates; None without it."""
    features: np.ndarray | None
    """[n, D] float32 in the space of the coverage; None without it."""

    def refused_by(self, place: int) -> list[str]:
        """The gates that refuse an image."""
        return [name for name, passed in self.passed.items() if not passed[place]]


@dataclass(frozen=True)
class Judge:
    """The gates of one job."""

    config: GatesConfig
    spaces: Sequence[Space] = ()
    gates: Sequence[tuple[Gate, Thresholds]] = ()
    classifiers: Sequence[str] = ()
    """SHA-256 of the weights of each classifier."""
    duplicate_limit: float | None = None
    coverage_space: str | None = None
    train: Mapping[str, Tensor] = field(default_factory=dict)
    """Features of each class's training images in the space of the coverage."""
    device: torch.device = CPU

    @torch.no_grad()
    def judge(self, class_name: str, images: np.ndarray) -> Judged:
        """``images`` [n, H, W] uint8."""
        if not self.spaces:
            return Judged({}, {}, np.ones(len(images), bool), None, None)
        parts = [
            self._judge_batch(class_name, images[start : start + BATCH])
            for start in range(0, len(images), BATCH)
        ]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _judge_batch(self, class_name: str, images: np.ndarray) -> Judged:
        count = len(images)
        padded = np.zeros((BATCH, 1, *images.shape[1:]), np.uint8)
        padded[:count, 0] = images
        pixels = torch.from_numpy(padded).to(self.device)
        seen = see({space: space.embed(pixels).float() for space in self.spaces})
        scores = {
            gate.name: gate.scores(class_name, seen)[:count].float().cpu().numpy() for gate, _ in self.gates
        }
        passed = {gate.name: limits.admit(class_name, scores[gate.name]) for gate, limits in self.gates}
        signatures = features = None
        if self.duplicate_limit is not None:
            signatures = coarse(seen[PIXELS])[:count].half().cpu().numpy()
        if self.coverage_space is not None:
            features = seen[self.coverage_space][:count].cpu().numpy()
        admitted = np.logical_and.reduce([np.ones(count, bool), *passed.values()])
        return Judged(scores, passed, admitted, signatures, features)

    def coverage(self, class_name: str, generated: np.ndarray) -> float | None:
        """Of features [n, D] of generated images (``Judged.features``)."""
        if self.config.coverage is None:
            return None
        return coverage(torch.from_numpy(generated).to(self.device), self.train[class_name], class_name)

    def thresholds(self, class_name: str) -> dict[str, float]:
        """``{gate: threshold}``."""
        return {gate.name: limits.of_class[class_name] for gate, limits in self.gates}


def see(embedded: Mapping[Space, Tensor]) -> dict[str, Tensor]:
    """What ``Space.embed`` returned, by the name of the space; and, under ``PROBABILITIES``, what the classifiers say
    on average."""
    seen = {space.name: values[:, : space.dims] for space, values in embedded.items()}
    said = [values[:, space.dims :].softmax(1) for space, values in embedded.items() if space.logits]
    if said:
        seen[PROBABILITIES] = torch.stack(said).mean(0)
    return seen


def _joined(parts: Sequence[Judged]) -> Judged:
    def join(arrays: Sequence[np.ndarray | None]) -> Any:
        return None if arrays[0] is None else np.concatenate(arrays)  # type: ignore[arg-type]

    return Judged(
        scores={name: join([part.scores[name] for part in parts]) for name in parts[0].scores},
        passed={name: join([part.passed[name] for part in parts]) for name in parts[0].passed},
        admitted=join([part.admitted for part in parts]),
        coarse=join([part.coarse for part in parts]),
        features=join([part.features for part in parts]),
    )
