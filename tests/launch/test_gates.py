"""The gates of a synthesis as users run it: classifiers trained on the way, one and two processes, a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.ingest.ingest import ingest
from cxrdist.data.ingest.options import IngestOptions
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.tools.verify import verify
from tests.helpers.launching import CLONE, launch, launch_command, launch_environment, run
from tests.helpers.processes import wait_until
from tests.helpers.shard_sets import contents

pytestmark = pytest.mark.slow

GENERATOR = ("--generator", "tests.helpers.phantom_generator:load", "--tracking.mode", "disabled")
COUNT = ("--count", "Normal=70,Pneumothorax=30")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a set of phantoms, and a synthetic set that two processes made, with two classifiers that rank 0
    trained before."""
    folder = tmp_path_factory.mktemp("gates")
    (folder / "tests").symlink_to(CLONE / "tests")
    options = IngestOptions(out=str(folder / "set"), size=32, val=0.4, test=0.1, workers=1)
    ingest(Phantom(images=300), options)
    out = ("--shards", "set", "--out", "made", "--run", "run")
    done = launch("synthesize.py", *GENERATOR, *COUNT, *out, cwd=folder, processes=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("training a classifier of real images, which judges generated ones") == 2
    assert done.stdout.count("synthesis of 100 images") == 1
    return folder


def test_the_manifest_says_how_images_were_chosen(work: Path) -> None:
    made = ShardSet(work / "made")
    provenance = made.manifest.provenance.json_value()
    gates = provenance["gates"]
    runs = [work / name for name in ("run-classifier", "run-classifier-seed1")]
    digests = [json.loads((run / "model.json").read_text())["weights_sha256"] for run in runs]
    assert len({*digests}) == 2
    assert provenance["options"]["classifiers"] == gates["classifiers"] == digests
    assert provenance["options"]["gates"] == (
        "pixels 1, realism 4, label 5, copy 1, duplicates 0.6, coverage 0.2"
    )
    assert provenance["training_data"] == "unknown"
    assert (gates["name"], gates["fitted_on"], gates["calibrated_on"]) == ("default", "train", "val")
    real = ShardSet(work / "set")
    few = [name for name in real.classes if real.samples("val", name, "real") < 100]
    assert gates["pooled"] == sorted(few) == sorted(real.classes)
    for name, images in (("Normal", 70), ("Pneumothorax", 30)):
        of = gates["classes"][name]
        assert of["admitted"] == images == made.samples("train", name, "synthetic")
        gates_named = ["copy", "label", "pixels", "realism"]
        assert [*of["passed"]] == [*of["thresholds"]] == [*of["scores"]] == gates_named
        assert all(images <= passed <= of["tried"] for passed in of["passed"].values())
        # New phantoms are what the set holds: gates refuse about as many as of the real ones. The two classifiers saw
        # some ten images of Pneumothorax, so that gate is as uncertain as they are.
        assert min(of["passed"][gate] for gate in ("pixels", "realism", "copy")) > 0.85 * of["tried"]
        (covered,) = of["coverage"].values()
        assert covered > 0.8
    assert verify(str(work / "made")) == []
    pictures = {path.stem for path in (work / "run").glob("*.png")}
    refused = {f"refused-{gate}" for gate in gates["percent"]}
    assert {"admitted", "scores"} <= pictures <= {"admitted", "scores", *refused}


def test_one_process_makes_the_same_set_and_uses_the_classifiers_that_are_there(work: Path) -> None:
    words = ("--classifiers", "run-classifier,run-classifier-seed1", "--threads", "1")
    out = ("--shards", "set", "--out", "one", "--run", "run1")
    run("synthesize.py", *GENERATOR, *COUNT, *words, *out, cwd=work)
    assert contents(work / "one") == contents(work / "made")


def test_a_job_that_is_killed_ends_with_the_same_set(work: Path) -> None:
    words = ("--classifiers", "run-classifier,run-classifier-seed1", "--threads", "1")
    out = ("--shards", "set", "--out", "killed", "--run", "run2")
    command = launch_command("synthesize.py", *GENERATOR, *COUNT, *words, *out)
    process = subprocess.Popen(command, cwd=work, env=launch_environment(), start_new_session=True)
    wait_until(lambda: len([*(work / "killed").glob("*.index.npy")]) >= 1, timeout_s=120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (work / "killed/manifest.json").exists()
    run("synthesize.py", *GENERATOR, *COUNT, *words, *out, cwd=work)
    assert contents(work / "killed") == contents(work / "made")


def test_an_image_is_made_again(work: Path) -> None:
    reader = ShardSet(work / "made").stratum("train", "Normal", "synthetic")
    key = reader.key(69).decode()
    words = ["synth", "show", key, "--set", "made", "--generator", GENERATOR[1]]
    done = subprocess.run(
        [sys.executable, "-m", "cxrdist", *words],
        cwd=work,
        env=launch_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "all 1,024 pixels are the stored ones" in done.stdout, done.stderr


def test_classifiers_of_another_set_are_refused(work: Path, tmp_path: Path) -> None:
    """They may have seen its validation or test patients."""
    options = IngestOptions(out=str(tmp_path / "other"), size=32, val=0.4, test=0.1, seed=1, workers=1)
    ingest(Phantom(images=300), options)
    words = ("--classifiers", str(work / "run-classifier"), "--shards", str(tmp_path / "other"))
    done = launch("synthesize.py", *GENERATOR, *COUNT, *words, "--out", str(tmp_path / "made"), cwd=work)
    assert done.returncode == 2
    assert "error: --classifiers: " in done.stderr and "was trained on another set" in done.stderr
    assert not (tmp_path / "made").exists()


def test_too_few_validation_images_are_named(work: Path, tmp_path: Path) -> None:
    options = IngestOptions(out=str(tmp_path / "few"), size=32, val=0.01, test=0.1, workers=1)
    ingest(Phantom(images=300), options)
    (tmp_path / "pixels.yaml").write_text("pixels: 1\n")
    words = ("--gates", str(tmp_path / "pixels.yaml"), "--shards", str(tmp_path / "few"))
    done = launch("synthesize.py", *GENERATOR, *COUNT, *words, "--out", str(tmp_path / "made"), cwd=work)
    assert done.returncode == 2
    assert "images in its val split, and the gates are calibrated on at least 20" in done.stderr
    assert "add --gates none" in done.stderr
