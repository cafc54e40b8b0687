"""``cxrdist review apply``: what several reviewers decided, which images go, and what is refused."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cxrdist.cli.main import dispatch
from cxrdist.data.shards.manifest import read_manifest
from cxrdist.data.shards.removed import read_removed
from cxrdist.data.storage.store import LocalStore
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from cxrdist.synth.review.apply import top_up_command
from cxrdist.synth.review.decision import Decision, removals, utc
from tests.helpers.launching import CLONE
from tests.helpers.removing import key_of, remove, write_synthetic
from tests.helpers.shard_sets import contents, pixels

HEADER = "key,decision,reviewer,reason,time"
TIME = "2026-07-04T09:30:00Z"
N0, N1, N2, P0, P1, P2 = *(key_of(0, n) for n in range(3)), key_of(1, 0), key_of(1, 1), key_of(1, 2)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_synthetic(tmp_path / "real-synthetic")
    return tmp_path / "real-synthetic"


def table(place: Path, *lines: str, header: str = HEADER) -> Path:
    path = place.parent / "decisions.csv"
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return path


def removed_from(place: Path) -> dict[str, tuple[str, str | None, str | None]]:
    """Key -> reason, reviewer and time."""
    strata = read_manifest(place).strata
    every = [removal for entry in strata for removal in read_removed(LocalStore(place), entry)]
    assert {removal.by for removal in every} <= {"review"}
    return {removal.key: (removal.reason, removal.reviewer, removal.time) for removal in every}


# ---- a file of decisions


def test_what_is_removed_and_what_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, old = contents(place), read_manifest(place)
    decisions = table(
        place,
        f"{N0},remove,Ann,grid,{TIME}",
        f"{N1},keep,Ann,,{TIME}",
        f"{P0},remove,Ann,,",
        f'{P1},remove,Ben,"two hearts, one lung",2026-07-04T11:30:00+02:00',
        f"{P2},unsure,Ben,blurred,{TIME}",
        f"{P0},remove,Ben,grid,2026-07-05T09:30:00.5Z",
    )
    dispatch(["review", "apply", str(place), str(decisions)])
    new = read_manifest(place)
    assert capsys.readouterr().out.splitlines() == [
        "6 decisions of 2 reviewers",
        "  Normal: 1 removed (grid 1), 8 left",
        "  Pneumothorax: 2 removed (grid 1; two hearts, one lung 1), 7 left",
        f"{place}: 3 of 18 images removed, digest {old.digest[:12]} -> {new.digest[:12]}; its tars still hold them, "
        "and readers of the set leave them out",
        "to fill it up again: `accelerate launch launch/synthesize.py --gan runs/gan --shards "
        f"{place.parent / 'real'} --mix DS3 --out {place}`, with the runs that it was made with (--gan or "
        "--generator, and --classifiers if they were named)",
    ]
    assert removed_from(place) == {
        N0: ("grid", "Ann", TIME),
        P0: ("grid", "Ann, Ben", "2026-07-05T09:30:00.500000Z"),
        P1: ("two hearts, one lung", "Ben", TIME),
    }
    edit = {"from": old.digest, "removed": 3, "by": "review"}
    assert new.provenance.json_value()["edited"] == [edit] and new.lineage == old.lineage
    assert {*contents(place)} - {*before} == {entry.removed for entry in new.strata}
    assert all(contents(place)[name] == data for name, data in before.items() if name != "manifest.json")
    assert len(pixels(place)) == 15 and verify(str(place)) == []

    # Again: nothing changes.
    after = contents(place)
    capsys.readouterr()
    dispatch(["review", "apply", str(place), str(decisions)])
    assert capsys.readouterr().out.splitlines() == [
        "6 decisions of 2 reviewers",
        "removed before, no change: 3 images",
        f"{place}: nothing to remove, left as it is (digest {new.digest[:12]})",
    ]
    assert contents(place) == after


def test_the_same_command_removes_what_was_decided_since(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = f"{N0},remove,Ann,grid,{TIME}"
    dispatch(["review", "apply", str(place), str(table(place, first))])
    capsys.readouterr()
    dispatch(["review", "apply", str(place), str(table(place, first, f"{N1},remove,Ann,,{TIME}"))])
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == [
        "2 decisions of 1 reviewer",
        "removed before, no change: 1 image",
        "  Normal: 1 removed (no reason given 1), 7 left",
    ]
    assert removed_from(place) == {N0: ("grid", "Ann", TIME), N1: ("", "Ann", TIME)}


def test_a_set_at_a_url(place: Path) -> None:
    url = f"memory://reviewed/{place.parent.name}"
    write_synthetic(url)
    decisions = str(table(place, f"{N0},remove,Ann,grid,{TIME}"))
    for where in (url, str(place)):
        dispatch(["review", "apply", where, decisions])
    assert read_manifest(url) == read_manifest(place) and verify(url) == []


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_tables_as_spreadsheets_write_them(place: Path, ending: str) -> None:
    """With a byte order mark, semicolons, other line ends, columns in another order, and empty lines."""
    path = place.parent / "decisions.csv"
    lines = ["time;reviewer;key;reason;decision", f"{TIME}; Änne ;{N0};a, b;remove", "", f";Änne;{N1};;keep"]
    path.write_bytes(("\ufeff" + ending.join(lines)).encode())
    dispatch(["review", "apply", str(place), str(path)])
    assert removed_from(place) == {N0: ("a, b", "Änne", TIME)}


# ---- several reviewers


def decided(**answers: str) -> list[Decision]:
    """One image, and what each reviewer decided on it."""
    return [
        Decision(where="", key="a", answer=answer, reviewer=name, reason=f"{name}'s", time=None)
        for name, answer in answers.items()
    ]


@pytest.mark.parametrize(
    ("answers", "going"),
    [
        # The rules that remove the image, as (remove_if, what unsure counts as).
        (["keep"], set()),
        (["remove"], {"any", "majority", "all"}),
        (["unsure"], {"any+", "majority+", "all+"}),
        (["remove", "keep"], {"any"}),
        (["remove", "unsure"], {"any", "majority+", "all+"}),
        (["remove", "remove", "keep"], {"any", "majority"}),
        (["remove", "unsure", "keep"], {"any", "majority+"}),
        (["remove", "unsure", "keep", "keep"], {"any"}),
        (["remove", "remove", "remove"], {"any", "majority", "all"}),
    ],
)
def test_which_rule_removes_an_image(answers: list[str], going: set[str]) -> None:
    """A rule with +: only if unsure counts as remove."""
    votes = decided(**{f"r{n}": answer for n, answer in enumerate(answers)})
    found = set()
    for rule in ("any", "majority", "all"):
        if removals(votes, remove_if=rule):
            found.add(rule)
        elif removals(votes, remove_if=rule, unsure="remove"):
            found.add(f"{rule}+")
    assert found == going


def test_the_reason_is_that_of_those_who_remove_it() -> None:
    votes = decided(Zoe="remove", Ann="remove", Ben="keep", Cy="unsure")
    (reason,) = removals(votes).values()
    assert (reason.reason, reason.reviewer, reason.time) == ("Ann's; Zoe's", "Ann, Zoe", None)
    (reason,) = removals(votes, unsure="remove").values()
    assert reason.reviewer == "Ann, Cy, Zoe"


def test_reasons_are_counted_without_the_words_of_the_reviewers(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decisions = table(
        place,
        f"{N0},remove,Ann,noise: grid; left,{TIME}",
        f"{N0},remove,Ben,blurred,{TIME}",
        f"{N0},remove,Cy,noise: in the apex,{TIME}",
        f"{N1},remove,Ann,noise: rays: many,{TIME}",
        f"{N2},remove,Ann,noise,{TIME}",
    )
    dispatch(["review", "apply", str(place), str(decisions)])
    assert (
        "  Normal: 3 removed (noise 2; noise and blurred 1), 6 left" in capsys.readouterr().out.splitlines()
    )
    removed = removed_from(place)
    assert removed[N0] == ("noise; blurred: grid; left; in the apex", "Ann, Ben, Cy", TIME)
    assert removed[N1][0] == "noise: rays: many"


def test_the_options_are_those_of_the_rules(place: Path) -> None:
    decisions = table(
        place,
        *(f"{N0},{answer},r{n},,{TIME}" for n, answer in enumerate(["remove", "remove", "keep"])),
        *(f"{N1},{answer},r{n},,{TIME}" for n, answer in enumerate(["remove", "unsure", "keep"])),
        *(f"{P0},{answer},r{n},,{TIME}" for n, answer in enumerate(["remove", "unsure", "remove"])),
    )
    for words, expected in (
        (["--remove-if", "all"], set()),
        (["--remove-if", "all", "--unsure", "remove"], {P0}),
        (["--remove-if", "majority"], {N0, P0}),
        (["--remove-if", "majority", "--unsure", "remove"], {N0, N1, P0}),
        ([], {N0, N1, P0}),
    ):
        again = Path(shutil.copytree(place, place.parent / "again"))
        dispatch(["review", "apply", str(again), str(decisions), *words])
        assert {*removed_from(again)} == expected, words
        shutil.rmtree(again)


# ---- what is wrong


def test_all_that_is_wrong_is_listed_and_nothing_is_changed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(place)
    decisions = table(
        place,
        f"{N0},remove,Ann,grid,{TIME}",
        f"nobody,keep,Ann,,{TIME}",
        f"{N0},keep,Ann,,{TIME}",
        f"{N0},remove,Ann,again,{TIME}",
        f"{N0},keep,Ben,,{TIME}",
        f"{N1},removed,Ann,,{TIME}",
        f"{P0},keep,Ann,,yesterday",
        f"{P0},keep,Ben,,2026-07-04T09:30:00",
        f"{P1},keep,,,{TIME}",
        f"{P1},keep,Ann,{TIME}",
        f'{P2},keep,Ann,"two',
        f'lines",{TIME}',
        f"{P2},keep,Ben,\x1b[2J,{TIME}",
        f"{P2},KEEP,Cy,,{TIME}",
    )
    with pytest.raises(
        UserError, match=r"decisions\.csv: 11 problems in its decisions, so nothing was changed"
    ):
        dispatch(["review", "apply", str(place), str(decisions)])
    listed = capsys.readouterr().err.splitlines()
    assert listed == [
        f"{decisions}: {problem}"
        for problem in (
            "line 3: unknown key 'nobody'",
            f"line 4: Ann decides keep on {N0}, but remove in line 2",
            f"line 5: Ann decides remove on {N0}, the same in line 2",
            "line 7: unknown decision 'removed'; did you mean 'remove'?",
            "line 8: time 'yesterday' is not like 2026-07-04T09:30:00Z",
            "line 9: time '2026-07-04T09:30:00' is not like 2026-07-04T09:30:00Z",
            "line 10: names no reviewer",
            "line 11: 4 fields instead of 5",
            "line 12: reason is 'two\\nlines', not text without line breaks and control characters",
            "line 14: reason is '\\x1b[2J', not text without line breaks and control characters",
            "line 15: unknown decision 'KEEP'; did you mean 'keep'?",
        )
    ]
    assert contents(place) == before


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "key,decision,reviewer,reason",
            r"its first line lacks the column time; it must name key, decision, rev",
        ),
        ("", "its first line lacks the columns key, decision, reviewer, reason, time"),
        (f"{HEADER},Key", "column 'Key': no column of decisions; did you mean 'key'"),
        (f"{HEADER},key", "column 'key': named twice"),
    ],
)
def test_columns_that_are_missing_or_wrong(place: Path, header: str, message: str) -> None:
    before = contents(place)
    with pytest.raises(UserError, match=message):
        dispatch(["review", "apply", str(place), str(table(place, header=header))])
    assert contents(place) == before


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, r"decisions\.csv: no such file"),
        (
            b"\xff\xfek\x00e\x00y\x00",
            "not text in UTF-8; name a CSV file of decisions, or a database with --from",
        ),
        (f'{HEADER}\n{N0},"remove"x,Ann,,\n'.encode(), r"line 2: not CSV \("),
    ],
)
def test_files_that_are_no_table(place: Path, data: bytes | None, message: str) -> None:
    path = place.parent / "decisions.csv"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        dispatch(["review", "apply", str(place), str(path)])


def test_a_class_keeps_an_image(place: Path) -> None:
    before = contents(place)
    lines = [f"{key_of(1, n)},remove,Ann,,{TIME}" for n in range(9)]
    with pytest.raises(UserError, match=r"no image of Pneumothorax \(train, synthetic\) would be left"):
        dispatch(["review", "apply", str(place), str(table(place, f"{N0},remove,Ann,,{TIME}", *lines))])
    assert contents(place) == before


def test_real_sets_and_places_without_a_set(place: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "real", "real")
    decisions = str(table(place, f"{N0},remove,Ann,,{TIME}"))
    with pytest.raises(UserError, match="a set of real images; a review removes images from a synthetic one"):
        dispatch(["review", "apply", str(tmp_path / "real"), decisions])
    with pytest.raises(UserError, match="no such shard set"):
        dispatch(["review", "apply", str(tmp_path / "nowhere"), decisions])


@pytest.mark.parametrize("words", [[], ["decisions.csv", "--from", "review.sqlite"]])
def test_one_source_of_decisions(place: Path, words: list[str]) -> None:
    with pytest.raises(
        UserError, match="DECISIONS: give a CSV file of decisions, or a database with --from,"
    ):
        dispatch(["review", "apply", str(place), *words])


def test_the_command_exits_with_2_and_no_traceback(place: Path) -> None:
    decisions = table(place, f"nobody,keep,Ann,,{TIME}")
    command = [sys.executable, "-m", "cxrdist", "review", "apply", str(place), str(decisions)]
    done = subprocess.run(command, cwd=CLONE, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{decisions}: line 2: unknown key 'nobody'",
        f"error: {decisions}: 1 problem in its decisions, so nothing was changed: mend what is listed",
    ]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (TIME, TIME),
        ("2026-07-04 09:30+00:00", TIME),
        ("2026-07-04T00:30:00-09:00", TIME),
        ("2026-07-04T09:30:00.123456Z", "2026-07-04T09:30:00.123456Z"),
        ("0001-01-01T00:00:00+05:00", None),
        ("2026-07-04T09:30:00", None),
        ("2026-07-04", None),
        ("", None),
        (5, None),
    ],
)
def test_times(time: Any, expected: str | None) -> None:
    assert utc(time) == expected


# ---- a database

SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE decision(id INTEGER PRIMARY KEY, reader TEXT, task TEXT, key TEXT, origin TEXT, class TEXT, answer TEXT,
    reason TEXT, guessed_class TEXT, confidence INTEGER, seconds REAL, time TEXT, position INTEGER, undone_at TEXT);
"""
Row = tuple[str, str, str, str, Any, Any, str | None]


def row(key: str, answer: Any, reason: Any = None, *, reader: str = "Ann", task: str = "curate") -> Row:
    return reader, task, key, answer, reason, TIME, None


def database(place: Path, rows: Sequence[Row], digest: str | None = None) -> Path:
    """As ``review serve`` writes it, with its write-ahead log."""
    path = place.parent / "a review?#.sqlite"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as there:
        there.executescript(SCHEMA)
        there.execute("PRAGMA journal_mode = WAL")
        there.execute("INSERT INTO meta VALUES ('seed', '0')")
        if digest is not None:
            there.execute("INSERT INTO meta VALUES ('synthetic_digest', ?)", [digest])
        there.executemany(
            "INSERT INTO decision(reader, task, key, answer, reason, time, undone_at, origin, class) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, 'synthetic', 'Normal')",
            rows,
        )
    there.close()
    return path


def test_decisions_of_a_database(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of curation alone, and without those that were taken back."""
    old = read_manifest(place)
    rows = [
        row(N0, "remove", "grid"),
        ("Ann", "curate", N1, "remove", "slip", TIME, TIME),
        row(N1, "keep"),
        row(P0, "synthetic", task="blinded"),
        row(P1, "remove", None, reader="Ben"),
        row(P1, "keep"),
        row(P2, "unsure"),
    ]
    path = database(place, rows, old.digest)
    data = path.read_bytes()
    dispatch(["review", "apply", str(place), "--from", str(path)])
    assert removed_from(place) == {N0: ("grid", "Ann", TIME), P1: ("", "Ben", TIME)}
    assert capsys.readouterr().out.splitlines()[:3] == [
        "5 decisions of 2 reviewers",
        "  Normal: 1 removed (grid 1), 8 left",
        "  Pneumothorax: 1 removed (no reason given 1), 8 left",
    ]
    assert path.read_bytes() == data

    # The set has another digest now, and remembers that of the database.
    dispatch(["review", "apply", str(place), "--from", str(path)])
    assert "removed before, no change: 2 images" in capsys.readouterr().out


def test_a_database_that_is_being_written_is_read(place: Path) -> None:
    path = database(place, [row(N0, "remove")])
    with sqlite3.connect(path) as writer:
        writer.execute("UPDATE decision SET answer = 'keep'")
        dispatch(["review", "apply", str(place), "--from", str(path)])
    assert {*removed_from(place)} == {N0}
    writer.close()


def test_decisions_on_another_set_are_refused(place: Path) -> None:
    before = contents(place)
    path = database(place, [row(N0, "remove")], "7" * 64)
    digest = read_manifest(place).digest[:12]
    with pytest.raises(
        UserError, match=rf"decisions on another set \(777777777777\) than this one \({digest}\)"
    ):
        dispatch(["review", "apply", str(place), "--from", str(path)])
    assert contents(place) == before


def test_what_is_wrong_in_a_database_is_listed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(place)
    path = database(place, [row(N0, "remove"), row("nobody", "keep"), row(P1, "keep", "two\nlines")])
    with pytest.raises(UserError, match="2 problems in its decisions"):
        dispatch(["review", "apply", str(place), "--from", str(path)])
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: decision 2: unknown key 'nobody'",
        f"{path}: decision 3: reason is 'two\\nlines', not text without line breaks and control characters",
    ]
    # Values that no page writes: the store as a whole is refused.
    for wrong in (row(N1, "real"), row(P0, None), row(P1, "keep", b"\xff")):
        path = database(place, [wrong])
        with pytest.raises(UserError, match=r"review.*sqlite: decision 1: "):
            dispatch(["review", "apply", str(place), "--from", str(path)])
    assert contents(place) == before


def test_files_that_are_no_database_of_a_review(place: Path) -> None:
    path = place.parent / "review.sqlite"
    with pytest.raises(UserError, match=r"review\.sqlite: no such file"):
        dispatch(["review", "apply", str(place), "--from", str(path)])
    assert not path.exists()
    for data in (b"", b"key,decision\n" * 100):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"store of decisions|no table meta; name the store"):
            dispatch(["review", "apply", str(place), "--from", str(path)])
        assert path.read_bytes() == data


# ---- the command that fills it up again


@pytest.mark.parametrize(
    ("place", "options", "words"),
    [
        (
            "a/x-synthetic",
            {"mix": "DS3", "seed": 0, "encoding": "png"},
            "--shards a/x --mix DS3 --out a/x-synthetic",
        ),
        (
            "s3://b/made",
            {"mix": None, "images": {"Normal": 5, "Pleural Effusion": 7}, "seed": 3, "encoding": "npy"},
            "--shards SET --count 'Normal=5,Pleural Effusion=7' --encoding npy --seed 3 --out s3://b/made",
        ),
        ("a b-synthetic/", {}, "--shards 'a b' --out 'a b-synthetic'"),
        ("x-synthetic", {"classifiers": ["a" * 64] * 2}, "--shards x --out x-synthetic"),
        ("x-synthetic", {"classifiers": ["a" * 64]}, "--shards x --classifiers RUN --out x-synthetic"),
    ],
)
def test_the_command_is_that_of_the_set(
    tmp_path: Path, place: str, options: dict[str, Any], words: str
) -> None:
    manifest = write_synthetic(tmp_path)
    provenance = manifest.provenance.updated({"options": options})
    command = top_up_command(place, manifest.model_copy(update={"provenance": provenance}))
    assert command == f"accelerate launch launch/synthesize.py --gan runs/gan {words}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gates": "default"}, "--gan runs/gan --shards x"),
        ({"gates": "none"}, "--gan runs/gan --shards x --gates none"),
        ({"gates": "my own"}, "--gan runs/gan --shards x --gates 'my own.yaml'"),
        ({"generators": {"Normal": ["a" * 64, "b" * 64]}}, "--gan runs/gan,runs/gan-seed1 --shards x"),
        ({"training_data": "unknown"}, "--generator package.module:load --shards x"),
    ],
)
def test_the_command_has_the_gates_and_generators_of_the_set(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    manifest = write_synthetic(tmp_path)
    if gates := changes.get("gates"):
        changes = {"gates": {"name": gates, "classes": {}}}
    provenance = manifest.provenance.updated({"options": {}, **changes})
    command = top_up_command("x-synthetic", manifest.model_copy(update={"provenance": provenance}))
    assert command == f"accelerate launch launch/synthesize.py {words} --out x-synthetic"


def test_a_removed_image_is_not_shown(place: Path) -> None:
    dispatch(["review", "apply", str(place), str(table(place, f"{N0},remove,Ann,grid,{TIME}"))])
    for key, message in (
        (N0, rf"the image {N0} was removed by review \(grid\)"),
        ("x", "has no synthetic image x"),
    ):
        with pytest.raises(UserError, match=message):
            dispatch(["synth", "show", key, "--set", str(place)])


def test_samples_that_a_gate_removed_before_are_left_alone(place: Path) -> None:
    remove(place, {0: [0]})
    dispatch(["review", "apply", str(place), str(table(place, f"{N0},keep,Ann,,{TIME}"))])
    assert {*removed_from(place)} == {N0}
