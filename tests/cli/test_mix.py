"""``cxrdist mix show`` and ``cxrdist mix order``, on the tiny set and a synthetic one that descends from it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxrdist.cli.main import dispatch
from cxrdist.data.imaging.codecs import encode
from cxrdist.data.loading.mix_sets import repeated_strata
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.shards.index import write_table
from cxrdist.data.shards.lineage import made_from
from cxrdist.data.shards.manifest import Stratum
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.tar import Sample
from cxrdist.data.storage.store import LocalStore
from cxrdist.process import main as process_main
from cxrdist.seeds import derive
from tests.helpers.commands import mix
from tests.helpers.launching import CLONE
from tests.helpers.shard_sets import write_set, write_shard

Capture = pytest.CaptureFixture[str]
DS3 = {
    "Normal": {"real": 8, "synthetic": 8},
    "Pleural Effusion": {"real": 6, "synthetic": 10},
    "Pneumothorax": {"real": 4, "synthetic": 12},
}


def make_synthetic(folder: Path, real: ShardSet, counts: dict[str, int]) -> Path:
    """Generated images, as synthesis writes them from this real set; a class of none has no shard."""
    store = LocalStore(folder)
    strata = []
    for label, name in enumerate(real.classes):
        stratum = Stratum("train", name, "synthetic")
        image = encode(np.full((real.image_size, real.image_size), 40 * label, np.uint8), "png")
        if counts.get(name):
            samples = [Sample(f"g{label}-{i:04d}", image, {"patient": None}) for i in range(counts[name])]
            strata.append(
                write_table(store, stratum, [write_shard(store, 0, stratum, label, "png", samples)])
            )
    lineage = {"kind": "synthetic", **made_from(real), "generators": {}}
    write_set(store, real.classes, real.image_size, "png", strata, lineage=lineage)
    return folder


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_set: Path) -> Path:
    """A current folder with ``tiny``, ``tiny-synthetic`` and some mixes; read-only for all tests."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "tiny").symlink_to(tiny_set)
    real = ShardSet(tiny_set)
    make_synthetic(desk / "tiny-synthetic", real, {"Normal": 8, "Pleural Effusion": 5, "Pneumothorax": 3})
    make_synthetic(desk / "part", real, {"Normal": 8, "Pneumothorax": 12})
    mixes = desk / "configs" / "mix"
    mixes.mkdir(parents=True)
    (mixes / "mine.yaml").write_text(
        'name: mine\nepoch_images: 30\nweights:\n  Pneumothorax: {real: 1, synthetic: 2.5}\n  "*": {real: 0.25}\n'
        "  Normal: {real: 0}\n"
    )
    (mixes / "misspelt.yaml").write_text(
        'name: m\nepoch_images: own\nweights: {Norml: {real: 1}, "*": {real: 1}}\n'
    )
    (mixes / "both.yaml").write_text("name: b\nepoch_images: own\nimages_per_class: own\n")
    (mixes / "digits.yaml").write_text(f"name: d\nimages_per_class: {'9' * 5_000}\n")
    (mixes / "brackets.yaml").write_text("[" * 1_000)
    (mixes / "largest.yaml").write_text(f"name: l\nimages_per_class: {2**53}\n")
    return desk


@pytest.fixture(autouse=True)
def here(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.setenv("COLUMNS", "100")


# ---- show


def test_ds1(capsys: Capture) -> None:
    expected = [
        "DS1 of tiny: 18 images an epoch",
        "class             real  synthetic  target   share  repeats per image",
        "Normal               8          0       8   44.4%          real 1.00",
        "Pleural Effusion     6          0       6   33.3%          real 1.00",
        "Pneumothorax         4          0       4   22.2%          real 1.00",
        "total               18          0      18  100.0%",
    ]
    assert mix(capsys, "show", "DS1", "--shards", "tiny") == expected
    assert mix(capsys, "show", "DS1", "--shards", "tiny", "--synthetic", "nowhere") == expected


def test_ds3_tells_what_is_to_make(capsys: Capture) -> None:
    assert mix(capsys, "show", "--shards", "tiny") == [
        "DS3 of tiny: 48 images an epoch",
        "class             real  synthetic  target   share  repeats per image",
        "Normal               8          8      16   33.3%          real 1.00",
        "Pleural Effusion     6         10      16   33.3%          real 1.00",
        "Pneumothorax         4         12      16   33.3%          real 1.00",
        "total               18         30      48  100.0%",
        "to make: 30 synthetic images (Normal 8, Pleural Effusion 10, Pneumothorax 12), with `accelerate launch "
        "launch/synthesize.py --gan runs/gan --shards tiny --mix DS3 --out tiny-synthetic`",
    ]


def test_ds3_with_a_synthetic_set_that_is_too_small(capsys: Capture) -> None:
    words = ("show", "DS3", "--shards", "tiny", "--synthetic", "tiny-synthetic")
    effusion = "Pleural Effusion: 10 synthetic images an epoch from 5, so each is used about 2.0 times"
    pneumothorax = "Pneumothorax: 12 synthetic images an epoch from 3, so each is used about 4.0 times"
    table = [
        "DS3 of tiny and tiny-synthetic: 48 images an epoch",
        "class             real  synthetic  target   share          repeats per image",
        "Normal               8          8      16   33.3%  real 1.00, synthetic 1.00",
        "Pleural Effusion     6         10      16   33.3%  real 1.00, synthetic 2.00",
        "Pneumothorax         4         12      16   33.3%  real 1.00, synthetic 4.00",
        "total               18         30      48  100.0%",
    ]
    for limit, logged in (
        ("3", [effusion, f"warning: {pneumothorax}"]),
        ("4", [effusion, pneumothorax]),
        ("1.5", [f"warning: {effusion}", f"warning: {pneumothorax}"]),
    ):
        assert mix(capsys, *words, "--warn-repeats", limit, logged=logged) == table
    assert mix(capsys, *words, logged=[effusion, f"warning: {pneumothorax}"]) == table


def test_the_classifier_warns_in_the_same_words() -> None:
    repeated = repeated_strata({"A": {"real": 3, "synthetic": 2_500}}, {"A": {"real": 3, "synthetic": 1_000}})
    assert [str(repeat) for repeat in repeated] == [
        "A: 2,500 synthetic images an epoch from 1,000, so each is used about 2.5 times"
    ]


def test_ds3_with_a_synthetic_set_that_lacks_a_class(capsys: Capture) -> None:
    assert mix(capsys, "show", "DS3", "--shards", "tiny", "--synthetic", "part")[3:] == [
        "Pleural Effusion     6         10      16   33.3%                  real 1.00",
        "Pneumothorax         4         12      16   33.3%  real 1.00, synthetic 1.00",
        "total               18         30      48  100.0%",
        "missing: Pleural Effusion: 10 synthetic images an epoch, but there are none: training will fail",
    ]


def test_weights(capsys: Capture) -> None:
    """30 images at 1 : 2.5 : 0.25 are 8, 20 and 2."""
    logged = [
        "Normal: not in an epoch, since the mix takes none of its images",
        "Pneumothorax: 8 real images an epoch from 4, so each is used about 2.0 times",
        "Pneumothorax: 20 synthetic images an epoch from 12, so each is used about 1.7 times",
    ]
    words = ("show", "mine", "--shards", "tiny", "--synthetic", "part")
    assert mix(capsys, *words, logged=logged) == [
        "mine of tiny and part: 30 images an epoch",
        "class             real  synthetic  target   share          repeats per image",
        "Normal               0          0       0    0.0%                          -",
        "Pleural Effusion     2          0       2    6.7%                  real 0.33",
        "Pneumothorax         8         20      28   93.3%  real 2.00, synthetic 1.67",
        "total               10         20      30  100.0%",
    ]


def test_a_class_without_images(tmp_path: Path, tiny_set: Path, capsys: Capture) -> None:
    store, label = LocalStore(tmp_path / "set"), 0
    image = encode(np.zeros((32, 32), np.uint8), "png")
    stratum = Stratum("train", "Normal", "real")
    samples = [Sample(f"k{i}", image, {"patient": f"p{i}"}) for i in range(3)]
    entry = write_table(store, stratum, [write_shard(store, 0, stratum, label, "png", samples)])
    write_set(store, ["Normal", "Rare"], 32, "png", [entry])
    place = str(tmp_path / "set")
    logged = ["Rare: not in an epoch, since it has no image"]
    assert mix(capsys, "show", "DS1", "--shards", place, logged=logged)[2:] == [
        "Normal     3          0       3  100.0%          real 1.00",
        "Rare       0          0       0    0.0%                  -",
        "total      3          0       3  100.0%",
    ]
    assert mix(capsys, "show", "DS2", "--shards", place)[-1] == (
        "missing: Rare: 3 real images an epoch, but there are none: training will fail"
    )


def test_as_json(capsys: Capture) -> None:
    words = ("show", "DS3", "--shards", "tiny", "--json")
    told = json.loads("".join(mix(capsys, *words, "--synthetic", "tiny-synthetic")))
    assert told["classes"].pop("Normal") == {
        "target": 16,
        "share": 1 / 3,
        "origins": {
            "real": {"images": 8, "available": 8, "repeats": 1.0},
            "synthetic": {"images": 8, "available": 8, "repeats": 1.0},
        },
    }
    assert told["classes"]["Pneumothorax"]["origins"]["synthetic"] == {
        "images": 12,
        "available": 3,
        "repeats": 4.0,
    }
    assert list(told.pop("classes")) == ["Pleural Effusion", "Pneumothorax"]
    assert told == {
        "mix": "DS3",
        "shards": "tiny",
        "synthetic": "tiny-synthetic",
        "epoch_images": 48,
        "remarks": [
            "note: Pleural Effusion: 10 synthetic images an epoch from 5, so each is used about 2.0 times",
            "warning: Pneumothorax: 12 synthetic images an epoch from 3, so each is used about 4.0 times",
        ],
    }
    told = json.loads("".join(mix(capsys, *words)))
    assert told["synthetic"] is None and told["remarks"][0].startswith(
        "to make: 30 synthetic images (Normal 8, "
    )
    assert told["classes"]["Normal"]["origins"]["synthetic"] == {
        "images": 8,
        "available": None,
        "repeats": None,
    }


# ---- order

ORDER = ("order", "DS3", "--shards", "tiny", "--batch", "16", "--epochs", "2")


def keys_read(desk: Path, step: int, *, rank: int = 0, ranks: int = 1, seed: int = 0) -> list[str]:
    """What a training of this seed reads, pixels and all."""
    real, synthetic = ShardSet(desk / "tiny"), ShardSet(desk / "tiny-synthetic")
    order = derive(seed, "cls order")
    stream = Stream(real, synthetic, DS3, StreamOptions(batch=16, seed=order, rank=rank, world_size=ranks))
    return [key.decode() for key in stream.read(step).keys.tolist()]


def test_each_rank_has_a_line_with_what_it_reads(desk: Path, capsys: Capture) -> None:
    """An epoch is 48 images, three steps of 16."""
    assert mix(capsys, *ORDER, "--ranks", "4", "--seed", "7") == [
        f"step {step} epoch {step // 3} rank {rank} {' '.join(keys_read(desk, step, rank=rank, ranks=4, seed=7))}"
        for step in range(6)
        for rank in range(4)
    ]


def test_an_epoch_may_end_inside_the_last_step(capsys: Capture) -> None:
    """Two epochs are 96 images: step 4 of 20 begins at 80, step 5 would at 100. Epoch 1 begins at 48, in step 2."""
    lines = mix(capsys, "order", "DS3", "--shards", "tiny", "--batch", "20", "--epochs", "2")
    assert [line.split()[:6] for line in lines] == [
        ["step", str(step), "epoch", str(epoch), "rank", "0"] for step, epoch in enumerate([0, 0, 0, 1, 1])
    ]
    assert {len(line.split()) for line in lines} == {6 + 20}


def test_the_digest_is_that_of_the_sorted_keys(desk: Path, capsys: Capture) -> None:
    expected = []
    for step in range(6):
        lines = "".join(f"{key}\n" for key in sorted(keys_read(desk, step)))
        expected.append(f"step {step} {hashlib.sha256(lines.encode()).hexdigest()}")
    assert mix(capsys, *ORDER, "--digest") == expected
    assert len({line.split()[2] for line in expected}) == 6
    assert mix(capsys, *ORDER, "--digest", "--seed", "1")[0] != expected[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "workers", "from_step"),
    [(2, 0, 0), (4, 0, 1), (8, 0, 5), (4, 1, 4), (8, 2, 1)],
)
def test_ranks_and_workers_change_no_digest(
    capsys: Capture, ranks: int, workers: int, from_step: int
) -> None:
    whole = mix(capsys, *ORDER, "--digest")
    words = ("--ranks", str(ranks), "--workers", str(workers), "--from-step", str(from_step))
    assert mix(capsys, *ORDER, "--digest", *words) == whole[from_step:]


@pytest.mark.slow
def test_workers_print_the_same_lines_in_the_same_order(capsys: Capture) -> None:
    """More steps than the workers may be ahead."""
    words = ("order", "DS1", "--shards", "tiny", "--batch", "2", "--ranks", "2", "--epochs", "3")
    lines = mix(capsys, *words)
    assert len(lines) == 2 * 27
    assert mix(capsys, *words, "--workers", "2") == lines


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(desk: Path) -> None:
    words = "order DS1 --shards tiny --batch 18 --epochs 300 --workers 1"  # far more than a pipe holds
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m cxrdist mix {words} | head -n 1"],
        cwd=desk,
        env={**os.environ, "PYTHONPATH": str(CLONE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (141, "")
    assert done.stdout.startswith("step 0 epoch 0 rank 0 ") and len(done.stdout.split()) == 6 + 18


# ---- mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show"], "shards/phantom does not exist yet: create it with `cxrdist import phantom`, or name"),
        (["order"], "shards/phantom does not exist yet: create it with `cxrdist import phantom`, or name"),
        (["show", "--shards", "nowhere"], "nowhere: no such shard set; make one with `cxrdist import"),
        (["order", "DS1", "--shards", "nowhere"], "nowhere: no such shard set; make one with `cxrdist import"),
        (["show", "DS4", "--shards", "tiny"], "configs/mix: no mix is named 'DS4'; did you mean 'DS3'?"),
        (["order", "DS4", "--shards", "tiny"], "configs/mix: no mix is named 'DS4'; did you mean 'DS3'?"),
        (["show", "--shards", "tiny-synthetic"], "tiny-synthetic is a synthetic set: give it as --synthetic"),
        (["order", "--shards", "tiny-synthetic"], "tiny-synthetic is a synthetic set: give it as --synthetic"),
        (["show", "--shards", "tiny", "--synthetic", "tiny"], "tiny is a set of real images: give it as --shards"),
        (["show", "--shards", "tiny", "--warn-repeats", "0"], "--warn-repeats: must be more than 0, not 0.0"),
        (["show", "--shards", "tiny", "--warn-repeats", "nan"], "--warn-repeats: expected a valid number, got 'nan'"),
        (["show", "misspelt", "--shards", "tiny"], "mix m: weights: Norml: not a class of this set; did you mean"),
        (["show", "both", "--shards", "tiny"], "mix b: images_per_class and epoch_images belong to different"),
        (["show", "digits", "--shards", "tiny"], "configs/mix/digits.yaml: not YAML: Exceeds the limit"),
        (["show", "brackets", "--shards", "tiny"], "configs/mix/brackets.yaml: not YAML: maximum recursion depth"),
        (["show", "largest", "--shards", "tiny"], "mix l: an epoch of 27,021,597,764,222,976 images; at most 9,007"),
        (["order", "--shards", "tiny", "--synthetic", "part"], "part: no synthetic images of Pleural Effusion in"),
        (["order", "--shards", "tiny", "--synthetic", "no"], "DS3 needs synthetic images, and no has none. These"),
        (
            ["order", "--shards", "tiny", "--batch", "64", "--ranks", "3"],
            "a global batch of 64 does not divide among 3 processes: take --batch 63 or 66",
        ),
        (["order", "--shards", "tiny", "--batch", "0"], "--batch: must be 1 or more, not 0"),
        (["order", "--shards", "tiny", "--ranks", "0"], "--ranks: must be 1 or more, not 0"),
        (["order", "--shards", "tiny", "--epochs", "0"], "--epochs: must be 1 or more, not 0"),
        (["order", "--shards", "tiny", "--workers", "-1"], "--workers: must be 0 or more, not -1"),
        (["order", "--shards", "tiny", "--from-step", "-1"], "--from-step: must be 0 or more, not -1"),
        (
            ["order", "--shards", "tiny", "--batch", "16", "--from-step", "3"],
            "--from-step: must be at most 2, the last step that begins before the end of epochs 1, not 3",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_line(desk: Path, capsys: Capture, words: list[str], message: str) -> None:
    before = sorted(desk.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        process_main(lambda: dispatch(["mix", *words]))
    done = capsys.readouterr()
    assert (caught.value.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {message}") or done.err.startswith(f"error: {desk}/{message}")
    assert done.err.count("\n") == 1
    assert sorted(desk.rglob("*")) == before
