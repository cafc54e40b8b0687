"""The typed manifest and its tables: what is refused at writing and reading, canonical JSON, many rows, problems."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.in_place import index_in_place
from cxrdist.data.shards.index import ShardRow, index_name, parse_table, read_table, write_table
from cxrdist.data.shards.manifest import (
    Gates,
    Lineage,
    Provenance,
    checked_provenance,
    digest_of,
    read_manifest,
)
from cxrdist.data.shards.schema import MANIFEST, REMEDY, Kind, Problem, ShardSetError
from cxrdist.data.storage.errors import UnreadableFile
from cxrdist.data.storage.store import LocalStore
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from cxrdist.files import canonical_json
from tests.helpers.forging import STRATUM, TAR, forge
from tests.helpers.in_place import importer, options
from tests.helpers.shard_sets import write_set

INDEX = index_name(TAR)
DIGEST = "0" * 64
ROWS = 100_000


def row(number: int, **changes: Any) -> ShardRow:
    of_row = ShardRow(f"train-normal-real-{number:06d}.tar", 10_240, DIGEST, DIGEST, 3)
    return of_row._replace(**changes)


# ---- writing


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"classes": ["Normal", "Normal"]}, "classes: a class occurs twice"),
        ({"classes": ["Mass"]}, "strata: 'Normal' is no class of the set"),
        ({"classes": []}, "classes is []: List should have at least 1 item after validation, not 0"),
        ({"image_size": 0}, "image_size is 0: Input should be greater than or equal to 1"),
        ({"image_size": 16.0}, "image_size is 16.0: Input should be a valid integer"),
        (
            {"encoding": "pkl"},
            "encoding is 'pkl': expected one of png, jpg, npy, foreign-pad, foreign-crop",
        ),
        ({"provenance": {"options": {"note\x07": 1}}}, "it holds control characters"),
    ],
)
def test_a_manifest_that_readers_refuse_is_not_written(
    tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    store = LocalStore(tmp_path)
    parts = {"classes": ["Normal"], "image_size": 16, "encoding": "png"} | changes
    with pytest.raises(UserError) as caught:
        write_set(store, strata=[write_table(store, STRATUM, [row(0)])], **parts)  # type: ignore[arg-type]
    assert str(caught.value) == f"{tmp_path / MANIFEST}: not written, since {what}"
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([row(0), row(1, name="../x.tar")], "shards[1].name is '../x.tar'"),
        ([row(0, samples=-1)], "shards[0].samples is -1"),
        ([row(0, samples=6)], "shards[0]: 6 samples do not fit into 10240 bytes"),
        ([row(0), row(0)], "shards: a name occurs twice"),
        ([row(0, metadata=[{}])], "shards[0].told is not a list of its 3 samples"),
    ],
)
def test_a_table_that_readers_refuse_is_not_written(tmp_path: Path, rows: list[ShardRow], what: str) -> None:
    with pytest.raises(UserError) as caught:
        write_table(LocalStore(tmp_path), STRATUM, rows)
    assert str(caught.value) == f"{tmp_path}: the table of train-normal-real is not written, since {what}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("provenance", "what"),
    [
        ({"reviewer": "x"}, "reviewer: unknown field"),
        (
            {"gates": {"name": "none", "classes": {"Normal": {"admitted": 1, "tried": -1}}}},
            "gates.classes.Normal.tried is -1: Input should be greater than or equal to 0",
        ),
        (
            {"gates": {"name": "none", "classes": {"Normal": {"admitted": 1}}}},
            "gates.classes.Normal.tried is missing",
        ),
        ({"undecodable": True}, "undecodable is True: Input should be a valid integer"),
        ({"records_sha256": "x"}, "records_sha256 is 'x': String should match pattern '^[0-9a-f]{64}$'"),
    ],
)
def test_provenance_that_readers_refuse_is_named(provenance: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError) as caught:
        checked_provenance(provenance, "phantom")
    assert str(caught.value) == f"phantom: {what}"


# ---- canonical JSON


@pytest.mark.parametrize("value", [None, 0, 1, True, 0.2, 1.0, "x", "", ["a", "b"], [], {"a": 1}, {}])
def test_options_keep_their_type(value: Any) -> None:
    given = {"options": {"o": value}}
    assert canonical_json(Provenance.model_validate(given).json_value()) == canonical_json(given)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1], ["a", None], {"a": True}, {"a": {}}])
def test_no_other_option_is_taken(value: Any) -> None:
    with pytest.raises(ValueError, match="expected text, a number, true, false, null"):
        Provenance.model_validate({"options": {"o": value}})


def test_figures_of_gates_keep_whole_numbers() -> None:
    given = {"gates": {"name": "default", "percent": {"copy": 1, "label": 0.5}, "classes": {}}}
    assert canonical_json(Provenance.model_validate(given).json_value()) == canonical_json(given)
    for wrong in (True, "1", None, float("nan")):
        with pytest.raises(ValueError, match="expected a finite number"):
            Gates.model_validate({"name": "default", "percent": {"copy": wrong}, "classes": {}})


def test_a_class_has_one_generator_or_several() -> None:
    for digests in ("a" * 64, ["a" * 64, "b" * 64]):
        given = {"generators": {"Normal": digests}}
        assert canonical_json(Provenance.model_validate(given).json_value()) == canonical_json(given)
    for wrong in ("a", [], ["a" * 64, 1], None):
        with pytest.raises(ValueError, match="expected a SHA-256, or a list of them"):
            Provenance.model_validate({"generators": {"Normal": wrong}})


def test_fields_that_are_null_stay_and_those_not_given_are_absent() -> None:
    assert Provenance(near_duplicates=None).json_value() == {"near_duplicates": None}
    assert Lineage(kind="real").json_value() == {"kind": "real"}


@pytest.mark.usefixtures("inline")
def test_the_manifest_of_external_tars_is_canonical(tars: Path) -> None:
    source: WebDataset = importer(tars, in_place=True)
    manifest = index_in_place(source, options())
    data = (tars / MANIFEST).read_bytes()
    assert canonical_json(manifest.json_value()) == canonical_json(read_manifest(tars).json_value()) == data
    assert manifest.digest == digest_of(json.loads(data))
    for entry in manifest.strata:
        table = read_table(LocalStore(tars), entry)
        value = {"stratum": entry.stratum.stem, "shards": [of_row.json_value() for of_row in table]}
        assert canonical_json(value) == (tars / entry.table).read_bytes()


# ---- size and depth


def test_a_table_of_many_rows() -> None:
    """Checked as arrays: as models, 10^6 rows would take minutes."""
    rows = [row(number, samples=1 + number % 3) for number in range(ROWS)]
    table = parse_table(json.loads(canonical_json({"shards": [of_row.json_value() for of_row in rows]})))
    assert len(table) == ROWS and table.bytes.shape == table.samples.shape == (ROWS,)
    assert int(table.samples.sum()) == sum(of_row.samples for of_row in rows)
    assert table[0] == rows[0] and table[ROWS - 1] == rows[-1]
    values = [of_row.json_value() for of_row in rows]
    values[-1]["sha256"] = None
    with pytest.raises(ValueError, match=r"^shards\[99999\]\.sha256 is None$"):
        parse_table({"shards": values})


@pytest.mark.slow
@pytest.mark.parametrize("kind", [list, dict])
def test_any_depth_ends_in_one_line(tmp_path: Path, kind: type) -> None:
    """Around the depth at which Python's own recursion ends, wherever it ends."""
    place = forge(tmp_path)
    value = json.loads((place / MANIFEST).read_bytes())
    tried = 0
    for depth in (10, 300, *range(930, 1000, 5)):
        deep: Any = kind()
        for _ in range(depth):
            deep = [deep] if kind is list else {"a": deep}
        forged = value | {"provenance": {"options": {"o": deep}}}
        try:
            forged["digest"] = digest_of(forged)
            (place / MANIFEST).write_bytes(canonical_json(forged))
        except RecursionError:
            break
        tried += 1
        with pytest.raises(ShardSetError):
            read_manifest(place)
        (problem,) = verify(str(place))
        assert (problem.kind in ("format", "value"), problem.file) == (True, MANIFEST)
    assert tried > 4


# ---- problems


def damaged(change: Callable[[bytes], bytes], name: str) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        (path,) = place.glob(name)
        path.write_bytes(change(path.read_bytes()))

    return damage


def removed(name: str) -> Callable[[Path], None]:
    return lambda place: next(place.glob(name)).unlink()


def as_folder(name: str) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        (place / name).unlink()
        (place / name).mkdir()

    return damage


TABLE = "train-normal-real.*.json"


@pytest.mark.parametrize(
    ("damage", "found", "quick"),
    [
        (removed(TAR), [("missing", TAR)], [("missing", TAR)]),
        (removed(INDEX), [("missing", INDEX)], [("missing", INDEX)]),
        (removed(TABLE), [("missing", TABLE)], [("missing", TABLE)]),
        (damaged(lambda data: data + b"\0" * 512, TAR), [("size", TAR)], [("size", TAR)]),
        (
            damaged(lambda data: data.replace(b"IDAT", b"IDAX", 1), TAR),
            [("changed", TAR), ("image", TAR), ("changed", INDEX), ("image", TAR)],
            [],
        ),
        (
            # With the checksum of the header that it had, and with another.
            damaged(lambda data: data.replace(b"a.cls", b"a.exe", 1), TAR),
            [("changed", TAR), ("member", TAR)],
            [],
        ),
        (
            damaged(lambda data: data.replace(b"a.cls", b"a.pyd", 1), TAR),
            [("changed", TAR), ("format", TAR)],
            [],
        ),
        (damaged(lambda data: data[:-1] + b"x", INDEX), [("changed", INDEX)], []),
        (damaged(lambda data: data + b" ", TABLE), [("changed", TABLE)], [("changed", TABLE)]),
        (damaged(lambda data: data + b" ", MANIFEST), [("changed", MANIFEST)], [("changed", MANIFEST)]),
        (damaged(lambda data: b"{", MANIFEST), [("format", MANIFEST)], [("format", MANIFEST)]),
        (as_folder(TAR), [("unreadable", TAR)], None),
        (as_folder(INDEX), [("unreadable", INDEX)], None),
        (as_folder(MANIFEST), [("unreadable", MANIFEST)], [("unreadable", MANIFEST)]),
        (lambda place: (place / "x").touch(), [("unlisted", "x")], [("unlisted", "x")]),
    ],
)
def test_each_kind_of_damage_is_a_problem_of_its_kind(
    tmp_path: Path,
    damage: Callable[[Path], None],
    found: list[tuple[Kind, str]],
    quick: list[tuple[Kind, str]] | None,
) -> None:
    place = forge(tmp_path)
    (table,) = (path.name for path in place.glob(TABLE))
    damage(place)

    def named(expected: list[tuple[Kind, str]]) -> list[tuple[str, str]]:
        return [(kind, table if name == TABLE else name) for kind, name in expected]

    assert [(problem.kind, problem.file) for problem in verify(str(place))] == named(found)
    if quick is not None:
        assert [(p.kind, p.file) for p in verify(str(place), quick=True)] == named(quick)


def test_verify_lists_all_damage_of_a_set(tiny_set: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(tiny_set, tmp_path / "copy"))
    removed("train-normal-real.*.json")(place)
    as_folder("train-pneumothorax-real-000000.tar")(place)
    removed("val-normal-real-000000.tar")(place)
    damaged(lambda data: data[:-1] + b"x", "test-normal-real-000000.index.npy")(place)
    (place / "x.tar").touch()
    found = [(p.kind, p.file) for p in verify(str(place))]
    (table,) = (
        entry.table for entry in read_manifest(place).strata if entry.stratum.stem == "train-normal-real"
    )
    assert found == [
        ("missing", table),
        ("unreadable", "train-pneumothorax-real-000000.tar"),
        ("missing", "val-normal-real-000000.tar"),
        ("changed", "test-normal-real-000000.index.npy"),
        ("unlisted", "x.tar"),
    ]


def test_a_problem_and_its_line() -> None:
    assert str(Problem("missing", TAR, "missing")) == f"{TAR}: missing"
    assert str(Problem("key", "", "key a occurs 2 times")) == "key a occurs 2 times"
    assert (
        str(Problem("value", MANIFEST, "a\x1b[2J: unknown field")) == f"{MANIFEST}: a\\x1b[2J: unknown field"
    )
    error = ShardSetError("set", Problem("missing", TAR, "missing"), REMEDY)
    assert str(error) == f"set/{TAR}: missing; {REMEDY}"


@pytest.mark.parametrize(
    "error",
    [
        UserError("wrong"),
        ShardSetError("set", Problem("missing", TAR, "missing"), REMEDY),
        UnreadableFile("set", TAR, "not a file"),
    ],
)
def test_errors_come_back_from_a_worker_process(error: UserError) -> None:
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is type(error) and str(there) == str(error)
    assert vars(there) == vars(error)


def test_a_manifest_is_a_value(tiny_set: Path) -> None:
    manifest = read_manifest(tiny_set)
    assert manifest.json_value()["strata"][0]["class"] == manifest.strata[0].class_name
    with pytest.raises(ValueError, match="frozen"):
        manifest.strata[0].samples = 2
