"""The pages of the repository: what they name exists, and what they draw is what the contracts say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.launching import CLONE

FOLDERS = ("benchmarks", "configs", "cxrdist", "docs", "launch", "shards", "tests")
PAGES = sorted(
    {*CLONE.glob("*.md"), *(page for folder in FOLDERS for page in (CLONE / folder).rglob("*.md"))}
)
ARCHITECTURE = CLONE / "docs" / "architecture.md"
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)

page_of_each = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CLONE)))


@page_of_each
def test_paths_of_modules_exist(page: Path) -> None:
    named = re.findall(r"\b(?:cxrdist|tests|launch|benchmarks)/[\w/]*\w\.py\b", page.read_text())
    assert [name for name in sorted({*named}) if not (CLONE / name).is_file()] == []


@page_of_each
def test_links_and_images_resolve(page: Path) -> None:
    text = FENCED.sub("", page.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [link for link in links if not _resolves(page, link)] == []


def _resolves(page: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return True
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in _anchors(target.read_text()))


def _anchors(text: str) -> set[str]:
    """The anchors of a page as GitHub makes them from its headings, and those it sets itself."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | {*re.findall(r'<a id="([^"]+)">', text)}


def test_every_path_of_the_architecture_page_exists() -> None:
    """In drawings, too, where paths are relative to the package or to its data."""
    text = ARCHITECTURE.read_text()
    places = [CLONE, CLONE / "cxrdist", CLONE / "cxrdist" / "data"]
    named = {*re.findall(r"(?<![\w/.>])[a-z_]+/[\w/]*\w\.py\b", text)}
    assert len(named) > 50
    assert [name for name in sorted(named) if not any((place / name).is_file() for place in places)] == []
    _assert_rows_exist(text.partition("## Where to change ...\n")[2], CLONE)


def test_the_tests_that_the_security_page_names_exist() -> None:
    _assert_rows_exist(
        (CLONE / "SECURITY.md").read_text().partition("### Where it is tested\n")[2], CLONE / "tests"
    )


def _assert_rows_exist(text: str, root: Path) -> None:
    """Every path in the rows of a table; a file name alone is one in the folder of the path before it."""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 5
    for row in rows:
        folder = root
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", row):
            path = root / name if "/" in name else folder / name
            assert path.exists(), (row, name)
            folder = path if path.is_dir() else path.parent


def test_the_rooms_of_the_architecture_page_exist() -> None:
    """Both tables of rooms: folders and files of the first column, and the modules listed for rooms of data."""
    _, rooms, of_data = re.split(r"^## .*[Rr]ooms.*$", ARCHITECTURE.read_text(), flags=re.MULTILINE)
    assert [
        name for name, _ in _rows(rooms) if not any((CLONE / top / name).exists() for top in (".", "cxrdist"))
    ] == []
    for name, row in _rows(of_data.partition("\n## ")[0]):
        place = CLONE / "cxrdist" / "data" / name
        assert place.exists(), name
        for module in re.findall(r"`([^`]+)`", row[2] if place.is_dir() else ""):
            assert (place / module).is_dir() or (place / f"{module}.py").is_file(), (name, module)


@pytest.mark.parametrize("room", ["imaging", "ingest", "loading", "mix", "shards", "storage", "tools"])
def test_every_module_of_a_room_of_data_is_listed(room: str) -> None:
    rows = dict(_rows(ARCHITECTURE.read_text().split("## The rooms of")[1]))
    listed = {*re.findall(r"`([a-z_]+)`", "".join(rows[f"{room}/"][1:]))}
    modules = {path.stem for path in (CLONE / "cxrdist" / "data" / room).glob("*.py")} - {"__init__"}
    assert modules - listed == set()


def _rows(text: str) -> list[tuple[str, list[str]]]:
    """The rows of all tables by each name in their first column, with their cells."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [(name, cells + [""] * 3) for cells in lines for name in re.findall(r"`([^`]+)`", cells[0])]


def _contracts(kind: str) -> list[dict[str, Any]]:
    contracts = tomllib.loads((CLONE / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [contract for contract in contracts if contract["type"] == kind]


def _page_of_contracts() -> str:
    return ARCHITECTURE.read_text().partition("\n## Import contracts\n")[2].partition("\n## ")[0]


def test_the_drawn_layers_are_the_contracts() -> None:
    drawn = [block.splitlines()[1:-1] for block in FENCED.findall(_page_of_contracts())]
    layers = [[line.partition("   ")[0] for line in lines] for lines in drawn]
    assert layers == [contract["layers"] for contract in _contracts("layers")]


def test_the_protected_rooms_are_the_contracts() -> None:
    """Each room that only some others may import, with these; a room may always import itself."""
    listed = {
        room: {*re.findall(r"`([a-z/]+)`", row[1])}
        for room, row in _rows(_page_of_contracts())
        if room.startswith("data/")
    }
    protected = {}
    for contract in _contracts("protected"):
        (room,) = contract["protected_modules"]
        protected[_path(room)] = {_path(name) for name in contract["allowed_importers"] if name != room}
    assert listed == protected


def _path(module: str) -> str:
    return module.removeprefix("cxrdist.").replace(".", "/")


def test_the_glossary_is_in_alphabetical_order() -> None:
    terms = re.findall(
        r"^(?:<a id=[^>]*></a>)?\*\*([^*]+)\*\*", (CLONE / "docs" / "glossary.md").read_text(), re.MULTILINE
    )
    words = [term.casefold().partition(" (")[0] for term in terms]
    assert len(words) > 40 and words == sorted(words)
