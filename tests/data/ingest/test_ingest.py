from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrdist.data.deidentify import Salt, load_salt
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.folder import Folder
from cxrdist.data.ingest import ingest as ingest_module
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.writing import write_job, write_pool
from cxrdist.data.storage.store import Store
from cxrdist.data.tools.verify import verify
from cxrdist.errors import UserError
from tests.helpers.inline_pool import InlinePool
from tests.helpers.processes import children, is_running, wait_until, workers_of
from tests.helpers.releases.nih14 import nih
from tests.helpers.shard_sets import contents, make_unfinished

SAMPLES_PER_SHARD = 3


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "samples_per_shard", lambda *_: SAMPLES_PER_SHARD)


def options(out: Path | str, **changes: Any) -> IngestOptions:
    return IngestOptions(**{"out": str(out), "size": 32, "val": 0.2, "test": 0.2, "workers": 1, **changes})


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


# ---- the same set, however it came about


def test_the_digest_does_not_depend_on_the_workers(tiny_set: Path, images: Path, tmp_path: Path) -> None:
    ingest(Folder(root=str(images)), options(tmp_path / "three", workers=3))
    assert contents(tmp_path / "three") == contents(tiny_set)


@pytest.mark.usefixtures("inline")
def test_where_it_is_written_and_how_it_is_called_does_not_matter(
    tiny_set: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "not" / "there" / "yet"
    manifest = ingest(Folder(root=f"{images}/"), options(f"{out}/"))
    assert contents(out) == contents(tiny_set)
    assert manifest.json_value() == json.loads((tiny_set / "manifest.json").read_bytes())


@pytest.mark.usefixtures("inline")
def test_counts_are_the_same_as_whole_numbers(images: Path, tmp_path: Path) -> None:
    sets = [ingest(Folder(root=str(images)), options(tmp_path / str(n), val=n, test=n)) for n in (2, 2.0)]
    assert sets[0] == sets[1]
    assert {c["real"] for c in sets[0].counts["val"].values()} == {2}
    assert {c["real"] for c in sets[0].counts["test"].values()} == {2}


@pytest.mark.usefixtures("inline")
def test_by_default_there_is_a_worker_per_core_and_never_one_without_work(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cores, expected in ((4, 4), (100, 9)):
        monkeypatch.setattr(write_pool, "available_cores", lambda cores=cores: cores)
        ingest(Folder(root=str(images)), options(tmp_path / str(cores), workers=0))
        assert InlinePool.workers == expected


@pytest.mark.usefixtures("inline")
def test_the_same_command_on_a_finished_set_changes_nothing(
    tiny_set: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def times_ns() -> list[tuple[str, int]]:
        return [(p.name, p.stat().st_mtime_ns) for p in [tiny_set, *sorted(tiny_set.iterdir())]]

    before = times_ns()
    manifest = ingest(Folder(root=str(images)), options(tiny_set, workers=7))
    assert f"{tiny_set}: already finished, digest {manifest.digest[:12]}" in capsys.readouterr().out
    assert times_ns() == before


# ---- killed and started again


@pytest.mark.usefixtures("inline", "small_shards")
@pytest.mark.parametrize("lost", [0, 1, 5, 100])
def test_an_unfinished_set_is_finished_bit_for_bit(
    images: Path, tmp_path: Path, lost: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Folder(root=str(images))
    ingest(source, options(tmp_path / "whole"))
    whole = contents(tmp_path / "whole")
    out = copy_of(tmp_path / "whole", tmp_path / "killed")
    make_unfinished(out)
    tars = sorted(out.glob("*.tar"))
    assert len(tars) == 13
    for tar in tars[:lost]:
        tar.unlink()
    for index in sorted(out.glob("*.index.npy"))[3:7]:
        index.unlink()
    (out / ".train-normal-real-000000.tar.4242.tmp").write_bytes(b"half a tar")
    (out / ".manifest.json.4242.tmp").write_bytes(b"{")
    ingest(source, options(out))
    assert f"{out}: continuing an unfinished set\n" in capsys.readouterr().err
    assert contents(out) == whole


@pytest.mark.usefixtures("inline")
def test_a_job_killed_after_its_manifest_is_tidied_up(tiny_set: Path, images: Path, tmp_path: Path) -> None:
    out = copy_of(tiny_set, tmp_path / "killed")
    make_unfinished(out)
    shutil.copy(tiny_set / "manifest.json", out)
    ingest(Folder(root=str(images)), options(out))
    assert contents(out) == contents(tiny_set)


SCRIPT = f"""
import sys
from cxrdist.data.ingest import ingest as module
from cxrdist.data.importers.folder import Folder
module.samples_per_shard = lambda *_: {SAMPLES_PER_SHARD}
module.ingest(Folder(root=sys.argv[1]), module.IngestOptions(out=sys.argv[2], size=32, workers=1))
"""


def draw(root: Path, counts: dict[str, int], size: int) -> Path:
    rng = np.random.default_rng(1)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (size, size), np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.mark.slow
@pytest.mark.usefixtures("inline", "small_shards")
def test_an_import_killed_twice_makes_the_same_set(tmp_path: Path) -> None:
    root = draw(tmp_path / "root", {"a": 40, "b": 20}, size=300)
    ingest(Folder(root=str(root)), IngestOptions(out=str(tmp_path / "whole"), size=32, workers=1))
    out = tmp_path / "killed"
    for tars in (0, 4):
        with subprocess.Popen([sys.executable, "-c", SCRIPT, str(root), str(out)]) as process:

            def is_there(tars: int = tars) -> bool:
                return (out / ".job.json").exists() and len(list(out.glob("*.tar"))) >= tars

            wait_until(is_there, process)
            workers = children(process.pid)
            process.send_signal(signal.SIGKILL)
        assert not (out / "manifest.json").exists() and (out / ".lock").exists()
        for tar in out.glob("*.tar"):
            assert tar.read_bytes() == (tmp_path / "whole" / tar.name).read_bytes()
        for _ in range(5_000):
            if not any(map(is_running, workers)):
                break
            time.sleep(0.001)
        assert not any(map(is_running, workers))
    ingest(Folder(root=str(root)), IngestOptions(out=str(out), size=32, workers=1))
    assert contents(out) == contents(tmp_path / "whole")


def start_import(root: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cxrdist", "import", "folder", "--root", str(root), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--workers", "1"],
        env={**os.environ, "CXRDIST_LOG_LEVEL": "error"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("when", ["its worker starts", "a tar is half written"])
def test_ctrl_c_ends_in_one_line_and_the_import_can_go_on(tmp_path: Path, when: str) -> None:
    root = draw(tmp_path / "root", {"a": 20, "b": 20}, size=700)
    out = tmp_path / "set"
    with start_import(root, out) as process:
        if when == "its worker starts":
            wait_until(
                lambda: any("numpy" in Path(f"/proc/{w}/maps").read_text() for w in workers_of(process.pid)),
                process,
            )
        else:
            wait_until(lambda: any(out.glob(".*.tar.*.tmp")), process)
        os.killpg(process.pid, signal.SIGINT)
        stderr = process.communicate(timeout=60)[1]
    assert (process.returncode, stderr) == (130, "stopped; the same command resumes\n")
    assert {p.name for p in out.iterdir() if not p.name.endswith((".tar", ".npy"))} == {".job.json"}
    assert not (out / "manifest.json").exists()


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_leave_workers_waiting(tmp_path: Path) -> None:
    root = draw(tmp_path / "root", {"a": 20, "b": 20}, size=700)
    out = tmp_path / "set"
    with start_import(root, out) as process:
        wait_until(lambda: any(out.glob(".*.tar.*.tmp")), process)
        for _ in range(3):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.01)
        stderr = process.communicate(timeout=60)[1]
    assert (process.returncode, stderr) == (130, "stopped; the same command resumes\n")


def test_a_killed_worker_ends_in_one_line_and_the_import_can_go_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    with start_import(images, out) as process:
        wait_until(lambda: bool(workers_of(process.pid)), process)
        (worker,) = workers_of(process.pid)
        os.kill(worker, signal.SIGKILL)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert stderr.startswith("error: a worker process was killed, by the system if memory ran out: run the")
    assert stderr.count("\n") == 1
    assert {p.name for p in out.iterdir()} == {".job.json"}


# ---- whose folder it is


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"size": 48}, "size 32, now 48"),
        ({"encoding": "npy"}, "encoding png, now npy"),
        ({"seed": 3}, "seed 0, now 3"),
        ({"val": 2, "size": 16}, "size 32, now 16; val 0.2, now 2"),
        (
            {"classes": ("Normal", "Pneumothorax")},
            "classes Normal, Pleural Effusion, Pneumothorax, now Normal, Pneumothorax",
        ),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_other_options_into_the_same_folder_are_refused(
    tiny_set: Path, images: Path, tmp_path: Path, changes: dict[str, Any], told: str, is_finished: bool
) -> None:
    out = copy_of(tiny_set, tmp_path / "set")
    if not is_finished:
        make_unfinished(out)
        (out / ".lock").unlink()
    before = contents(out)
    with pytest.raises(UserError) as caught:
        ingest(Folder(root=str(images)), options(out, **changes))
    assert str(caught.value) == (
        f"{out} already holds another set ({told}): name another --out, or remove the folder first"
    )
    assert contents(out) == before


@pytest.mark.usefixtures("inline")
def test_another_source_salt_or_image_into_the_same_folder_is_refused(
    tiny_set: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "salt").write_text("another salt of 16 bytes or more")
    with pytest.raises(UserError, match=r"another set \(other salt\)"):
        ingest(Folder(root=str(images)), options(tiny_set, salt_file=str(tmp_path / "salt")))
    more = copy_of(images, tmp_path / "more")
    shutil.copy(more / "Normal" / "000.png", more / "Normal" / "999.png")
    with pytest.raises(UserError, match=r"another set \(other images, patients or labels\)"):
        ingest(Folder(root=str(more)), options(tiny_set))
    with pytest.raises(UserError, match=r"importer folder, now nih14"):
        ingest(nih(tmp_path / "nih"), options(tiny_set))


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("name", ["notes.txt", "folder/", ".a.1.tmp", "train-normal-real-000000.tar"])
def test_a_folder_with_foreign_content_is_refused_and_not_touched(
    images: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).mkdir() if name.endswith("/") else (out / name).write_text("mine")
    (out / ".lock").write_text("mine, too")
    with pytest.raises(UserError) as caught:
        ingest(Folder(root=str(images)), options(out))
    assert str(caught.value) == f"{out} is not empty (it holds {name.strip('/')}): name another --out"
    assert sorted(p.name for p in out.iterdir()) == sorted([".lock", name.strip("/")])
    assert (out / ".lock").read_text() == "mine, too"


@pytest.mark.usefixtures("inline")
def test_an_empty_folder_and_one_killed_at_its_first_step_are_taken(
    tiny_set: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".lock").touch()
    (tmp_path / "killed" / "..job.json.77.tmp").write_bytes(b"{")
    for name in ("empty", "killed"):
        ingest(Folder(root=str(images)), options(tmp_path / name))
        assert contents(tmp_path / name) == contents(tiny_set)


@pytest.mark.usefixtures("inline")
def test_a_file_is_no_folder(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file is a file; name a folder with --out"):
        ingest(Folder(root=str(images)), options(tmp_path / "file"))


@pytest.mark.usefixtures("inline")
def test_of_two_imports_at_once_the_second_is_refused(
    tiny_set: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write, refused = tmp_path / "set", write_pool.do_task, []

    def while_another_starts(task: Any) -> Any:
        before = contents(out)
        with pytest.raises(UserError, match=f"set is being written by a job .*process {os.getpid()} on"):
            ingest(Folder(root=str(images)), options(out))
        refused.append(contents(out) == before)
        return write(task)

    monkeypatch.setattr(write_pool, "do_task", while_another_starts)
    ingest(Folder(root=str(images)), options(out))
    assert refused == [True] * 9
    assert contents(out) == contents(tiny_set)


@pytest.mark.usefixtures("inline")
def test_a_set_that_another_import_finishes_in_between_is_left_alone(
    tiny_set: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, claim = tmp_path / "set", write_job.claim

    def claim_late(store: Store, *arguments: Any) -> Callable[[], None]:
        copy_of(tiny_set, out)
        return claim(store, *arguments)

    monkeypatch.setattr(write_job, "claim", claim_late)
    with pytest.raises(UserError, match="another process has just finished it; run the same command"):
        ingest(Folder(root=str(images)), options(out))
    assert contents(out) == contents(tiny_set)


# ---- images that do not decode


@pytest.fixture(scope="module")
def two_hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("many") / "root", {"a": 150, "b": 50}, size=16)


def spoil(root: Path, to: Path, count: int) -> Path:
    copy_of(root, to)
    for i in range(count):
        (to / "a" / f"{10 * i}.png").write_bytes(b"no image" if i else b"")
    return to


@pytest.mark.usefixtures("inline", "small_shards")
def test_up_to_one_percent_of_undecodable_images_are_left_out_and_listed(
    two_hundred: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = spoil(two_hundred, tmp_path / "root", 2), tmp_path / "set"
    manifest = ingest(Folder(root=str(root)), options(out, size=16))
    listed = [
        f"warning: left out, does not decode: {root}/a/0.png: empty",
        f"warning: left out, does not decode: {root}/a/10.png: not an image of a known format",
    ]
    assert [line for line in capsys.readouterr().err.splitlines() if "decode" in line] == listed
    assert manifest.provenance.undecodable == 2
    assert manifest.samples == 198
    assert verify(str(out)) == []
    whole = contents(out)

    make_unfinished(out)
    ingest(Folder(root=str(root)), options(out, size=16))
    assert [line for line in capsys.readouterr().err.splitlines() if "decode" in line] == listed
    assert contents(out) == whole


@pytest.mark.usefixtures("inline")
def test_an_image_repaired_before_an_import_goes_on_is_taken(two_hundred: Path, tmp_path: Path) -> None:
    root, out = spoil(two_hundred, tmp_path / "root", 1), tmp_path / "set"
    ingest(Folder(root=str(root)), options(out, size=16))
    make_unfinished(out)
    shutil.copy(two_hundred / "a" / "0.png", root / "a" / "0.png")
    assert ingest(Folder(root=str(root)), options(out, size=16)).provenance.undecodable == 0
    ingest(Folder(root=str(two_hundred)), options(tmp_path / "whole", size=16))
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.usefixtures("inline", "small_shards")
@pytest.mark.parametrize("before", ["absent", "empty", "unfinished", "unfinished, with notes"])
def test_more_undecodable_images_stop_the_import_with_nothing_left(
    two_hundred: Path, tmp_path: Path, before: str
) -> None:
    root, out = spoil(two_hundred, tmp_path / "root", 3), tmp_path / "set"
    if before == "empty":
        out.mkdir()
    elif before != "absent":
        ingest(Folder(root=str(two_hundred)), options(out, size=16))
        make_unfinished(out)
        for tar in sorted(out.glob("*-a-*.tar")):
            tar.unlink()
        if "notes" in before:
            (out / "notes.json").write_text("mine")
    with pytest.raises(UserError) as caught:
        ingest(Folder(root=str(root)), options(out, size=16))
    message = str(caught.value)
    assert message.startswith("3 or more of 200 images do not decode, over 1% (one is ")
    assert message.endswith("repair the download, or remove these images from it; nothing was written")
    left = {"empty": [], "unfinished, with notes": ["notes.json"]}.get(before)
    assert (sorted(p.name for p in out.iterdir()) if out.exists() else None) == left


@pytest.mark.usefixtures("inline")
def test_a_split_left_without_images_stops_the_import_with_nothing_left(
    two_hundred: Path, tmp_path: Path
) -> None:
    root = copy_of(two_hundred, tmp_path / "root")
    for i in range(3, 50):
        (root / "b" / f"{i}.png").unlink()
    for i in range(150, 300):
        shutil.copy(root / "a" / f"{i - 150}.png", root / "a" / f"{i}.png")
    (root / "b" / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^b: no image of its (train|val|test) split decodes; repair"):
        ingest(Folder(root=str(root)), options(tmp_path / "set", size=16))
    assert not (tmp_path / "set").exists()


# ---- patients


def metas(folder: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(split, key, json) of every sample."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    data = tar.extractfile(member)
                    assert data is not None
                    yield path.name.partition("-")[0], member.name.removesuffix(".json"), json.load(data)


@pytest.mark.usefixtures("inline")
def test_patients_do_not_cross_splits_and_nothing_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    importer = nih(tmp_path / "release")
    out = tmp_path / "set"
    manifest = ingest(importer, options(out, size=16))
    printed = capsys.readouterr().out
    splits: dict[str, set[str]] = {}
    classes_of: dict[str, set[str]] = {}
    shards = ShardSet(out)
    for entry in manifest.strata:
        index = shards.stratum(entry.split, entry.class_name, "real").index(0)
        for row in index:
            splits.setdefault(row["patient"].decode(), set()).add(entry.split)
            classes_of.setdefault(row["patient"].decode(), set()).add(entry.class_name)
    assert {len(s) for s in splits.values()} == {1}
    assert sum(len(c) > 1 for c in classes_of.values()) > 10

    records = list(importer.records())
    salt = load_salt(None)
    used = list(metas(out))
    left_out = manifest.provenance.left_out or {}
    assert len(used) + sum(left_out.values()) == len(records)
    assert set(left_out) == {"no target finding", "several targets"}
    by_key = {salt.key(r.source_id): r for r in records}
    for split, key, meta in used:
        record = by_key[key]
        targets = [importer.targets[name] for name in record.findings if name in importer.targets]
        assert meta == {
            "patient": salt.patient(record.patient_id),
            "origin": "real",
            "class": targets[0] if targets else "Normal",
            "source": "nih14",
            "phantom": False,
            "view": record.view,
            "sex": record.sex,
            "age": record.age,
            "findings": list(record.findings),
        }
        assert splits[meta["patient"]] == {split}
    assert max(meta["age"] for _, _, meta in used) == 90

    secrets = {r.source_id for r in records} | {r.patient_id for r in records}
    secrets |= {str(tmp_path), socket.gethostname(), load_salt(None).secret.decode()}
    everything = [data for name, data in contents(out).items()] + [n.encode() for n in contents(out)]
    for secret in secrets:
        assert not any(secret.encode() in data for data in everything), secret

    # The table: read, used per class and split, left out and why.
    lines = [line.split() for line in printed.splitlines()]
    assert ["images", "read", str(len(records))] in lines
    assert ["used", str(len(used)), "train", "val", "test"] in lines
    for name, of_split in (
        (n, [manifest.counts[s][n]["real"] for s in ("train", "val", "test")]) for n in manifest.classes
    ):
        assert [*name.split(), str(sum(of_split)), *map(str, of_split)] in lines
    assert ["left", "out", str(sum(left_out.values()))] in lines
    for reason, count in left_out.items():
        assert [*reason.split(), str(count)] in lines


@pytest.mark.usefixtures("inline")
def test_a_table_that_says_something_else_of_an_image_is_another_source(tmp_path: Path) -> None:
    importer = nih(tmp_path / "release")
    out = tmp_path / "set"
    ingest(importer, options(out, size=16))
    table = tmp_path / "release" / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace(",61,F,PA", ",62,F,PA", 1))
    with pytest.raises(UserError, match="other images, patients or labels"):
        ingest(importer, options(out, size=16))


AGES = (89, 90, 91, 120, None)


class Aged(Folder):
    """A source that tells ages as they are."""

    def records(self) -> Iterator[Record]:
        for i, record in enumerate(super().records()):
            yield replace(record, age=AGES[i % 5])


@pytest.mark.usefixtures("inline")
def test_ages_from_90_on_are_stored_as_90_whatever_the_importer(images: Path, tmp_path: Path) -> None:
    ingest(Aged(root=str(images)), options(tmp_path / "set"))
    assert {meta["age"] for _, _, meta in metas(tmp_path / "set")} == {89, 90, None}


# ---- the salt


def test_the_salt_is_made_once_for_the_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    first = load_salt(None)
    path = tmp_path / "config" / "cxrdist" / "salt"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(first.secret) == 64 and path.read_text() == first.secret.decode() + "\n"
    written_ns = path.stat().st_mtime_ns
    assert load_salt(None) == first and path.stat().st_mtime_ns == written_ns
    assert [p.name for p in path.parent.iterdir()] == ["salt"]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    assert load_salt(None) != first


def test_of_two_salts_made_at_once_the_first_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    link = os.link

    def link_late(source: str, path: Path) -> None:
        path.write_text("the other process was faster\n")
        link(source, path)

    monkeypatch.setattr(os, "link", link_late)
    assert load_salt(None) == Salt(b"the other process was faster")
    assert [p.name for p in (tmp_path / "cxrdist").iterdir()] == ["salt"]


def test_a_salt_file_that_is_missing_or_short_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="salt: no such salt file; make one with `head -c 32"):
        load_salt(str(tmp_path / "salt"))
    (tmp_path / "salt").write_text("short\n")
    with pytest.raises(UserError, match="a salt needs at least 16 bytes, and this one has 5"):
        load_salt(str(tmp_path / "salt"))
    assert [p.name for p in tmp_path.iterdir()] == ["salt"]


@pytest.mark.usefixtures("inline")
def test_another_salt_gives_other_keys_patients_and_digest(
    tiny_set: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "salt").write_text("another salt of 16 bytes or more")
    ingest(Folder(root=str(images)), options(tmp_path / "set", salt_file=str(tmp_path / "salt")))
    here, there = list(metas(tiny_set)), list(metas(tmp_path / "set"))
    assert len(here) == len(there) == 32
    assert not {key for _, key, _ in here} & {key for _, key, _ in there}
    assert not {m["patient"] for _, _, m in here} & {m["patient"] for _, _, m in there}
    assert ShardSet(tiny_set).digest != ShardSet(tmp_path / "set").digest


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True
        ).returncode
    ):
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.usefixtures("inline")
def test_a_full_disk_is_one_line_and_the_import_goes_on_later(
    small_disk: Path, images: Path, tiny_set: Path
) -> None:
    out = small_disk / "set"
    command = [sys.executable, "-m", "cxrdist", "import", "folder", "--root", str(images), "--out", str(out)]
    words = ["--size", "32", "--val", "0.2", "--test", "0.2", "--workers", "1"]
    done = subprocess.run(
        [*command, *words],
        env={**os.environ, "CXRDIST_LOG_LEVEL": "error"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the disk is full while writing {out}/")
    assert done.stderr.endswith(": free some space and run the same command again\n")
    assert done.stderr.count("\n") == 1
    whole = contents(tiny_set)
    for name, data in contents(out).items():
        assert name == ".job.json" or data == whole[name]
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    ingest(Folder(root=str(images)), options(out))
    assert contents(out) == whole
