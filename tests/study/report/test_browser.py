"""The page in Chromium: nothing is cut off or loaded from outside, at three widths, light and dark.

``CXRDIST_SCREENSHOTS=FOLDER`` keeps a picture of each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrdist.study.report.write import read_results, write_report
from cxrdist.synth.review.report.write import write_report as write_review_report
from tests.helpers.chromium import Browser, chromium
from tests.helpers.review_stores import blinded, curated, write_store
from tests.helpers.study_runs import write_run, write_study

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        chromium() is None, reason="no Chromium; `make test-browser` installs it where it may"
    ),
]

SIZES = {390: 844, 768: 1024, 1600: 1000}
"""Height of the window of each width, in CSS pixels: a telephone, a tablet, a desk."""
CLASSES = ("Cardiomegaly", "Normal", "Pleural Effusion", "Pulmonary Edema", "Pneumothorax")
ARMS = {
    "DS1": False,
    "DS2": False,
    "DS3": True,
    "class-weighted": False,
    "balanced": False,
    "augmented": False,
    "balanced-augmented": False,
    "duplicated-real": False,
    "DS3-augmented": True,
    "pretrained": True,
    **{f"synthetic-{ratio}": True for ratio in ("0.25", "0.5", "1", "2")},
}

READERS = ("Bo", "a-name-that-is-long-and-has-no-space-where-a-line-could-be-broken")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 14 arms, five classes, three folds and two seeds, whose images two readers have judged."""
    root = tmp_path_factory.mktemp("browser")
    write_study(root / "study", ARMS, folds=3, seeds=[0, 1])
    for number, (arm, synthetic) in enumerate(ARMS.items()):
        for run in range(6):
            fold, seed = divmod(run, 2)
            right = [(7 * number + 11 * k + 5 * run) % 20 + 18 for k in range(len(CLASSES))]
            folder = root / "study" / f"fold{fold}" / f"cls-{number}-seed{seed}"
            write_run(
                folder,
                arm,
                right,
                classes=CLASSES,
                val=0.6 + number / 100,
                fold=fold,
                folds=3,
                seed=seed,
                synthetic=synthetic,
            )
    rows = [blinded(name, f"s{n}", "synthetic", "real", 4) for name in READERS for n in range(9)]
    store = write_store(root / "review.sqlite", [*rows, *(curated(name, "c", "keep") for name in READERS)])
    write_review_report(store, root / "study" / "review", None)
    return write_report(read_results([root / "study"]), root / "report")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    command = chromium()
    assert command is not None
    with Browser(command) as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", SIZES)
def test_page_fits_and_loads_nothing(page: Path, browser: Browser, width: int, scheme: str) -> None:
    browser.open(page, width, SIZES[width], scheme)
    if folder := os.environ.get("CXRDIST_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.screenshot(Path(folder, f"report-{width}-{scheme}.png"))
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in browser.requested if not url.startswith("data:")] == [page.resolve().as_uri()]
    top, bottom = browser.evaluate(
        "(box => [box.top, box.bottom])(document.getElementById('answer').getBoundingClientRect())"
    )
    assert 0 <= top < bottom <= SIZES[width]
    assert browser.evaluate("document.getElementById('answer').innerText").startswith(("Yes", "No"))
    background = browser.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    shades = [int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (max(shades) < 64) if scheme == "dark" else (min(shades) > 192)


OUTSIDE = """
[...document.querySelectorAll('body *')].filter(each => {
  if (each.closest('.scroll, svg, details:not([open])') || !each.getClientRects().length) return false
  return each.getBoundingClientRect().right > innerWidth + 1
}).map(each => each.tagName + ': ' + each.textContent.slice(0, 60))
"""
CUT = """
[...document.querySelectorAll('svg.chart')].filter(each => each.getClientRects().length).flatMap(chart => {
  const frame = chart.getBoundingClientRect()
  return [...chart.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect()
    return box.left < frame.left - 2 || box.right > frame.right + 2
  }).map(text => text.textContent)
})
"""
SMALLEST = """
Math.min(...[...document.querySelectorAll('svg.chart')].filter(each => each.getClientRects().length).map(
  each => 7.5 * each.getBoundingClientRect().width / each.viewBox.baseVal.width))
"""


@pytest.mark.parametrize("width", SIZES)
def test_text_is_whole_and_large_enough(page: Path, browser: Browser, width: int) -> None:
    """Wide tables and charts scroll in a box of their own; what is outside of these boxes fits."""
    browser.open(page, width, SIZES[width], "light")
    assert browser.evaluate(OUTSIDE) == []
    assert browser.evaluate(CUT) == []
    assert browser.evaluate(SMALLEST) > 8.5  # CSS pixels of the smallest text in a chart


def test_one_form_of_the_forest_plot_is_shown(page: Path, browser: Browser) -> None:
    shown = {}
    for width, height in SIZES.items():
        browser.open(page, width, height, "light")
        shown[width] = browser.evaluate(
            "['.wide', '.narrow'].filter(form => document.querySelector(form).getClientRects().length)"
        )
    assert shown == {390: [".narrow"], 768: [".narrow"], 1600: [".wide"]}
