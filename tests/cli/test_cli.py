"""The ``cxrdist`` command as users start it, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cxrdist.cli.main import COMMANDS, Commands
from tests.helpers.images import draw_folder
from tests.helpers.launching import CLONE

pytestmark = pytest.mark.slow

Done = subprocess.CompletedProcess[str]
TINY = ("--size", "32", "--val", "0.2", "--test", "0.2")
UNKNOWN_PATIENTS = (
    "warning: 32 images name no patient, so each counts as a patient of its own: two images of one patient may be in "
    "two splits\n"
)


def cxrdist(cwd: Path, *words: str | Path) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "cxrdist", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(CLONE), "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def mistake(done: Done) -> str:
    """The one line that a user's mistake gives, without its ``error: ``."""
    assert done.returncode == 2, done
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    return done.stderr.removeprefix("error: ").rstrip("\n")


def commands(tree: Commands, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for word, command in tree.items():
        words = (*before, word)
        found += [words] if callable(command) else commands(command, words)
    return found


@pytest.mark.parametrize("words", [(), ("import",), *commands(COMMANDS)], ids=" ".join)
def test_every_help_shows_an_example(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = cxrdist(tmp_path, *words, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    is_command = words in commands(COMMANDS)
    example = f"Example:\n  {' '.join(['cxrdist', *(words if is_command else ())])} "
    assert example in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_there_are_seven_commands() -> None:
    assert {" ".join(words) for words in commands(COMMANDS)} >= {
        "import phantom",
        "import nih14",
        "import folder",
        "shards info",
        "shards verify",
        "shards preview",
        "shards index",
        "shards convert",
        "shards stats",
        "mix show",
        "report",
    }


# ---- mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["improt"], "cxrdist improt: unknown command; did you mean 'import'?"),
        (["import", "fodler"], "cxrdist import fodler: unknown command; did you mean 'folder'?"),
        (["import", "mimic"], "cxrdist import mimic: unknown command; did you mean 'mimic-cxr-jpg'?"),
        (["import", "folder", "--out", "new"], "--root: must be given; see cxrdist import folder --help"),
        (
            ["import", "folder", "--root", "nowhere", "--out", "new"],
            "nowhere: no such folder; name a folder that holds one folder per class",
        ),
        (
            ["import", "folder", "--root", "empty", "--out", "new"],
            "empty: has no class folders; put the images of each class into one folder",
        ),
        (["import", "nih14", "--root", "empty", "--out", "new"], "empty: holds neither Data_Entry_2017_v2020.csv"),
        (
            ["import", "nih14", "--root", "bad-csv", "--out", "new"],
            "bad-csv/Data_Entry_2017_v2020.csv: lacks the columns Finding Labels, Patient ID;",
        ),
        (
            ["import", "folder", "--root", "root", "--out", "new", "--classes", "Normal,Pnuemothorax"],
            "unknown class 'Pnuemothorax'; did you mean 'Pneumothorax'?",
        ),
        (
            ["import", "phantom", "--out", "new", "--classes", "Edema"],
            "--classes: 'Edema' is not a choice; did you mean 'Pulmonary Edema'?",
        ),
        (
            ["import", "folder", "--root", "root", "--out", "new", "--encoding", "pgn"],
            "--encoding: 'pgn' is not a choice; did you mean 'png'?",
        ),
        (
            ["import", "folder", "--root", "root", "--out", "new", "--val", "0"],
            "--val: must be a fraction of the images (0 < x < 1) or a whole number of images per class, not 0",
        ),
        (["import", "folder", "--root", "root", "--out", "new", "--val", "ten"], "--val: expected"),
        (
            ["import", "folder", "--root", "root", "--out", "new", "--val", "5", "--test", "5"],
            "Pleural Effusion has 10 images: val 5 and test 5 leave none of them for train",
        ),
        (
            ["import", "folder", "--root", "few", "--out", "new"],
            "Rare Disease has 2 patients, too few to give each of train, val and test one of its own",
        ),
        (
            ["import", "folder", "--root", "root", "--out", "new", "--salt-file", "nowhere"],
            "nowhere: no such salt file; make one with",
        ),
        (
            ["import", "folder", "--root", "root", "--out", "root"],
            "--out: root lies in root, all of which is imported; name a folder elsewhere",
        ),
        (
            ["import", "folder", "--root", "root", "--out", "tiny"],
            "tiny already holds another set (size 32, now 64; test 0.2, now 0.15; val 0.2, now 0.15)",
        ),
        (["shards", "info", "root/Normal/000.png"], "root/Normal/000.png is a file, not a folder"),
        (["shards", "info", "nowhere"], "nowhere: no such shard set; make one with `cxrdist import"),
        (["shards", "info"], "shards/phantom does not exist yet: create it with `cxrdist import phantom`"),
        (["shards", "verify"], "shards/phantom does not exist yet"),
        (["shards", "preview"], "shards/phantom does not exist yet"),
        (["shards", "preview", "tiny", "shards/phantom/"], "shards/phantom does not exist yet"),
        (["shards", "index"], "shards/phantom does not exist yet"),
        (["shards", "convert"], "shards/phantom does not exist yet"),
        (["shards", "stats"], "shards/phantom does not exist yet"),
        (["shards", "preview", "tiny", "--out", "tiny/a.png"], "--out: tiny/a.png lies in the shard set "),
        (["shards", "preview", "tiny", "--split", "tset"], "--split: 'tset' is not a choice; did you mean 'test'?"),
        (["shards", "preview", "tiny", "--count", "0"], "--count: must be 1 or more, not 0"),
        (["shards", "preview", "tiny", "--out", "a.jpg"], "--out: must name a PNG file, ending in .png, not a.jpg"),
        (
            ["shards", "convert", "tiny", "--encoding", "pgn"],
            "--encoding: 'pgn' is not a choice; did you mean 'png'?",
        ),
        (["shards", "convert", "tiny", "--size", "64"], "--size: tiny has images of 32 px, which cannot be"),
        (["shards", "verify", "root"], "root: no manifest.json: not a shard set, or its import did"),
        (["advise", "nowhere"], "nowhere: no such shard set; make one with `cxrdist import"),
        (["advise", "tiny", "--size", "96"], "tiny-96: size is 96, but a conditional GAN makes images of 32, 64,"),
        (["mix", "show", "DS4", "--shards", "tiny"], "configs/mix: no mix is named 'DS4'; did you mean 'DS3'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_line(desk: Path, words: list[str], message: str) -> None:
    before = sorted(desk.rglob("*"))
    assert mistake(cxrdist(desk, *words)).startswith(message)
    assert sorted(desk.rglob("*")) == before


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_set: Path, images: Path) -> Path:
    """A current folder with what the mistakes are made on; read-only for all tests."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(tiny_set, desk / "tiny")
    shutil.copytree(images, desk / "root")
    (desk / "empty").mkdir()
    (desk / "bad-csv" / "images").mkdir(parents=True)
    shutil.copy(images / "Normal" / "000.png", desk / "bad-csv" / "images")
    (desk / "bad-csv" / "Data_Entry_2017_v2020.csv").write_text("Image Index,Patient Age\n000.png,50\n")
    draw_folder(desk / "few", {"Normal": 9, "Rare Disease": 2})
    return desk


# ---- what works


def test_import_prints_a_table_and_makes_the_set(tmp_path: Path, images: Path, tiny_set: Path) -> None:
    out = tmp_path / "new" / "set"
    done = cxrdist(tmp_path, "import", "folder", "--root", images, "--out", out, *TINY, "--workers", "1")
    assert (done.returncode, done.stderr) == (0, UNKNOWN_PATIENTS)
    assert (
        """
images read               32
used                      32    train      val     test
  Normal                  14        8        3        3
  Pleural Effusion        10        6        2        2
  Pneumothorax             8        4        2        2
left out                   0
"""
        in done.stdout
    )
    digest = json.loads((out / "manifest.json").read_bytes())["digest"]
    assert done.stdout.endswith(f"{out}: 32 images, digest {digest[:12]}\n")
    assert digest == json.loads((tiny_set / "manifest.json").read_bytes())["digest"]


def test_the_same_import_again_says_so(desk: Path) -> None:
    done = cxrdist(desk, "import", "folder", "--root", "root/", "--out", "tiny/", *TINY)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"^tiny: already finished, digest [0-9a-f]{12}; nothing to do\n\Z", done.stdout, re.MULTILINE
    )


def test_info_as_json_has_exactly_these_keys(desk: Path) -> None:
    done = cxrdist(desk, "shards", "info", "tiny", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    manifest = json.loads((desk / "tiny" / "manifest.json").read_bytes())
    assert told.pop("strata") == manifest["strata"]
    assert told.pop("provenance") == manifest["provenance"]
    assert told == {
        "lineage": {"kind": "real"},
        "digest": json.loads((desk / "tiny" / "manifest.json").read_bytes())["digest"],
        "image_size": 32,
        "encoding": "png",
        "classes": ["Normal", "Pleural Effusion", "Pneumothorax"],
        "counts": {
            "train": {
                "Normal": {"real": 8},
                "Pneumothorax": {"real": 4},
                "Pleural Effusion": {"real": 6},
            },
            "val": {"Normal": {"real": 3}, "Pneumothorax": {"real": 2}, "Pleural Effusion": {"real": 2}},
            "test": {"Normal": {"real": 3}, "Pneumothorax": {"real": 2}, "Pleural Effusion": {"real": 2}},
        },
    }


def test_info_for_people(desk: Path) -> None:
    done = cxrdist(desk, "shards", "info", "tiny/")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["tiny", "folder", "of", "images"]
    assert lines[2][:11] == ["images", "32", "x", "32", "grey,", "png,", "32", "in", "9", "tars,", "160.0"]
    assert lines[3] == ["made", "by", "folder"]
    assert ["class", "train", "val", "test", "size"] in lines
    kib = sum(tar.stat().st_size for tar in (desk / "tiny").glob("*-pleural-effusion-*.tar")) / 1024
    assert ["Pleural", "Effusion", "6", "real", "2", "real", "2", "real", f"{kib:.1f}", "KiB"] in lines
    options = (
        "dedup yes, encoding png, find duplicates yes, fit pad, min shards 1, seed 0, size 32, split drawn, "
        "test 0.2, val 0.2"
    )
    assert f"\noptions   {options}\n" in done.stdout
    assert re.search(r"^salt      fingerprint [0-9a-f]{16}$", done.stdout, re.MULTILINE)


def test_verify_exits_with_1_where_something_is_wrong(desk: Path, tmp_path: Path) -> None:
    done = cxrdist(desk, "shards", "verify", "tiny/")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("tiny/: no problems found\n")
    bad = tmp_path / "bad"
    shutil.copytree(desk / "tiny", bad)
    (bad / "notes.txt").write_text("mine")
    done = cxrdist(desk, "shards", "verify", bad)
    assert (done.returncode, done.stderr) == (1, "")
    end = f"{bad}: 1 problem\nwhat to do: move the files that are not part of the set to another folder\n"
    assert done.stdout.endswith(f"notes.txt: not part of the set\n{end}")
    (bad / "val-normal-real-000000.tar").unlink()
    done = cxrdist(desk, "shards", "verify", bad)
    assert done.returncode == 1
    assert done.stdout.endswith(
        f"{bad}: 2 problems\nwhat to do: restore the set from a copy, or make it again: remove its folder first, or "
        "manifest.json alone if tars were indexed in place; "
        "move the files that are not part of the set to another folder\n"
    )
    (bad / "manifest.json").write_bytes(b"{}")
    done = cxrdist(desk, "shards", "verify", bad)
    assert (done.returncode, done.stderr) == (1, "") and f"\n{bad}: 1 problem\nwhat to do: " in done.stdout


def test_verify_quick_reads_no_image(desk: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(desk / "tiny", tmp_path / "bad"))
    tar = bad / "val-normal-real-000000.tar"
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    done = cxrdist(desk, "shards", "verify", bad, "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"{bad}: no problems found in sizes and tables; images were not read\n")
    tar.write_bytes(data + b"more")
    done = cxrdist(desk, "shards", "verify", bad, "--quick")
    assert done.returncode == 1
    assert f"\n{tar.name}: {len(data) + 4:,} bytes, not {len(data):,}\n{bad}: 1 problem\n" in done.stdout


def test_a_set_is_converted_looked_at_and_mended(desk: Path, tmp_path: Path) -> None:
    """One after the other in a folder of one's own, with what each prints last."""
    shutil.copytree(desk / "tiny", tmp_path / "tiny")
    done = cxrdist(tmp_path, "shards", "convert", "tiny", "--workers", "1")
    assert (done.returncode, done.stderr) == (0, "")
    digest = json.loads((tmp_path / "tiny-32-npy" / "manifest.json").read_bytes())["digest"]
    assert done.stdout.endswith(f"tiny-32-npy: 32 images, digest {digest[:12]}\n")
    done = cxrdist(tmp_path, "shards", "info", "tiny-32-npy")
    of = json.loads((tmp_path / "tiny" / "manifest.json").read_bytes())["digest"][:12]
    assert f"\nconvert   from {of} to 32 px npy\nlineage   converted from {of}, newest first\n" in done.stdout
    done = cxrdist(tmp_path, "shards", "preview", "tiny", "tiny-32-npy")
    assert (done.returncode, done.stdout, done.stderr) == (0, "preview: preview.png\n", "")
    done = cxrdist(tmp_path, "shards", "stats", "tiny")
    assert (done.returncode, done.stderr) == (0, "") and "warning" not in done.stdout
    (tmp_path / "tiny" / "val-normal-real-000000.index.npy").unlink()
    done = cxrdist(tmp_path, "shards", "verify", "tiny")
    assert done.returncode == 1
    assert done.stdout.endswith("\nwhat to do: rebuild the indexes with `cxrdist shards index tiny`\n")
    done = cxrdist(tmp_path, "shards", "index", "tiny")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("tiny: indexes: 8 intact, 1 rebuilt\n")
    assert cxrdist(tmp_path, "shards", "verify", "tiny").returncode == 0


def test_mix_show_tells_what_an_epoch_takes(desk: Path) -> None:
    done = cxrdist(desk, "mix", "show", "DS1", "--shards", "tiny")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["DS1", "of", "tiny:", "18", "images", "an", "epoch"]
    assert ["Pleural", "Effusion", "6", "0", "6", "33.3%", "real", "1.00"] in lines
    done = cxrdist(desk, "mix", "show", "DS3", "--shards", "tiny/")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["DS3", "of", "tiny:", "48", "images", "an", "epoch"]
    for name, real in (("Normal", 8), ("Pneumothorax", 4)):
        assert [name, str(real), str(16 - real), "16", "33.3%", "real", "1.00"] in lines


def test_a_reader_that_goes_away_is_no_error(desk: Path) -> None:
    command = f"{sys.executable} -m cxrdist shards info tiny --json | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=desk,
        # Unbuffered, print writes its line in two pieces, and `head` may leave between them.
        env={**os.environ, "PYTHONPATH": str(CLONE), "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


def test_presets_load_no_importer() -> None:
    program = (
        "import sys, cxrdist.cli.presets\n"
        "print([name for name in sys.modules if 'cxrdist.cli.main' in name or 'importers' in name])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


def test_an_import_is_planned_without_a_set(tmp_path: Path) -> None:
    words = ("import", "phantom", "--out", "set", "--images", "200", "--size", "16")
    planned = cxrdist(tmp_path, *words, "--plan", "--json")
    assert (planned.returncode, planned.stderr) == (0, "computing phantom radiographs\n")
    plan = json.loads(planned.stdout)
    table = cxrdist(tmp_path, *words, "--plan")
    assert "\nleft out " in table.stdout and not (tmp_path / "set").exists()
    done = cxrdist(tmp_path, *words)
    assert done.returncode == 0 and table.stdout.removesuffix("\n") in done.stdout
    counts = json.loads((tmp_path / "set/manifest.json").read_text())["counts"]
    assert plan["images"] == {
        split: {name: origins["real"] for name, origins in classes.items()}
        for split, classes in counts.items()
    }
    assert plan["left_out"] == {}
    for split, classes in plan["patients"].items():
        assert all(0 < patients <= plan["images"][split][name] for name, patients in classes.items())
    assert mistake(cxrdist(tmp_path, *words, "--json")) == "--json: needs --plan"
    in_place = ("import", "webdataset", "--root", ".", "--in-place", "--plan")
    assert "--plan: tars that are indexed in place" in mistake(cxrdist(tmp_path, *in_place))
