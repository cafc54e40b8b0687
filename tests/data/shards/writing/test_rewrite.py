"""A finished set is changed as a whole or not at all, wherever the change is killed."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cxrdist.data.ingest.in_place import index_in_place
from cxrdist.data.shards.manifest import read_manifest
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.shards.writing.rewrite import changing, remove_samples, rewrite_manifest
from cxrdist.data.shards.writing.write_job import JOB_FILE, WRITES, finished_set
from cxrdist.data.storage.store import LocalStore, locked, store_of
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers.in_place import importer, options
from tests.helpers.removing import NORMAL, REASON, key_of, remove, write_synthetic
from tests.helpers.shard_sets import contents

FILE_EVENTS = {"open", "os.rename", "os.remove", "os.listdir", "os.scandir"}
"""What Python audits, just before it happens, of all that a process does to files."""
FIRST, SECOND = {1: (1, 3)}, {0: (0,), 1: (8,)}


def remove_until(event: int, place: Path) -> bool:
    """Remove ``SECOND`` in a process that is killed before the n-th thing it does to a file of the set; whether it
    was."""
    child = os.fork()
    if child == 0:
        counter = itertools.count(1)

        def kill_in_time(name: str, arguments: tuple[Any, ...]) -> None:
            touched = name in FILE_EVENTS and any(str(place) in str(argument) for argument in arguments)
            if touched and next(counter) == event:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill_in_time)
        try:
            remove(place, SECOND)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_before_any_one_thing_that_it_does_to_a_file(tmp_path: Path) -> None:
    """The set is the old or the new one. The next change, even of nothing, removes what is left over."""
    old = tmp_path / "old"
    write_synthetic(old)
    remove(old, FIRST)
    new = Path(shutil.copytree(old, tmp_path / "new"))
    remove(new, SECOND)
    before, after = contents(old), contents(new)
    assert len({*before} - {*after}) == 1 and len({*after} - {*before}) == 2
    place, seen = tmp_path / "set", []
    for event in itertools.count(1):
        shutil.copytree(old, place)
        was_killed = remove_until(event, place)
        is_new = (place / MANIFEST).read_bytes() == after[MANIFEST]
        whole = after if is_new else before
        seen.append(is_new)
        there = contents(place)
        assert {name: there.get(name) for name in whole} == whole, event
        left_over = {problem.file for problem in verify(str(place)) if problem.kind == "unlisted"}
        assert len(left_over) == len(there) - len(whole) == len(verify(str(place))), event
        with changing(LocalStore(place)) as manifest:
            assert remove_samples(LocalStore(place), manifest, {}, by="review") is manifest
        assert contents(place) == whole and verify(str(place)) == [], event
        if not is_new:
            remove(place, SECOND)
            assert contents(place) == after, event
        shutil.rmtree(place)
        if not was_killed:
            break
    assert seen == sorted(seen) and 5 < sum(seen) < len(seen) - 20


@pytest.mark.parametrize("step", ["writer", "remove"])
def test_an_error_of_the_disk_leaves_the_old_set_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """At each file that is written, and at each that is removed."""
    old = tmp_path / "old"
    write_synthetic(old)
    remove(old, FIRST)
    new = Path(shutil.copytree(old, tmp_path / "new"))
    remove(new, SECOND)
    calls = []
    for failing in itertools.count():
        place = Path(shutil.copytree(old, tmp_path / f"set {failing}"))
        counter, act = itertools.count(), getattr(LocalStore, step)

        def fail(
            store: LocalStore, name: str, failing: int = failing, counter: Any = counter, act: Any = act
        ) -> Any:
            if next(counter) == failing:
                calls.append(name)
                raise OSError(28, "No space left on device", name)
            return act(store, name)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, step, fail)
            try:
                remove(place, SECOND)
                break
            except OSError:
                is_new = (place / MANIFEST).read_bytes() == contents(new)[MANIFEST]
        with changing(LocalStore(place)):
            pass
        assert contents(place) == contents(new if is_new else old), calls
    assert contents(place) == contents(new)
    named = [name.split(".")[0] + name.split(".")[1][:7] for name in calls]
    if step == "writer":
        assert named == [
            "train-normal-syntheticremoved",
            "train-pneumothorax-syntheticremoved",
            "manifestjson",
        ]
    else:
        assert named == ["train-pneumothorax-syntheticremoved"]


def test_the_same_at_a_url(tmp_path: Path) -> None:
    write_synthetic(tmp_path)
    url = f"memory://rewritten/{tmp_path.name}"
    write_synthetic(url)
    for numbers in (FIRST, SECOND):
        assert remove(url, numbers) == remove(tmp_path, numbers)
    fs = fsspec.filesystem("memory")
    there = {path.rsplit("/", 1)[1]: fs.cat_file(path) for path in fs.ls(url, detail=False)}
    assert there == contents(tmp_path)
    assert verify(url) == []


def test_only_one_process_changes_a_set(tmp_path: Path) -> None:
    write_synthetic(tmp_path)
    before = contents(tmp_path)
    with (
        locked(LocalStore(tmp_path), WRITES),
        pytest.raises(UserError, match="is being written by a job that writes"),
    ):
        remove(tmp_path, FIRST)
    assert contents(tmp_path) == before


def test_a_set_that_was_changed_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    """At a URL, where nothing is locked."""
    url = f"memory://meanwhile/{tmp_path.name}"
    write_synthetic(url)
    with changing(store_of(url)) as manifest:
        other = remove(url, FIRST)
        with pytest.raises(UserError, match="another process has just changed it"):
            remove_samples(store_of(url), manifest, {NORMAL: {key_of(0, 0): REASON}}, by="review")
    assert read_manifest(url) == other and verify(url) == []


def test_a_refused_change_leaves_nothing_behind(tmp_path: Path) -> None:
    """The file of the first stratum is written, and then the second is refused."""
    write_synthetic(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="no image of Pneumothorax"):
        remove(tmp_path, {0: [0], 1: range(9)})
    assert contents(tmp_path) == before


def test_the_provenance_can_be_changed_alone(tmp_path: Path) -> None:
    old = write_synthetic(tmp_path)
    with changing(LocalStore(tmp_path)) as manifest:
        provenance = manifest.provenance.updated({"notes": {"seen": 1}})
        new = rewrite_manifest(LocalStore(tmp_path), manifest, provenance=provenance)
    assert new.json_value() == old.json_value() | {
        "digest": new.digest,
        "provenance": provenance.json_value(),
    }
    assert new.digest != old.digest and verify(str(tmp_path)) == []


def test_a_set_that_was_removed_from_is_still_that_of_its_job(tmp_path: Path) -> None:
    """The command that made it leaves it as it is."""
    asked = write_synthetic(tmp_path).provenance
    new = remove(tmp_path, FIRST)
    before = contents(tmp_path)
    assert finished_set(LocalStore(tmp_path), asked) == new
    assert contents(tmp_path) == before and JOB_FILE not in before


def test_sets_that_are_not_there_or_not_cxrdist_s_own(tmp_path: Path, tars: Path) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(UserError, match="no such shard set"), changing(LocalStore(nowhere)):
        pass
    assert not nowhere.exists()
    manifest = index_in_place(importer(tars, in_place=True), options())
    before = contents(tars)
    with pytest.raises(UserError, match=r"indexed in place, .*cxrdist shards convert"):
        remove(tars, {0: [0]}, origin="real")
    assert contents(tars) == before
    entry = manifest.strata[0].json_value()
    entry |= {"removed": "x.json", "removed_sha256": "0" * 64, "removed_samples": 1}
    with pytest.raises(ValueError, match="no sample of a set indexed in place can be removed"):
        type(manifest).model_validate(manifest.json_value() | {"strata": [entry]})
