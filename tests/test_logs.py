"""Warnings and notes: on stderr, by level, of rank 0 unless another rank alone knows."""

from __future__ import annotations

import logging

import pytest

from cxrdist import logs
from cxrdist.errors import UserError

LOG = logging.getLogger("cxrdist.a.module")


@pytest.fixture(autouse=True)
def level_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.LEVEL_VARIABLE, "info")


def test_a_warning_and_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    LOG.warning("%s images name no patient", 3)
    LOG.info("continuing an unfinished set")
    LOG.debug("nothing")
    assert capsys.readouterr() == ("", "warning: 3 images name no patient\ncontinuing an unfinished set\n")


def test_a_level_silences_what_is_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("error")
    LOG.warning("a warning")
    LOG.error("an error")
    assert capsys.readouterr().err == "error: an error\n"
    logs.configure("info")


def test_configuring_twice_shows_a_record_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logs.configure()
    LOG.warning("once")
    assert capsys.readouterr().err == "warning: once\n"


def test_other_ranks_are_silent_unless_they_alone_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    LOG.warning("every rank knows this")
    LOG.warning("this rank alone", extra=logs.EVERY_RANK)
    assert capsys.readouterr().err == "warning: this rank alone\n"


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    LOG.warning("class %s", "\x1b[31mred")
    assert capsys.readouterr().err == "warning: class \\x1b[31mred\n"


def test_an_unknown_level_is_refused_where_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.LEVEL_VARIABLE, "inf")
    with pytest.raises(UserError, match=r"^--log-level warn: unknown; did you mean 'warning'\?$"):
        logs.configure("warn")
    with pytest.raises(UserError, match=r"^CXRDIST_LOG_LEVEL inf: unknown; did you mean 'info'\?$"):
        logs.configure()
