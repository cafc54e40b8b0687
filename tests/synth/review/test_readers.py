"""Names, pass phrases and sessions."""

from __future__ import annotations

import io
import time

import pytest

from cxrdist.errors import UserError
from cxrdist.synth.review import readers, sessions
from cxrdist.synth.review.store import Store
from tests.synth.review.conftest import reader_named

PHRASE = "correct horse"


def test_only_name_and_phrase_together_sign_in(store: Store) -> None:
    readers.add(store, "Ada", PHRASE)
    readers.add(store, "Ben", "another phrase")
    found = readers.signed_in(store, "Ada", PHRASE)
    assert found == reader_named(store, "Ada") and found.id == 1
    for name, phrase in [("Ada", "another phrase"), ("Ada", ""), ("ada", PHRASE), ("", ""), ("Eve", PHRASE)]:
        assert readers.signed_in(store, name, phrase) is None


def test_an_umlaut_is_the_same_in_both_forms(store: Store) -> None:
    readers.add(store, "Ada", "Grüße aus Köln")
    assert readers.signed_in(store, "Ada", "Gru\u0308ße aus Ko\u0308ln") is not None


def test_no_phrase_is_in_the_store_and_equal_ones_look_different(store: Store) -> None:
    for name in ("Ada", "Ben"):
        readers.add(store, name, PHRASE)
    rows = store.rows("SELECT salt, hash FROM reader")
    assert len({*(bytes(row["hash"]) for row in rows), *(bytes(row["salt"]) for row in rows)}) == 4
    store.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    assert PHRASE.encode() not in store.path.read_bytes()


def test_scrypt_costs_what_owasp_advises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of cheap_hashes
    assert readers.COST["n"] * readers.COST["p"] == 3 * 2**15 and readers.COST["r"] == 8


@pytest.mark.parametrize("name", ["", " Ada", "Ada ", "a\nb", "a\x1b[2J", "x" * 61])
def test_names_that_cannot_be_shown_are_refused(store: Store, name: str) -> None:
    with pytest.raises(UserError, match="a reader's name has 1 to 60 characters"):
        readers.add(store, name, PHRASE)
    assert readers.readers(store) == []


def test_short_phrases_and_names_that_are_taken_are_refused(store: Store) -> None:
    with pytest.raises(UserError, match="the pass phrase has 7 characters: it needs 8 to 1000"):
        readers.add(store, "Ada", "1234567")
    readers.add(store, "Ada", PHRASE)
    with pytest.raises(UserError, match="has a reader Ada already"):
        readers.add(store, "Ada", "another phrase")
    assert readers.signed_in(store, "Ada", PHRASE) is not None


def test_who_is_removed_is_signed_out(store: Store) -> None:
    readers.add(store, "Ada", PHRASE)
    cookie = sessions.begin(store, reader_named(store, "Ada"))
    assert sessions.reader_of(store, cookie) == reader_named(store, "Ada")
    readers.remove(store, "Ada")
    assert sessions.reader_of(store, cookie) is None
    with pytest.raises(UserError, match="has no reader 'Ada', but nobody"):
        readers.remove(store, "Ada")


def test_a_session_ends_by_itself_and_by_request(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    readers.add(store, "Ada", PHRASE)
    first, second = (sessions.begin(store, reader_named(store, "Ada")) for _ in range(2))
    sessions.end(store, first)
    assert sessions.reader_of(store, first) is None and sessions.reader_of(store, second) is not None
    assert store.rows("SELECT 1 FROM session WHERE digest = ?", second) == []  # only its digest is there
    now_s = time.time()
    for later_s, is_there in [(0.9, True), (1.8, True), (2.81, False)]:  # each use prolongs it
        monkeypatch.setattr(time, "time", lambda later_s=later_s: now_s + later_s * sessions.LASTS_S)
        assert (sessions.reader_of(store, second) is not None) == is_there


def test_the_phrase_is_a_line_of_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse \nnext"))
    assert readers.asked_phrase() == "correct horse "


@pytest.mark.parametrize(("again", "is_right"), [("correct horse", True), ("correct house", False)])
def test_a_terminal_asks_twice(monkeypatch: pytest.MonkeyPatch, again: str, is_right: bool) -> None:
    typed = iter(["correct horse", again])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(typed))
    if is_right:
        assert readers.asked_phrase() == "correct horse"
    else:
        with pytest.raises(UserError, match="the two pass phrases differ"):
            readers.asked_phrase()
