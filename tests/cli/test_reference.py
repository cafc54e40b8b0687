"""docs/cli.md is what the commands' options say."""

from __future__ import annotations

import runpy

from tests.helpers.launching import CLONE


def test_the_page_of_all_options_is_up_to_date() -> None:
    page = runpy.run_path(str(CLONE / "docs" / "cli_reference.py"))["page"]()
    assert (CLONE / "docs" / "cli.md").read_text(encoding="utf-8") == page, "run python docs/cli_reference.py"
    assert page.count("\n## ") == 9 + 7 + 2 + 3 + 6 + 6 + 1 + 4
