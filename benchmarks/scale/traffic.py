"""What a job sends per step, from the events of ``recorded.py``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.scale.recorded import GRADIENTS

Event = tuple[int, str, str, int]
"""Step, thread, kind of collective, bytes."""


@dataclass(frozen=True)
class Traffic:
    """Of one step, on one rank: bytes of gradients; number and bytes of all other collectives."""

    gradient_bytes: int
    small_calls: float
    small_bytes: float
    kinds: dict[str, float]
    """Number of each kind of collective; ``gradients`` are DDP's buckets."""


def of_step(events: Sequence[Event]) -> Traffic:
    """The traffic of a step of a training. Steps in the middle must all be alike in the main thread; the loader's
    thread reads ahead, so of it the mean over all steps counts. Raises ValueError if steps differ."""
    last = max(step for step, _, _, _ in events)
    inner = range(2, last)  # the first one builds, the last one ends with a look
    by_step = {step: Counter[tuple[str, int]]() for step in inner}
    for step, thread, kind, size in events:
        if thread == "main" and step in by_step and kind != GRADIENTS:
            by_step[step][kind, size] += 1
    gradients = {
        step: sum(size for at, _, kind, size in events if at == step and kind == GRADIENTS) for step in inner
    }
    if (
        len({tuple(sorted(each.items())) for each in by_step.values()}) != 1
        or len({*gradients.values()}) != 1
    ):
        raise ValueError(f"steps differ in what they send: {by_step}, {gradients}")
    kinds: dict[str, float] = defaultdict(float)
    calls = total = 0.0
    for (kind, size), number in by_step[inner[0]].items():
        kinds[kind] += number
        calls, total = calls + number, total + number * size
    of_loader = [event for event in events if event[1] == "loader"]
    for _, _, kind, size in of_loader:
        kinds[f"{kind} (loader)"] += 1 / last
        calls, total = calls + 1 / last, total + size / last
    buckets = sum(1 for step, _, kind, _ in events if step == inner[0] and kind == GRADIENTS)
    kinds[GRADIENTS] = buckets
    rounded: dict[str, float] = {kind: round(number, 2) for kind, number in sorted(kinds.items())}
    return Traffic(gradients[inner[0]], round(calls, 2), round(total, 1), rounded)


def of_job(events: Sequence[Event]) -> tuple[int, int]:
    """Number and bytes of all collectives of a job."""
    return len(events), sum(size for _, _, _, size in events)
