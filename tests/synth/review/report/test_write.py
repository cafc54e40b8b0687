"""The files of the report, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from cxrdist.cli.main import dispatch
from cxrdist.process import main as process_main
from tests.helpers.commands import Capture
from tests.helpers.review_stores import Row, blinded, change, curated, write_store
from tests.synth.review.report.test_findings import ANN, BO, CY, UNDONE
from tests.synth.review.report.test_gates import SCORES, synthetic_set

EVIL = "<script>alert(1)</script> | ![x](http://e/x.png) `a` *b*\n\x1b[31m"
EVIL_TEXT = r"&lt;script&gt;alert(1)&lt;/script&gt; \| \!\[x\](http://e/x.png) \`a\` \*b\* \\x1b\[31m"


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        process_main(lambda: dispatch(["review", "report", *map(str, words)]))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def table(text: str, heading: str) -> list[str]:
    """The rows of the first table below a heading, without its head."""
    lines = text.partition(f"{heading}\n")[2].splitlines()
    rows = re.search(r"((?:^\|.*\n)+)", "\n".join(lines) + "\n", re.MULTILINE)
    assert rows is not None
    return rows[1].splitlines()[2:]


def test_the_command_writes_all_files_and_says_what_it_did(tmp_path: Path, capsys: Capture) -> None:
    shards = synthetic_set(tmp_path / "set", SCORES)
    store = write_store(tmp_path / "r.sqlite", [*ANN, *BO, *CY], UNDONE, synthetic_digest=shards.digest)
    out = tmp_path / "out"
    assert run(store, "--set", tmp_path / "set", "--out", out) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Ann: 5 curated, 6 real or synthetic",
        "Bo: 0 curated, 3 real or synthetic",
        "Cy: 1 curated, 0 real or synthetic",
        "Di: 0 curated, 0 real or synthetic",
        "not counted: 3 taken back",
        f"report: {out}/report.md",
    ]
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["figures/accuracy.png", "figures/calibration.png", "report.json", "report.md"]
    for path in (out / "figures").iterdir():
        with Image.open(path) as image:
            assert image.format == "PNG" and image.width > 600
    content = {path: (out / path).read_bytes() for path in files}
    assert run(store, "--set", tmp_path / "set", "--out", out) == 0
    assert {path: (out / path).read_bytes() for path in files} == content


def test_tables_of_the_markdown(tmp_path: Path) -> None:
    shards = synthetic_set(tmp_path / "set", SCORES)
    store = write_store(tmp_path / "r.sqlite", [*ANN, *BO, *CY], UNDONE, synthetic_digest=shards.digest)
    assert run(store, "--set", tmp_path / "set", "--out", tmp_path / "out") == 0
    text = (tmp_path / "out" / "report.md").read_text().replace("\u00a0to\u00a0", " to ")
    assert table(text, "## Readers") == [
        "| Ann | 5 | 2.0 (2.0 to 2.0) | 6 | 3.0 (2.0 to 4.0) | 2 |",
        "| Bo | 0 | – | 3 | 2.0 (2.0 to 2.0) | 0 |",
        "| Cy | 1 | 2.0 (2.0 to 2.0) | 0 | – | 0 |",
        "| Di | 0 | – | 0 | – | 1 |",
    ]
    assert table(text, "## Real or synthetic?") == [
        "| Ann | 4/6, 66.7 (30.0 to 90.3) | 3/4, 75.0 (30.1 to 95.4) | 1/2, 50.0 (9.5 to 90.5) | 66.7 |",
        "| Bo | 1/3, 33.3 (6.1 to 79.2) | 1/3, 33.3 (6.1 to 79.2) | – (no real images) | 100.0 |",
    ]
    assert table(text, "### Which class?") == [
        "| synthetic | Edema | 1 | 0 |",
        "| synthetic | Normal | 1 | 1 |",
        "| real | Edema | 0 | 1 |",
        "| real | Normal | 0 | 1 |",
    ]
    assert table(text, "### Reasons") == [
        "| Ann | blurred | 2 | 0 |",
        "|  | anatomy | 1 | 0 |",
        "|  | no reason given | 0 | 1 |",
    ]
    agreement = table(text, "## Agreement")
    assert agreement[0].endswith("| – (all answers are the same) |")
    assert agreement[2].startswith("| real or synthetic | Ann, Bo | 3 | 2/3, 66.7 (20.8 to 93.9) | 0.40 (")
    assert table(text, "## Readers and gates")[0] == "| brightness | Ann | 1 | 2 | 1.00 (0.28 to 1.00) |"
    assert "decisions that a reader has undone (3 in all), which no other number counts" in text
    assert "real set `aaaaaaaaaaaa`, split val." in text
    assert "2026-03-01 10:00 to 2026-03-02 08:30 (UTC)" in text
    assert "no clinical claim is made" in text and "\n\n\n" not in text
    assert text.endswith("no reader has seen. Curated images without scores: 1.\n")
    assert not re.search(r"\b(nan|None|inf)\b", text)
    for block in re.split(r"\n\n+", text):
        if block.startswith("|"):
            head, dashes, *rows = block.splitlines()
            assert re.fullmatch(r"(\|:?-+:?)+\|", dashes), head
            assert {line.replace(r"\|", "").count("|") for line in (head, dashes, *rows)} == {
                dashes.count("|")
            }


def test_what_readers_type_is_shown_and_never_markup(tmp_path: Path, capsys: Capture) -> None:
    rows = [
        curated(EVIL, "s1", "remove", EVIL, reason=EVIL),
        curated("Bo", "s1", "keep", EVIL),
        blinded(EVIL, "s2", "synthetic", "real", 3, class_name=EVIL, guessed_class=EVIL),
    ]
    store = write_store(tmp_path / "r.sqlite", rows)
    assert run(store, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and len(printed.splitlines()) == 3
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.count(EVIL_TEXT) == 14
    rest = text.replace(EVIL_TEXT, "")
    assert "alert" not in rest and "http" not in rest and "\x1b" not in text
    assert json.loads((tmp_path / "out" / "report.json").read_bytes())["readers"][0]["name"] == EVIL


@pytest.mark.parametrize("rows", [CY, BO[:1]], ids=["curation alone", "one answer alone"])
def test_a_task_without_decisions_has_no_part(tmp_path: Path, rows: list[Row]) -> None:
    store = change(write_store(tmp_path / "r.sqlite", rows), "DELETE FROM meta")
    assert run(store, "--out", tmp_path / "out") == 0
    text = (tmp_path / "out" / "report.md").read_text()
    is_blinded = rows[0].task == "blinded"
    assert ("## Real or synthetic?" in text, "## Curation" in text) == (is_blinded, not is_blinded)
    assert (tmp_path / "out" / "figures").is_dir() == is_blinded
    assert "all 1 (Fleiss)" in text and "– (one reader only)" in text and "## Readers and gates" not in text
    assert "no reader" not in text and "Synthetic set `–`, real set `–`.\n" in text


def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path, capsys: Capture) -> None:
    out, store = tmp_path / "out", write_store(tmp_path / "r.sqlite", CY)
    for words, message in (
        ((tmp_path / "none.sqlite",), "none.sqlite: no such file; name the store"),
        ((store, "--set", tmp_path / "none"), "none: no such shard set"),
        ((store, "--sett", "x"), "--sett: no such option; did you mean '--set'?"),
    ):
        assert run(*words, "--out", out) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
        assert not out.exists()
    (tmp_path / "file").write_text("")
    assert run(store, "--out", tmp_path / "file") == 2
    assert capsys.readouterr().err.count("\n") == 1
