"""The jobs as users start them, on one and on two processes, whole and killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from cxrdist.cli import synth
from cxrdist.cls.config import ClsConfig
from cxrdist.cls.training.sources import digests_of, synthetic_path
from cxrdist.config.yaml_files import find_named, load_yaml
from cxrdist.data.loading.mix_sets import train_counts
from cxrdist.data.loading.order_digest import OrderDigest, hash_keys
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.mix.rules import quotas, rule_from
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.tools.mix_order import OrderOptions, order_lines
from cxrdist.errors import UserError
from cxrdist.seeds import derive
from cxrdist.synth import show
from tests.helpers.launching import launch, launch_command, launch_environment, replaced, run, summary
from tests.helpers.processes import alive, descendants, wait_until
from tests.helpers.s3_server import S3Server
from tests.helpers.shard_sets import spoil

pytestmark = pytest.mark.slow

GAN = ["--config", "configs/gan/demo-dcgan.yaml", "--maps", "8", "--batch", "16", "--budget", "1600 images"]
GAN += [
    "--precision",
    "fp32",
    "--look-every-images",
    "800",
    "--learning-rate",
    "0.002",
    "--images-per-class",
    "7",
]
CLS = ["--config", "configs/cls/px32.yaml", "--batch", "16", "--budget", "960 images", "--evaluations", "3"]
CLS += ["--precision", "fp32", "--widths", "4,8", "--hidden", "16"]

# Two processes sum in another order than one: float32 rounding, grown over the steps of these tests
# (1.3e-4 measured). A gradient that is not synced, or z that is the same on both, differs by 2.5e-3 or more.
TOLERANCE = 6e-4


def largest_difference(a: Path, b: Path) -> float:
    ours, theirs = load_file(a), load_file(b)
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[k] - theirs[k]).max()) for k in ours)


UNGATED = ("--gates", "none")
"""Generators that were trained for seconds pass no gate."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_set: Path) -> Path:
    """A folder with a GAN run and the synthetic set made from it, on two processes."""
    folder = tmp_path_factory.mktemp("work")
    said = run("train_gan.py", *GAN, "--shards", str(tiny_set), "--run", "gan", cwd=folder, processes=2)
    # Rank 0 alone speaks: each line once.
    assert said.count("3 generators in") == 1
    assert said.count("2 processes on CPU, 1 thread each") == 1
    said = run(
        "synthesize.py",
        *UNGATED,
        "--gan",
        "gan",
        "--shards",
        str(tiny_set),
        "--out",
        "synthetic",
        cwd=folder,
        processes=2,
    )
    assert said.count("synthesis of 30 images for DS3") == 1
    return folder


ALONE = ["--classes", "Pneumothorax", "--run", "alone"]


@pytest.fixture(scope="module")
def alone(work: Path, tiny_set: Path) -> Path:
    """The run of one class of the GAN, on one process; a test that cuts it short finishes it again."""
    run("train_gan.py", *GAN, "--shards", str(tiny_set), *ALONE, cwd=work)
    return work / "alone/pneumothorax"


@pytest.fixture(scope="module")
def classifier(work: Path, tiny_set: Path) -> Path:
    """The run of a classifier on one process; a test that cuts it short finishes it again."""
    run("train_cls.py", *classifier_words(tiny_set), "--run", "c1", cwd=work)
    return work / "c1"


def classifier_words(tiny_set: Path) -> list[str]:
    return [*CLS, "--mix", "DS3", "--shards", str(tiny_set), "--synthetic", "synthetic"]


def test_a_gan_run_has_a_folder_per_class(work: Path, tiny_set: Path) -> None:
    found = summary(work / "gan")
    assert list(found["models"]) == ["Normal", "Pleural Effusion", "Pneumothorax"]
    assert found["world_size"] == 2 and found["device"] == "cpu"
    assert found["shards"] == {"real": ShardSet(tiny_set).digest}
    assert found["images_seen"] == 3 * 1600
    for slug in ("normal", "pleural-effusion", "pneumothorax"):
        names = {p.name for p in (work / "gan" / slug).iterdir()}
        assert {"generator.safetensors", "model.json", "README.md", "summary.json", "metrics.jsonl"} <= names
        assert "Not yet: `launch/evaluate_gan.py`" in (work / "gan" / slug / "README.md").read_text()
        grids = sorted(p.name for p in (work / "gan" / slug / "samples" / slug).iterdir())
        assert grids == ["images-000000800.png", "images-000001600.png"]
        lines = (work / "gan" / slug / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["images"] for line in lines] == [800, 1600]


def test_one_process_sees_the_same_images_as_two(work: Path, alone: Path) -> None:
    one, two = summary(alone), summary(work / "gan/pneumothorax")
    assert one["order_sha256"] == two["order_sha256"]
    assert (one["world_size"], two["world_size"]) == (1, 2)


def test_gan_weights_agree_between_one_and_two_processes_without_batch_norm(
    work: Path, tiny_set: Path
) -> None:
    words = replaced(GAN, "--shards", str(tiny_set), "--classes", "Normal", "--learning-rate", "2e-4")
    words += ["--norm", "none"]
    run("train_gan.py", *words, "--run", "plain1", cwd=work)
    run("train_gan.py", *words, "--run", "plain2", cwd=work, processes=2)
    name = "normal/generator.safetensors"
    assert largest_difference(work / "plain1" / name, work / "plain2" / name) < TOLERANCE


def test_synthetic_shards_are_the_same_bytes_on_one_process(work: Path, tiny_set: Path) -> None:
    run("synthesize.py", *UNGATED, "--gan", "gan", "--shards", str(tiny_set), "--out", "synthetic1", cwd=work)
    one, two = work / "synthetic1", work / "synthetic"
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_a_synthetic_set_holds_what_the_mix_lacks_and_names_its_origin(work: Path, tiny_set: Path) -> None:
    shards, real = ShardSet(work / "synthetic"), ShardSet(tiny_set)
    assert shards.manifest.counts == {
        "train": {
            "Normal": {"synthetic": 8},
            "Pleural Effusion": {"synthetic": 10},
            "Pneumothorax": {"synthetic": 12},
        }
    }
    lineage = shards.manifest.lineage
    assert (lineage.kind, lineage.real_digest, lineage.split) == ("synthetic", real.digest, "train")
    generators = {name: c["weights_sha256"] for name, c in summary(work / "gan")["models"].items()}
    assert lineage.generators == generators


def test_a_synthesis_makes_so_many_images_as_are_asked_for(work: Path, tiny_set: Path) -> None:
    words = [
        "--gan",
        "gan",
        *UNGATED,
        "--shards",
        str(tiny_set),
        "--out",
        "counted",
        "--count",
        "Pneumothorax=9,Normal=3",
    ]
    said = run("synthesize.py", *words, cwd=work)
    assert "synthesis of 12 images for --count Pneumothorax=9,Normal=3" in said
    made = ShardSet(work / "counted").manifest
    assert made.counts["train"] == {"Normal": {"synthetic": 3}, "Pneumothorax": {"synthetic": 9}}
    options = made.provenance.json_value()["options"]
    assert (options["mix"], options["images"]) == (None, {"Normal": 3, "Pneumothorax": 9})
    refused = launch("synthesize.py", *words, "--mix", "DS3", cwd=work)
    assert refused.returncode == 2 and "--count: is given beside --mix DS3" in refused.stderr


def test_a_synthetic_image_is_made_again_from_what_its_metadata_name(
    work: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = ShardSet(work / "synthetic")
    reader = made.stratum("train", "Pneumothorax", "synthetic")
    key, other = (reader.key(number).decode() for number in (0, reader.samples - 1))
    words = [
        "--set",
        str(work / "synthetic"),
        "--gan",
        str(work / "gan"),
        "--out",
        str(tmp_path / "both.png"),
    ]
    assert synth.show([key, *words]) == synth.show([other, *words]) == 0
    assert "all 1,024 pixels are the stored ones" in capsys.readouterr().out
    both = np.asarray(Image.open(tmp_path / "both.png"))
    assert both.shape == (32, 64) and np.array_equal(both[:, :32], both[:, 32:]) and both.std() > 0

    # A generator of other weights is another digest; pixels that were changed are found.
    with pytest.raises(UserError, match="has no generator of digest"):
        synth.show([key, "--set", str(work / "synthetic"), "--gan", str(work / "gan/normal")])
    with pytest.raises(UserError, match="has no synthetic image none"):
        synth.show(["none", *words])
    shown = show.show(key, made, work / "gan")
    changed = replace(shown, stored=np.where(shown.stored == shown.stored.max(), 0, shown.stored))
    assert (changed.differing, changed.largest) == (
        int((shown.stored == shown.stored.max()).sum()),
        int(shown.stored.max()),
    )


def test_a_killed_synthesis_goes_on_to_the_same_bytes(work: Path, tiny_set: Path) -> None:
    """As a kill leaves it: some shards whole, one under a temporary name, no manifest."""
    words = [*UNGATED, "--gan", "gan", "--shards", str(tiny_set), "--out", "killed"]
    shutil.copytree(work / "synthetic", work / "killed")
    whole = {p.name: p.read_bytes() for p in (work / "killed").iterdir()}
    manifest = json.loads((work / "killed/manifest.json").read_text())
    job = {k: v for k, v in manifest["provenance"].items() if k != "gates"}
    (work / "killed/.job.json").write_text(json.dumps(job))
    for name in whole:
        if name == "manifest.json" or name.endswith(".json") or "normal" in name:
            (work / "killed" / name).unlink()
    (work / "killed/.train-normal-synthetic-000000.tar.1.tmp").write_bytes(b"half")
    done = launch("synthesize.py", *words, cwd=work)
    assert done.returncode == 0 and "killed: continuing an unfinished set\n" in done.stderr, done.stderr
    assert {p.name: p.read_bytes() for p in (work / "killed").iterdir()} == whole


def test_the_classifier_agrees_between_one_and_two_processes(
    work: Path, classifier: Path, tiny_set: Path
) -> None:
    words = classifier_words(tiny_set)
    run("train_cls.py", *words, "--run", "c2", cwd=work, processes=2)
    one, two = summary(classifier), summary(work / "c2")
    assert one["order_sha256"] == two["order_sha256"] == printed_order(work, tiny_set)
    assert (
        one["counts"]
        == two["counts"]
        == {
            "Normal": {"real": 8, "synthetic": 8},
            "Pleural Effusion": {"real": 6, "synthetic": 10},
            "Pneumothorax": {"real": 4, "synthetic": 12},
        }
    )
    assert one["images_seen"] == two["images_seen"] == 960
    assert one["metrics"]["test"]["n"] == {"Normal": 3, "Pleural Effusion": 2, "Pneumothorax": 2}
    assert one["metrics"]["test"] == two["metrics"]["test"]
    assert largest_difference(classifier / "model.safetensors", work / "c2/model.safetensors") < TOLERANCE
    again = run("train_cls.py", *words, "--run", "c1", cwd=work)
    assert "already finished" in again


def printed_order(work: Path, tiny_set: Path) -> str:
    """``order_sha256`` of what `cxrdist mix order` prints: 960 images are 20 epochs."""
    options = OrderOptions(
        mix="DS3", shards=str(tiny_set), synthetic=str(work / "synthetic"), batch=16, epochs=20
    )
    value = b""
    for line in order_lines(options, rule_from(load_yaml(find_named("mix", "DS3")))):
        value = hash_keys((key.encode() for key in line.split()[6:]), value)
    return value.hex()


def test_killing_the_launcher_kills_the_ranks_and_the_same_command_resumes(
    work: Path, tiny_set: Path
) -> None:
    long = ["--budget", "3200 images", "--evaluations", "40"]
    words = [*replaced(CLS, *long), "--mix", "DS1", "--shards", str(tiny_set), "--synthetic", "synthetic"]
    run("train_cls.py", *words, "--run", "whole", cwd=work, processes=2)

    command = launch_command("train_cls.py", *words, "--run", "cut", processes=2)
    launcher = subprocess.Popen(
        command, cwd=work, env=launch_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoints = work / "cut/checkpoints"
    wait_until(lambda: checkpoints.exists() and any(checkpoints.glob("images-*")))
    ranks = descendants(launcher.pid)
    assert len(alive(ranks)) >= 2
    # Held still, so that the first job lives while the second tries, and the launcher cannot clean up.
    for pid in (launcher.pid, *ranks):
        os.kill(pid, signal.SIGSTOP)

    second = launch("train_cls.py", *words, "--run", "cut", cwd=work)
    assert second.returncode == 2
    assert "cut is being written by a cls job" in second.stderr
    assert second.stderr.count("error: ") == 1 and "Traceback" not in second.stderr

    launcher.kill()
    launcher.wait()
    for pid in ranks:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not alive(ranks), timeout_s=20)
    assert not (work / "cut/summary.json").exists()

    assert "resuming at" in launch("train_cls.py", *words, "--run", "cut", cwd=work, processes=2).stderr
    cut, whole = summary(work / "cut"), summary(work / "whole")
    for key in ("weights_sha256", "order_sha256", "metrics", "images_seen", "best_images"):
        assert cut[key] == whole[key], key
    assert (work / "cut/metrics.jsonl").read_text() == (work / "whole/metrics.jsonl").read_text()


def test_a_resumed_gan_is_the_gan_that_was_not_interrupted(work: Path, alone: Path, tiny_set: Path) -> None:
    whole = summary(alone)
    # As after a kill between the first look and the second.
    for path in (*alone.glob("*.safetensors"), *alone.glob("*.json"), alone.parent / "summary.json"):
        path.unlink()
    last = alone / "checkpoints/images-000000001600"
    (last / "generator.safetensors").write_bytes(b"torn")
    done = launch("train_gan.py", *GAN, "--shards", str(tiny_set), *ALONE, cwd=work)
    assert "resuming at 800 images" in done.stderr
    again = summary(alone)
    for key in ("weights_sha256", "order_sha256", "metrics"):
        assert again[key] == whole[key], key


@pytest.mark.parametrize("job", ["cls", "gan"])
def test_substitutes_are_counted_over_a_run_that_was_interrupted(
    tmp_path: Path, tiny_set: Path, job: str
) -> None:
    copy = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    spoil(copy, "Pneumothorax", 1)
    words = ["--shards", str(copy), "--loader.on-corrupt", "substitute", "--loader.most-substitutes", "999"]
    if job == "cls":
        script, words = "train_cls.py", [*CLS, "--mix", "DS1", *words]
        folder, most, half = tmp_path / "run", "960", "640"
        # 960 images are 53 epochs of 18, and 6 more.
        expected = {53, 54}
    else:
        of_gan = ["--budget", "320 images", "--look-every-images", "160", "--classes", "Pneumothorax"]
        script, words = "train_gan.py", [*replaced(GAN, *of_gan), *words]
        folder, most, half = tmp_path / "run/pneumothorax", "320", "160"
        expected = {80}  # 320 images are 80 epochs of its four
    done = launch(script, *words, "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = summary(folder)
    assert whole["substituted"] in expected
    assert done.stderr.count("another sample of its class replaces it") == whole["substituted"]
    for path in (*folder.glob("*.safetensors"), *tmp_path.glob("run/**/summary.json")):
        path.unlink()
    (folder / "checkpoints" / f"images-{int(most):012d}" / "optimizers.pt").write_bytes(b"torn")
    assert f"resuming at {half} images" in launch(script, *words, "--run", "run", cwd=tmp_path).stderr
    again = summary(folder)
    for key in ("substituted", "order_sha256", "weights_sha256"):
        assert again[key] == whole[key], key


REFUSALS = [
    (["--mix", "DS3"], "DS3 needs synthetic images, and", "has none. These two commands make them: "),
    (["--mix", "DS9"], "DS9", "did you mean"),
    (["--mix", "DS1", "--batch", "0"], "--batch", "more than 0"),
    (["--mix", "DS1", "--btch", "8"], "--btch", "--batch"),
    (["--mix", "DS1", "--widths", "4,4,4,4,4,4"], "size is 32", "multiple of 64"),
]


@pytest.mark.parametrize(("words", "first", "second"), REFUSALS)
def test_the_classifier_refuses_with_one_line(
    tmp_path: Path, tiny_set: Path, words: list[str], first: str, second: str
) -> None:
    done = launch("train_cls.py", "--shards", str(tiny_set), "--run", "r", *words, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert any(word in line for word in first.split("|")) and second in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()


def test_ds3_without_synthetic_images_names_both_commands(tmp_path: Path, tiny_set: Path) -> None:
    done = launch("train_cls.py", "--mix", "DS3", "--shards", str(tiny_set), cwd=tmp_path)
    assert f"accelerate launch launch/train_gan.py --shards {tiny_set} --run runs/gan" in done.stderr
    assert (
        f"accelerate launch launch/synthesize.py --gan runs/gan --shards {tiny_set} --mix DS3" in done.stderr
    )


def test_two_ranks_refuse_a_batch_that_does_not_divide_once(tmp_path: Path, tiny_set: Path) -> None:
    words = ["--shards", str(tiny_set), "--batch", "15", "--run", "r"]
    done = launch("train_cls.py", *words, cwd=tmp_path, processes=2)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "does not divide among 2 processes: take --batch 14 or 16" in done.stderr


def test_a_missing_tar_is_named_by_whichever_rank_wants_it(tmp_path: Path, tiny_set: Path) -> None:
    copy = tmp_path / "set"
    subprocess.run(["cp", "-r", str(tiny_set), str(copy)], check=True)
    (copy / "train-pneumothorax-real-000000.tar").unlink()
    words = replaced(CLS, "--batch", "2", "--shards", str(copy), "--run", "r")
    done = launch("train_cls.py", *words, cwd=tmp_path, processes=2)
    assert done.returncode != 0
    assert "error: " in done.stderr and "train-pneumothorax-real-000000.tar: missing" in done.stderr


def test_the_kept_weights_are_the_ones_in_the_checkpoint(
    work: Path, classifier: Path, tiny_set: Path
) -> None:
    """The best weights travel in the checkpoint, so that a run finished from it reports what it says."""
    before = summary(classifier)
    last = max((classifier / "checkpoints").iterdir())
    best, model = load_file(last / "best.safetensors"), load_file(classifier / "model.safetensors")
    assert all(np.array_equal(best[k], model[k]) for k in model)
    for name in ("summary.json", "model.safetensors"):
        (classifier / name).unlink()
    run("train_cls.py", *classifier_words(tiny_set), "--run", "c1", cwd=work)
    after = summary(classifier)
    for key in ("weights_sha256", "metrics", "best_images", "order_sha256"):
        assert after[key] == before[key], key


def test_a_corrupt_sample_on_one_rank_stops_all(tmp_path: Path, tiny_set: Path) -> None:
    copy = tmp_path / "set"
    subprocess.run(["cp", "-r", str(tiny_set), str(copy)], check=True)
    path = copy / "train-normal-real-000000.tar"
    row = ShardSet(copy).stratum("train", "Normal", "real").index(0)[0]
    data = bytearray(path.read_bytes())
    data[int(row["offset_bytes"]) + 40] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    done = launch("train_cls.py", *CLS, "--shards", str(copy), "--run", "r", cwd=tmp_path, processes=2)
    assert done.returncode != 0
    assert f"sample {row['key'].decode()} at byte {row['offset_bytes']}" in done.stderr
    assert "shards verify" in done.stderr
    assert not (tmp_path / "r/summary.json").exists()


def test_synthetic_images_of_another_lineage_are_refused(
    work: Path, tmp_path: Path, images: Path, tiny_set: Path
) -> None:
    from cxrdist.data.importers.folder import Folder
    from cxrdist.data.ingest.ingest import IngestOptions, ingest

    other = tmp_path / "other"
    ingest(
        Folder(root=str(images)), IngestOptions(out=str(other), size=32, val=0.2, test=0.2, seed=5, workers=1)
    )
    words = [*CLS, "--mix", "DS3", "--shards", str(other), "--synthetic", str(work / "synthetic")]
    done = launch("train_cls.py", *words, "--run", "r", cwd=tmp_path)
    assert done.returncode == 2
    assert "descends from another real set" in done.stderr
    run("train_cls.py", *words, "--allow-other-lineage", "--run", "r2", cwd=tmp_path)
    assert summary(tmp_path / "r2")["other_lineage_allowed"] is True
    done = launch("synthesize.py", *UNGATED, "--gan", str(work / "gan"), "--shards", str(other), cwd=tmp_path)
    assert done.returncode == 2
    assert "was trained on another set" in done.stderr


def test_sets_may_lie_in_an_object_store(
    work: Path, remote: S3Server, tiny_set: Path, tmp_path: Path
) -> None:
    """Two ranks write to it and a classifier reads from it as from folders; the runs' own files stay local."""
    url = "s3://bucket/set/"
    run("synthesize.py", *UNGATED, "--gan", str(work / "gan"), "--shards", url, cwd=tmp_path, processes=2)
    assert remote.objects("set-synthetic/") == {
        path.name: path.read_bytes() for path in (work / "synthetic").iterdir()
    }
    short = replaced(CLS, "--budget", "64 images", "--evaluations", "1", "--mix", "DS3")
    run("train_cls.py", *short, "--shards", url, "--run", "cls", cwd=tmp_path)
    here = ShardSet(tiny_set), ShardSet(work / "synthetic")
    assert summary(tmp_path / "cls")["shards"] == digests_of(ClsConfig(), *here)
    quotas_ = quotas(rule_from(load_yaml(find_named("mix", "DS3"))), train_counts(*here))
    local, order = Stream(*here, quotas_, StreamOptions(batch=16, seed=derive(0, "cls order"))), OrderDigest()
    for step in range(4):
        order.saw(local.read(step))
    expected = order.flush(lambda keys: keys, 1, torch.device("cpu"))
    assert summary(tmp_path / "cls")["order_sha256"] == expected
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "cls"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["synth-set-synthetic"]


def test_a_synthetic_set_is_looked_for_where_the_real_one_lies(remote: S3Server) -> None:
    rule, config = rule_from(load_yaml(find_named("mix", "DS3"))), ClsConfig(shards="s3://bucket/set/")
    place = "s3://bucket/set-synthetic"
    with pytest.raises(UserError, match=f"DS3 needs synthetic images, and {place} has none. "):
        synthetic_path(config, [rule])
    remote.put("set-synthetic/manifest.json", b"{}")
    assert synthetic_path(config, [rule]) == place
