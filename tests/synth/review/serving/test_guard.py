"""Attempts to sign in, counted."""

from __future__ import annotations

import time

import pytest

from cxrdist.synth.review.serving.guard import Attempts


def test_attempts_wait_until_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    attempts = Attempts(most=2, within_s=10)
    waits = []
    for now[0] in (1.0, 2.0, 3.0):
        waits.append((attempts.wait_s("Ada"), attempts.wait_s("Ben")))
        attempts.note("Ada")
    assert waits == [(0, 0), (0, 0), (8, 0)]
    attempts.forget("Ada")
    assert attempts.wait_s("Ada") == 0


def test_names_at_random_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    attempts = Attempts(most=2, within_s=10)
    for number in range(100):
        now[0] = float(number)
        attempts.note(f"name {number}")
    assert len(attempts._failed_s) == 10
