"""The section on readers in the report of a study, from the file of ``cxrdist review report``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrdist.errors import UserError
from cxrdist.study.online_report import sections_of
from cxrdist.study.report.page.readers import readers_section
from cxrdist.study.report.reading.readers import read_readers
from cxrdist.study.report.reading.search import collect
from cxrdist.study.report.write import read_results, write_report
from cxrdist.synth.review.report.write import write_report as write_review_report
from tests.helpers.review_stores import blinded, curated, write_store
from tests.helpers.study_runs import SYNTHETIC, write_run, write_study

EVIL = "<img src=x onerror=alert(1)> | ![x](http://e/x.png)"
ROWS = [
    *(blinded(EVIL, f"s{n}", "synthetic", "synthetic" if n < 3 else "real", 4) for n in range(4)),
    *(blinded(EVIL, f"r{n}", "real", "real", 5, seconds=9) for n in range(2)),
    blinded("Bo", "s0", "synthetic", "real", 1),
    *(curated("Bo", f"c{n}", "remove" if n < 1 else "keep", seconds=3.25) for n in range(4)),
]


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    folder = tmp_path / "demo"
    write_study(folder, {"DS1": False, "DS3": True})
    write_run(folder / "cls-ds1-0", "DS1", (20, 20))
    write_run(folder / "cls-ds3-0", "DS3", (30, 30), synthetic=True)
    store = write_store(tmp_path / "review.sqlite", ROWS, synthetic_digest=SYNTHETIC * 64)
    write_review_report(store, folder / "review", None)
    return folder


def edit(demo: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = demo / "review" / "report.json"
    found = json.loads(path.read_bytes())
    change(found)
    path.write_text(json.dumps(found))


def test_texts_of_the_section(demo: Path) -> None:
    section = readers_section(collect([demo]))
    assert section is not None
    evil, bo = section["rows"]
    assert (evil["name"], evil["blinded"], evil["curated"], evil["always"]) == (EVIL, "6", "–", "66.7")
    assert evil["shares"] == [
        {"share": "83.3", "rest": "43.6 to 97.0"},
        {"share": "75.0", "rest": "30.1 to 95.4"},
        {"share": "100.0", "rest": "34.2 to 100.0"},
    ]
    assert (evil["removed"], evil["seconds"]) == ({"share": "–", "rest": ""}, "2.0 / –")
    assert bo["shares"][2] == {"share": "–", "rest": "no real images"}
    assert (bo["curated"], bo["removed"]) == ("4", {"share": "25.0", "rest": "4.6 to 69.9"})
    assert bo["seconds"] == "2.0 / 3.2"
    assert section["agreement"] == (
        "Fleiss’ kappa over the images that all readers of a task read; real or synthetic: −1.00 (1 image; no "
        "interval: all resamples have the same value); keep, remove or unsure: – (one reader only)."
    )
    assert section["note"] is None


def test_page_and_markdown_show_what_readers_typed_and_nothing_runs(demo: Path, tmp_path: Path) -> None:
    page = write_report(read_results([demo]), tmp_path / "out")
    html, text = page.read_text(), (tmp_path / "out" / "report.md").read_text()
    assert "What readers said of the synthetic images" in html
    assert "&lt;img src=x onerror=alert(1)&gt; | ![x](http://e/x.png)" in html and "<img src=x" not in html
    assert html.count('<a href="readers.json">readers.json</a>') == 1
    assert (tmp_path / "out" / "readers.json").read_bytes() == (demo / "review" / "report.json").read_bytes()
    assert (tmp_path / "out" / "figures" / "readers.png").is_file() and 'id="readers-' in html
    name = r"&lt;img src=x onerror=alert(1)&gt; \| \!\[x\](http://e/x.png)"
    row = (
        f"| {name} | 6 | 83.3 (43.6 to 97.0) | 75.0 (30.1 to 95.4) | 100.0 (34.2 to 100.0) | 66.7 | – | – | "
        "2.0 / – |"
    )
    assert row in text.splitlines()
    assert "| Bo | 1 | 0.0 (0.0 to 79.3) | 0.0 (0.0 to 79.3) | – (no real images) | 100.0 | 4 |" in text
    assert "[readers.json](readers.json)" in text
    assert "Gates are computed. Readers judged images of the set" in html and "no review by" not in html
    part = text.partition("## Readers\n")[2].partition("\n## ")[0]
    assert "No clinical claim follows." in part and not re.search(r"\bnan\b|None", part)


def test_no_reader_is_named_online(demo: Path, tmp_path: Path) -> None:
    write_report(read_results([demo]), tmp_path / "out")
    sections = sections_of((tmp_path / "out" / "report.md").read_text())
    assert len(sections) > 2 and "All arms on test" in "".join(sections)
    assert not any("real called real" in part or "| Bo |" in part or "onerror" in part for part in sections)


def test_readers_of_another_set_are_said_to_be(demo: Path) -> None:
    edit(demo, lambda found: found["store"].update(synthetic_digest="c" * 64))
    section = readers_section(collect([demo]))
    assert section is not None
    note = (
        "The readers saw another synthetic set (cccccccccccc); those of this study are bbbbbbbbbbbb. If theirs "
        "became it by a review, give cxrdist review report its --set."
    )
    assert section["note"] == note
    html = write_report(read_results([demo]), demo.parent / "out").read_text()
    assert (
        f"<strong>Another set</strong><p>{note}</p>" in html
        and "no review by radiologists is recorded" in html
    )


def test_a_set_that_a_review_changed_is_that_of_the_readers(demo: Path) -> None:
    """They saw c; images were removed, which made it b, and it was filled up, which made it d."""
    digests = [letter * 64 for letter in ("d", SYNTHETIC, "c")]
    edit(demo, lambda found: found["store"].update(synthetic_digest="c" * 64))
    edit(demo, lambda found: found.update(set_digests=digests))
    section = readers_section(collect([demo]))
    assert section is not None and section["note"] is None
    edit(demo, lambda found: found.update(set_digests=[digests[0], digests[2]]))
    section = readers_section(collect([demo]))
    assert section is not None and section["note"].endswith("those of this study are bbbbbbbbbbbb.")


def test_a_study_that_no_one_has_read_has_no_section(demo: Path, tmp_path: Path) -> None:
    (demo / "review" / "report.json").unlink()
    page = write_report(read_results([demo]), tmp_path / "out")
    assert "What readers said" not in page.read_text() and not (tmp_path / "out" / "readers.json").exists()
    assert "## Readers" not in (tmp_path / "out" / "report.md").read_text()
    assert read_readers(demo) is None


def test_curation_alone_has_no_chart(demo: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path / "c.sqlite", ROWS[-4:], synthetic_digest=SYNTHETIC * 64)
    write_review_report(store, demo / "review", None)
    page = write_report(read_results([demo]), tmp_path / "out")
    assert "What readers said" in page.read_text() and 'id="readers-' not in page.read_text()
    assert not (tmp_path / "out" / "figures" / "readers.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.update(format="x/1"), r"format: Input should be 'cxrdist-review-report/1'"),
        (lambda found: found.pop("agreement"), r"agreement: Field required"),
        (
            lambda found: found["readers"][0]["blinded"]["right"].update(value=7),
            r"readers\.0\.blinded\.right\.value: Input should be less than or equal to 1",
        ),
        (
            lambda found: found["readers"][0].update(name=3),
            r"readers\.0\.name: Input should be a valid string",
        ),
    ],
)
def test_a_file_that_is_no_report_is_refused(
    demo: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(demo, change)
    with pytest.raises(UserError, match=rf"demo/review/report\.json: {message}; write it again with"):
        readers_section(collect([demo]))


def test_a_file_that_is_no_json_is_refused(demo: Path) -> None:
    (demo / "review" / "report.json").write_text("{")
    with pytest.raises(UserError, match=r"review/report\.json: the file: Invalid JSON"):
        readers_section(collect([demo]))
