from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from cxrdist.cards.markdown import code, count, number, percent, text

HOSTILE = "a|b [x](http://y) <script>`c`</script> *d* _e_ # $f$ \\ &amp; ![g](h)"


def test_text_is_shown_as_it_is() -> None:
    rendered = MarkdownIt("commonmark").enable("table").render(f"| a |\n|---|\n| {text(HOSTILE)} |\n")
    cell = rendered.partition("<td>")[2].partition("</td>")[0]
    escaped = HOSTILE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert cell == escaped


def test_text_stays_on_its_line_and_holds_no_control_characters() -> None:
    assert text(" a\n# b\x1b[31m ") == "a \\# b\\\\x1b\\[31m"


def test_a_digest_is_code_and_other_text_cannot_leave_it() -> None:
    assert code("0f3a") == "`0f3a`"
    assert code("0f`<b>") == "0f\\`\\<b\\>"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (1234.6, "1,235"), (0.5, "0.5"), ([1.25, 2], "1.25 to 2"), ("a_b", "a\\_b")],
)
def test_numbers(value: object, shown: str) -> None:
    assert number(value) == shown


def test_counts_and_percentages() -> None:
    assert (count(None), count(12000)) == ("–", "12,000")
    assert (percent(None), percent(0.0125), percent(1)) == ("–", "1.2 %", "100.0 %")
