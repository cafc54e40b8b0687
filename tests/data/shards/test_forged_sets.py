"""Sets from a third party, whose digests all fit: every use of them ends in one line, and takes no memory or time."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrdist.data.imaging.errors import UndecodableImage
from cxrdist.data.imaging.radiograph import decode, grey_of
from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.index import INDEX_DTYPE, index_name
from cxrdist.data.shards.manifest import read_manifest
from cxrdist.data.shards.schema import MANIFEST, Kind, Problem
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.writing.write_job import JOB_FILE
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from cxrdist.files import canonical_json
from tests.helpers.forging import (
    TAR,
    forge,
    index_of_rows,
    npy,
    npy_header,
    rows,
    sample_members,
    special,
    tar_of,
    with_size,
)
from tests.helpers.set_readers import OTHERS, READERS, mix, read_pixels, read_whole, stream

INDEX = index_name(TAR)
STRANGE = "; its digest matches, so another program wrote it: do not use this set"


def check(
    place: Path, kind: Kind, message: str, readers: tuple[Callable[[Path], None], ...] = READERS
) -> None:
    """These readers raise, the others do that or nothing, and verify lists it."""
    for use in readers:
        with pytest.raises(UserError, match=message):
            use(place)
    for use in {*READERS, *OTHERS} - {*readers}:
        try:
            use(place)
        except UserError as error:
            assert re.search(message, str(error))
    found = verify(str(place))
    assert any(re.search(message, str(problem)) for problem in found if problem.kind == kind), found
    verify(str(place), quick=True)


def check_manifest(place: Path, what: str) -> None:
    """Every use of the set raises ``what`` is wrong with its manifest, in one line, and verify lists only that."""
    problem = Problem("value", MANIFEST, what)
    for use in (*READERS, *OTHERS):
        with pytest.raises(UserError) as caught:
            use(place)
        assert str(caught.value) == f"{place}/{problem}{STRANGE}" and str(caught.value).isprintable()
    assert verify(str(place)) == verify(str(place), quick=True) == [problem]


def test_what_is_changed_here_is_else_a_right_set(tmp_path: Path) -> None:
    place = forge(tmp_path)
    for use in (*READERS, *OTHERS):
        use(place)
    assert verify(str(place)) == verify(str(place), quick=True) == []


# ---- manifest


def nested(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


NAME = "expected the name of a file in the set"
BELOW = "Input should be less than or equal to 9007199254740992"
WHOLE = "Input should be a valid integer"
NOT_BELOW_0 = "Input should be greater than or equal to 0"
NOT_UNLABELLED = "strata: unlabelled images must be real and in the train split"
TEXT = "expected text without control characters"
AN_ENCODING = "expected one of png, jpg, npy, foreign-pad, foreign-crop"
AN_OPTION = "expected text, a number, true, false, null, a list of texts or a mapping to integers"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"strata": None}, "strata is None: Input should be a valid list"),
        ({"strata": "x"}, "strata is 'x': Input should be a valid list"),
        ({"strata": [7]}, "strata[0] is 7: expected a mapping"),
        ({"strata": [{}]}, "strata[0].split is missing"),
        ({"classes": []}, "classes is []: List should have at least 1 item after validation, not 0"),
        ({"classes": ["Normal", "Normal"]}, "classes: a class occurs twice"),
        ({"classes": ["Normal", 3]}, "classes[1] is 3: Input should be a valid string"),
        ({"classes": ["Other"]}, "strata: 'Normal' is no class of the set"),
        ({"classes": ["Normal", "Unlabelled"]}, "classes: 'Unlabelled' is a reserved name"),
        (
            {"provenance": {"unlabelled": {"candidates": -1}}},
            f"provenance.unlabelled.candidates is -1: {NOT_BELOW_0}",
        ),
        (
            {"classes": ["Normal", "\x1b]0;owned\x07"]},
            f"classes[1] is '\\x1b]0;owned\\x07': {TEXT}",
        ),
        (
            {"classes": ["Normal", "\ud800"]},
            f"classes[1] is '\\ud800': {TEXT}",
        ),
        (
            {"classes": ["Normal", *map(str, range(2**16))]},
            "classes is ['Normal', '0', '1', '2', '3', '4', ...]: List should have at most 65535 items after "
            "validation, not 65537",
        ),
        ({"image_size": 10**9}, "image_size is 1000000000: Input should be less than or equal to 10000"),
        ({"image_size": 0}, "image_size is 0: Input should be greater than or equal to 1"),
        ({"image_size": 16.0}, f"image_size is 16.0: {WHOLE}"),
        ({"image_size": True}, f"image_size is True: {WHOLE}"),
        (
            {"encoding": "pkl"},
            f"encoding is 'pkl': {AN_ENCODING}",
        ),
        (
            {"encoding": ["png"]},
            "encoding is ['png']: Input should be a valid string",
        ),
        ({"counts": []}, "counts is []: Input should be a valid dictionary"),
        (
            {"counts": {"train": {"Normal": {"real": -1}}}},
            "counts.train.Normal.real is -1: Input should be greater than or equal to 0",
        ),
        (
            {"counts": {"train": {"Normal": {"real": 10**400}}}},
            f"counts.train.Normal.real is 100000000000000000...0000000000000000000: {BELOW}",
        ),
        (
            {"provenance": []},
            "provenance is []: expected a mapping",
        ),
        (
            {"provenance": {"left_out": {"reason": "many"}}},
            f"provenance.left_out.reason is 'many': {WHOLE}",
        ),
        ({"provenance": {"gates": {"name": "none"}}}, "provenance.gates.classes is missing"),
        (
            {"provenance": {"options": {"classes": [[]]}}},
            f"provenance.options.classes is [[]]: {AN_OPTION}",
        ),
        ({"provenance": {"anything": {"deep": ["\x1b[2J"]}}}, "provenance.anything: unknown field"),
        ({"provenance": {"anything\r": 1}}, "provenance.anything\r: unknown field"),
        ({"lineage": {}}, "lineage.kind is missing"),
        (
            {"provenance": {"gates": {"name": "none", "classes": {"Normal": {"admitted": 1, "tried": -1}}}}},
            "provenance.gates.classes.Normal.tried is -1: Input should be greater than or equal to 0",
        ),
        ({"provenance": {"gates": 1}}, "provenance.gates is 1: expected a mapping"),
        (
            {"provenance": {"options": {"val": {"a": [1]}}}},
            f"provenance.options.val: {AN_OPTION}",
        ),
        ({"provenance": {"converted": [{}]}}, "provenance.converted[0].from is missing"),
        (
            {"provenance": {"gates": {"name": "none", "percent": {"copy": "1"}, "classes": {}}}},
            "provenance.gates.percent.copy is '1': expected a finite number",
        ),
        ({"lineage": {"kind": "synthetic"}}, "lineage: a synthetic set needs real_digest and split"),
        ({"lineage": {"kind": "real", "parent": "x"}}, "lineage.parent: unknown field"),
        ({"reviewed": True}, "reviewed: unknown field"),
        ({"lineage": {"kind": 1}}, "lineage.kind is 1: Input should be 'real' or 'synthetic'"),
    ],
)
def test_a_manifest_that_no_set_has(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    check_manifest(forge(tmp_path, manifest=lambda manifest: manifest | change), what)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"table": "../x.json"}, f"strata[0].table is '../x.json': {NAME}"),
        ({"table": "/etc/passwd"}, f"strata[0].table is '/etc/passwd': {NAME}"),
        ({"table": "..\\x.json"}, f"strata[0].table is '..\\\\x.json': {NAME}"),
        ({"table": ".hidden"}, f"strata[0].table is '.hidden': {NAME}"),
        ({"table": "a\0b"}, f"strata[0].table is 'a\\x00b': {NAME}"),
        ({"table": ""}, f"strata[0].table is '': {NAME}"),
        ({"table": 5}, "strata[0].table is 5: Input should be a valid string"),
        (
            {"table_sha256": "x"},
            "strata[0].table_sha256 is 'x': String should match pattern '^[0-9a-f]{64}$'",
        ),
        ({"split": "holdout"}, "strata[0].split is 'holdout': Input should be 'train', 'val' or 'test'"),
        ({"split": ["train"]}, "strata[0].split is ['train']: Input should be 'train', 'val' or 'test'"),
        ({"origin": "drawn"}, "strata[0].origin is 'drawn': Input should be 'real' or 'synthetic'"),
        ({"class": "Other"}, "strata: 'Other' is no class of the set"),
        ({"class": "unlabelled", "split": "val"}, NOT_UNLABELLED),
        ({"class": "unlabelled", "origin": "synthetic"}, NOT_UNLABELLED),
        ({"samples": 10**15}, "strata[0]: 1000000000000000 samples do not fit into 10240 bytes"),
        (
            {"samples": 2**53, "bytes": 2**53},
            "strata[0]: 9007199254740992 samples do not fit into 9007199254740992 bytes",
        ),
        ({"samples": 2**53 + 1}, f"strata[0].samples is 9007199254740993: {BELOW}"),
        ({"samples": -1}, "strata[0].samples is -1: Input should be greater than or equal to 1"),
        ({"samples": 0}, "strata[0].samples is 0: Input should be greater than or equal to 1"),
        ({"samples": 3.0}, f"strata[0].samples is 3.0: {WHOLE}"),
        ({"samples": True}, f"strata[0].samples is True: {WHOLE}"),
        ({"bytes": "many"}, f"strata[0].bytes is 'many': {WHOLE}"),
        ({"shards": None}, f"strata[0].shards is None: {WHOLE}"),
        ({"weight": 2}, "strata[0].weight: unknown field"),
    ],
)
def test_a_stratum_that_no_set_has(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    check_manifest(forge(tmp_path, entry=lambda entry: entry | change), what)


def test_a_stratum_that_occurs_twice(tmp_path: Path) -> None:
    place = forge(tmp_path, manifest=lambda manifest: manifest | {"strata": manifest["strata"] * 2})
    with pytest.raises(
        UserError, match=r"manifest\.json: strata: a stratum occurs twice; its digest matches"
    ):
        ShardSet(place)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 10_000_000,
        b'{"a":' * 1_000_000,
        b'{"format": "cxrdist-shards/1", "digest": "", "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"n": ' + b"9" * 100_000 + b"}",
    ],
)
def test_a_manifest_of_any_depth_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(data)
    with pytest.raises(UserError, match=r"manifest\.json: not valid JSON"):
        read_manifest(tmp_path)


def test_class_names_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def renamed(manifest: dict[str, Any]) -> dict[str, Any]:
        counts = {"train": {"[/red]": {"real": 3}}}
        strata = [entry | {"class": "[/red]"} for entry in manifest["strata"]]
        return manifest | {"classes": ["[/red]"], "strata": strata, "counts": counts}

    place = forge(tmp_path, manifest=renamed)
    for use in OTHERS:
        use(place)
        assert "[/red]" in capsys.readouterr().out


# ---- shard table


@pytest.mark.parametrize(
    "table",
    [
        lambda told: b"[" * 1_000_000,
        lambda told: b"\xff",
        lambda told: b"",
        lambda told: b"9" * 100_000,
    ],
)
def test_a_table_that_is_no_json(tmp_path: Path, table: Callable[[Any], bytes]) -> None:
    check(forge(tmp_path, table=table), "format", "json: not valid JSON")


@pytest.mark.parametrize(
    ("table", "what"),
    [
        (lambda told: [], "shards is not a list of shards"),
        (lambda told: {}, "shards is not a list of shards"),
        (lambda told: {"shards": {}}, "shards is not a list of shards"),
        (lambda told: {"shards": [{}]}, "shards[0].name is None"),
        (lambda told: {"shards": [[]]}, "shards is not a list of shards"),
        (lambda told: {"shards": told["shards"] * 2}, "shards: a name occurs twice"),
        (lambda told: told | {"note": 1}, "note: unknown field"),
    ],
)
def test_a_table_that_no_set_has(tmp_path: Path, table: Callable[[Any], Any], what: str) -> None:
    check(forge(tmp_path, table=table), "value", rf"\.json: {re.escape(what)}(; its digest|$)")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"name": "../x.tar"}, "shards[0].name is '../x.tar'"),
        ({"name": "/etc/x.tar"}, "shards[0].name is '/etc/x.tar'"),
        ({"name": "a/../x.tar"}, "shards[0].name is 'a/../x.tar'"),
        ({"name": "..\\x.tar"}, "shards[0].name is '..\\\\x.tar'"),
        ({"name": ".x.tar"}, "shards[0].name is '.x.tar'"),
        ({"name": "a\nb.tar"}, "shards[0].name is 'a\\nb.tar'"),
        ({"name": MANIFEST}, "shards[0].name is 'manifest.json'"),
        ({"name": None}, "shards[0].name is None"),
        ({"samples": 6}, "shards[0]: 6 samples do not fit into 10240 bytes"),
        ({"samples": -1}, "shards[0].samples is -1"),
        ({"samples": True}, "shards[0].samples is True"),
        ({"bytes": 2**60}, "shards[0].bytes is 1152921504606846976"),
        ({"bytes": 10**400}, "shards[0].bytes is 1"),
        ({"sha256": None}, "shards[0].sha256 is None"),
        ({"index_sha256": "A" * 64}, "shards[0].index_sha256 is 'AAAA"),
        ({"weight": 1}, "shards[0].weight: unknown field"),
        ({"told": None}, "shards[0].told is not a list of its 3 samples"),
        ({"told": [{}, {}]}, "shards[0].told is not a list of its 3 samples"),
        ({"told": [{}, {"age": -1}, {}]}, "shards[0].told[1].age is -1"),
        ({"told": [{}, {}, {"view": "\x07"}]}, "shards[0].told[2].view is '\\x07'"),
    ],
)
def test_a_row_that_no_table_has(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    def changed(told: dict[str, Any]) -> dict[str, Any]:
        return told | {"shards": [told["shards"][0] | change]}

    check(forge(tmp_path, table=changed), "value", rf"\.json: {re.escape(what)}")


def test_tables_that_hold_other_numbers_than_the_manifest(tmp_path: Path) -> None:
    def fewer(told: dict[str, Any]) -> dict[str, Any]:
        return told | {"shards": [told["shards"][0] | {"samples": 2}]}

    place = forge(tmp_path, table=fewer)
    for use in (read_pixels, stream, read_whole):
        with pytest.raises(UserError, match=f"not the samples that {MANIFEST} states"):
            use(place)
    (name,) = (path.name for path in place.glob("train-normal-real.*.json"))
    assert verify(str(place))[0] == Problem("count", name, f"2 samples, but {MANIFEST} says 3")


def test_more_samples_than_any_memory_holds(tmp_path: Path) -> None:
    """Three bytes of JSON more, and all numbers agree: nothing but the size of the files is against it."""
    many = {"samples": 2**40, "bytes": 2**52}
    place = forge(
        tmp_path,
        table=lambda told: told | {"shards": [told["shards"][0] | many]},
        entry=lambda entry: entry | many,
        manifest=lambda manifest: manifest | {"counts": {"train": {"Normal": {"real": 2**40}}}},
    )
    # Their order is worked out all the same; reading the first of them ends it.
    with pytest.raises(
        UserError, match=r"index\.npy: it has 3 rows for 1,099,511,627,776 samples; its digest matches"
    ):
        stream(place)
    with pytest.raises(
        UserError, match=r"index\.npy: it has 3 rows for 1,099,511,627,776 samples; its digest matches"
    ):
        read_pixels(place)
    assert verify(str(place)) and verify(str(place), quick=True)
    mix(place)


# ---- index


def endless_header(shape: str) -> bytes:
    return npy_header(
        f"{{'descr': {np.lib.format.dtype_to_descr(INDEX_DTYPE)!r}, 'fortran_order': False, 'shape': {shape}}}"
    )


@pytest.mark.parametrize(
    "index",
    [
        npy(np.array([{}, 1, 2], object)),
        npy(np.zeros(3)),
        npy(rows()[:2]),
        npy(rows().reshape(3, 1)),
        npy(rows())[:-1],
        npy(rows()) + b"\0",
        npy(np.zeros(3, [*INDEX_DTYPE.descr, ("more", "<u8")])),
        endless_header("(1000000000000,)"),
        endless_header("(-1,)"),
        endless_header("(3,)"),
        npy_header("{'descr': (), 'fortran_order': False, 'shape': (3,)}"),
        npy_header("-" * 9000 + "1"),
        npy_header("(" * 9000),
        b"",
        b"no index",
        b"\x80\x04N.",
    ],
)  # fmt: skip
def test_an_index_that_no_set_has(tmp_path: Path, index: bytes) -> None:
    place = forge(tmp_path, index=index)
    check(place, "value", r"index\.npy: it (is not an index|has 2 rows for 3 samples)", (read_pixels, stream))


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"offset_bytes": 2**60}, "offset_bytes"),
        ({"offset_bytes": 2**64 - 1}, "offset_bytes"),
        ({"offset_bytes": 2**64 - 50}, "offset_bytes"),  # and 100 more are 50
        ({"length_bytes": 2**60}, "offset_bytes"),
        ({"length_bytes": 2**63}, "offset_bytes"),
        ({"length_bytes": 30_000}, "offset_bytes"),
        ({"key": b"\xff\xfe"}, "key"),
        ({"key": b"../x"}, "key"),
        ({"key": b"\x1b[2J"}, "key"),
        ({"patient": "Jane Doe"}, "patient"),
        ({"split": b"\xff"}, "split"),
        ({"origin": b"\n"}, "origin"),
    ],
)
def test_rows_that_no_index_has(tmp_path: Path, columns: dict[str, Any], what: str) -> None:
    place = forge(tmp_path, index=index_of_rows(**columns))
    check(place, "value", rf"index\.npy: {what} (and length_bytes point|holds other)", (read_pixels, stream))


def test_rows_that_lead_beyond_a_tar_that_is_shorter_than_said(tmp_path: Path) -> None:
    told = {"bytes": 2**52}
    place = forge(
        tmp_path,
        index=index_of_rows(offset_bytes=2**51, length_bytes=2**29),
        table=lambda table: table | {"shards": [table["shards"][0] | told]},
    )
    with pytest.raises(UserError, match=f"sample a at byte {2**51}: the file ends after 0 of its"):
        read_pixels(place)


# ---- tar


def tars() -> Iterator[tuple[str, bytes, str]]:
    honest = [member for key in "abc" for member in sample_members(key)]
    yield "pyd", tar_of(("a.pyd", b"x"), *honest), r"unexpected member 'a\.pyd'"
    yield "up", tar_of(*sample_members("../a")), r"unexpected member '\.\./a\.cls'"
    yield "absolute", tar_of(*sample_members("/tmp/a")), r"unexpected member '/tmp/a\.cls'"
    yield "hidden", tar_of(*sample_members(".a")), "unexpected member"
    yield "unicode", tar_of(*sample_members("ä" * 30)), "unexpected member"
    yield "long", tar_of(*sample_members("a" * 41)), "unexpected member"
    for name, kind in {
        "symlink": tarfile.SYMTYPE,
        "hardlink": tarfile.LNKTYPE,
        "fifo": tarfile.FIFOTYPE,
        "device": tarfile.CHRTYPE,
        "folder": tarfile.DIRTYPE,
        "sparse": tarfile.GNUTYPE_SPARSE,
        "extended": tarfile.XHDTYPE,
    }.items():
        yield name, tar_of(*honest[:2], special("a.png", kind, "/etc/passwd")), r"unexpected member 'a\.png"
    yield (
        "pax",
        tar_of(*(m for key in "abc" for m in sample_members(key * 30 + "ä")), form=tarfile.PAX_FORMAT),
        "unexp",
    )
    for size in (-512, -(2**40), 2**50, 2**70):
        yield (
            f"size {size}",
            with_size("a.cls", size) + bytes(20 * 512),
            "unexpected member|more than any sample has",
        )
    deep = b"[" * 500_000
    yield "deep", tar_of(*sample_members("a", json=deep)), r"a\.json is not JSON \(maximum recursion"
    yield (
        "huge",
        tar_of(*sample_members("a", json=b" " * (2**20 + 1))),
        "1,048,577 bytes, more than any sample has",
    )
    for json in (
        b"[]",
        b'{"patient": 5}',
        b'{"patient": "Jane Doe"}',
        b'{"age": []}',
        b'{"age": NaN}',
        b'{"age": 1e999}',
        b'{"age": "\\u0007"}',
        b'{"view": []}',
        b'{"view": "\\u001b[2J"}',
        b'{"findings": [1]}',
    ):
        yield f"json {json.decode()}", tar_of(*sample_members("a", json=json)), r"a\.json"
    yield (
        "digits",
        tar_of(*sample_members("a", json=b'{"age": ' + b"9" * 5000 + b"}")),
        r"a\.json is not JSON",
    )
    yield (
        "class",
        tar_of(*sample_members("a", cls=b"\x1b[2J\xff")),
        r"sample a has class .x1b|sample a has class",
    )
    yield "no end mark", tar_of(*honest)[: 9 * 1024], "ends without an end mark"
    yield "joined", tar_of(*honest) + tar_of(*honest), "continues after its end mark"


@pytest.mark.parametrize(("tar", "message"), [pytest.param(t, m, id=name) for name, t, m in tars()])
def test_a_tar_that_no_set_has(tmp_path: Path, tar: bytes, message: str) -> None:
    place = forge(tmp_path, tar=tar)
    with pytest.raises(UserError, match=message) as caught:
        read_whole(place)
    assert str(caught.value).isprintable()
    assert any(problem.file == TAR for problem in verify(str(place)))


# ---- the folder


@pytest.mark.parametrize("name", [MANIFEST, TAR, INDEX])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_pipe_or_a_device_is_never_read(tmp_path: Path, name: str, kind: str) -> None:
    place = forge(tmp_path)
    (place / name).unlink()
    if kind == "pipe":
        os.mkfifo(place / name)
    elif kind == "device":
        (place / name).symlink_to("/dev/zero")
    else:
        (place / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: not a regular file"):
        read_pixels(place)
    reason = "not a regular file; remove it from the set"
    assert Problem("unreadable", name, reason) in verify(str(place))
    assert reason in str(verify(str(place), quick=True)) or name != MANIFEST


@pytest.mark.parametrize("job", [b"[" * 1_000_000, b"[]", b"\xff", b'{"options": []}', b"5"])
def test_a_job_file_that_no_job_wrote(tmp_path: Path, images: Path, job: bytes) -> None:
    (tmp_path / JOB_FILE).write_bytes(job)
    with pytest.raises(
        UserError,
        match=r"\.job\.json: not JSON .*: remove only this file if .*, otherwise all of .*, which holds an",
    ):
        ingest(Folder(root=str(images)), IngestOptions(out=str(tmp_path), size=32))
    assert [path.name for path in tmp_path.iterdir()] == [JOB_FILE]


def test_a_job_into_another_set_is_refused(tmp_path: Path, images: Path) -> None:
    options = {"options": {"classes": ["\x1b[2J"], "size": {"a": 1}}, "salt_fingerprint": 5, "importer": None}
    (tmp_path / JOB_FILE).write_bytes(canonical_json(options))
    with pytest.raises(UserError, match="already holds another set") as caught:
        ingest(Folder(root=str(images)), IngestOptions(out=str(tmp_path), size=32))
    assert str(caught.value).isprintable()


# ---- images


@pytest.mark.parametrize(
    "data",
    [
        npy_header("{'descr': (), 'fortran_order': False, 'shape': (16, 16)}"),
        npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (16, 16)}") + b"\x80\x04N.",
        npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (16, 'x')}"),
        npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-16, -16)}") + bytes(256),
        npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (999999999999, 999999999999)}"),
        npy_header("-" * 9000 + "1"),
        npy_header("[" * 9000),
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x03\x00" + bytes(100),
    ],
)
def test_npy_headers_that_are_not_right(data: bytes) -> None:
    with pytest.raises(UndecodableImage):
        decode(data, "npy", 16)
    with pytest.raises(UndecodableImage):
        grey_of(data, 16)


def test_names_of_unlisted_files_do_not_command_the_terminal(tmp_path: Path) -> None:
    place = forge(tmp_path)
    (place / "\x1b[2J").touch()
    (place / os.fsdecode(b"\xff.tar")).touch()
    names = ("\\x1b[2J", "\\udcff.tar")
    assert verify(str(place)) == [Problem("unlisted", name, "not part of the set") for name in names]
