"""Sets with anything anywhere, all digests made to fit: no use of them ends in another way than one line."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cxrdist.cli.main import COMMANDS, dispatch
from cxrdist.data.shards.index import index_name
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers.forging import TAR, forge
from tests.helpers.removing import forge as forge_removed
from tests.helpers.removing import remove, removed_rows, write_synthetic
from tests.helpers.set_readers import OTHERS, READERS

pytestmark = pytest.mark.slow

TRIALS = 40
JUNK: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        3,
        2**31,
        2**53,
        2**64,
        -(2**70),
        10**400,
        0.5,
        1e308,
        "",
        "x",
        "../x",
        "/etc/x",
    ),
    *(
        "\x1b[2J",
        "\ud800",
        "a" * 5000,
        "[/x]",
        "0" * 64,
        [],
        {},
        [[]],
        {"": {}},
        [None],
        {"x": [1]},
        ["a", 1],
    ),
)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, item in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from nodes(item, (*path, key))


def with_junk(value: dict[str, Any], rng: random.Random) -> Any:
    """A deep copy with one or two of its values, or keys, replaced or gone."""
    changed = copy.deepcopy(value)
    for _ in range(rng.randrange(1, 3)):
        path = rng.choice([path for path in nodes(changed) if path])
        parent: Any = changed
        for key in path[:-1]:
            parent = parent[key]
        action = rng.random()
        if action < 0.15 and isinstance(parent, dict):
            del parent[path[-1]]
        elif action < 0.25 and isinstance(parent, dict):
            parent[str(rng.choice(JUNK))] = parent.pop(path[-1])
        else:
            parent[path[-1]] = copy.deepcopy(rng.choice(JUNK))
    return changed


def all_uses(place: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], object]]:
    for use in (*READERS, *OTHERS):
        yield lambda use=use: use(place)  # type: ignore[misc]
    yield lambda: verify(str(place))
    yield lambda: verify(str(place), quick=True)
    assert isinstance(COMMANDS["shards"], dict)
    for name in sorted({*COMMANDS["shards"]} - {"convert", "verify"}):
        yield lambda name=name: dispatch(["shards", name, str(place)])  # type: ignore[misc]
    capsys.readouterr().out.encode()  # what was printed is text


def check(place: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """How many of the uses raised; each of them a UserError."""
    raised = 0
    for use in all_uses(place, capsys):
        try:
            use()
        except UserError as error:
            raised += 1
            assert str(error).encode().isascii() or str(error).isprintable()
    return raised


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.mark.parametrize("part", ["manifest", "entry", "table"])
def test_json_with_anything_in_it(tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(part)
    refused = 0
    for trial in range(TRIALS):
        place = tmp_path / f"set {trial}"
        changed = {"manifest": with_format, "entry": with_junk, "table": with_junk}[part]
        forge(place, **{part: lambda told, changed=changed: changed(told, rng)})  # type: ignore[arg-type]
        refused += check(place, capsys) > 0
    assert refused > TRIALS / 3


def with_format(manifest: dict[str, Any], rng: random.Random) -> Any:
    """Junk in a manifest that is still taken for one."""
    return with_junk(manifest, rng) | {"format": manifest["format"]}


@pytest.mark.parametrize("name", [TAR, index_name(TAR)])
def test_tars_and_indexes_with_any_bytes(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(name)
    whole = (forge(tmp_path / "honest") / name).read_bytes()
    for trial in range(TRIALS):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(min(len(data), 3000))
            end = at + rng.choice([1, 1, 1, 2, 8, 100])
            data[at:end] = rng.choice(
                [rng.randbytes(end - at), b"\xff" * (end - at), bytes(end - at), b"", b"7" * 12]
            )
        place = tmp_path / f"set {trial}"
        forge(place, **{"tar" if name == TAR else "index": bytes(data)})  # type: ignore[arg-type]
        check(place, capsys)


def test_removed_samples_with_anything_in_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random("removed")
    refused = 0
    for trial in range(TRIALS):
        place = tmp_path / f"set {trial}"
        write_synthetic(place, origin="real")
        remove(place, {0: (1, 3)}, origin="real")
        forge_removed(place, with_junk({"rows": removed_rows(place)}, rng).get("rows"))
        refused += check(place, capsys) > 0
    assert refused > TRIALS / 3
