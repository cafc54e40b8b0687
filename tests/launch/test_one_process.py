"""Several jobs in one Python process, as in a notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.launching import CLONE, launch_environment

pytestmark = pytest.mark.slow

JOBS = """
import json, os, signal, sys
import torch
from cxrdist.cls.config import ClsConfig
from cxrdist.config.parser import parse
from cxrdist.gan.config import GANConfig
from cxrdist.synth.config import SynthConfig

SHARDS = sys.argv[1]

def gan(run):
    from cxrdist.gan.train import train
    words = "--config configs/gan/demo-dcgan.yaml --maps 8 --batch 16 --budget 1600_images --learning-rate 0.002"
    words += f" --images-per-class 7 --precision fp32 --threads 1 --shards {SHARDS} --run {run}"
    argv = [word.replace("_images", " images") for word in words.split()]
    train(parse(GANConfig, argv, prog="train_gan.py", example=""))

def synthesis(run):
    from cxrdist.synth.synthesize import synthesize
    synthesize(SynthConfig(shards=SHARDS, gan=run, out=f"{run}-images", run=f"{run}-synth", gates="none", threads=1))

def classifier(run, precision="fp32"):
    from cxrdist.cls.train import train
    train(ClsConfig(mix="DS3", shards=SHARDS, synthetic=f"{run}-images", run=f"{run}-cls", batch=16, widths=(4, 8),
                    hidden=16, budget="64 images", evaluations=2, precision=precision, threads=1))

def left_behind():
    from accelerate.state import AcceleratorState, PartialState
    return [torch.get_num_threads(), bool(AcceleratorState._shared_state), bool(PartialState._shared_state),
            torch.distributed.is_initialized(), signal.getsignal(signal.SIGTERM) is signal.SIG_DFL]
"""

PLAIN = """
before = left_behind()
gan("plain"); synthesis("plain"); classifier("plain")
assert left_behind() == before, (left_behind(), before)
try:
    classifier("nothing")
except Exception as error:
    print(type(error).__name__)
assert left_behind() == before, left_behind()
os.rename("plain-cls", "first"); classifier("plain", "bf16")  # another precision than before
assert left_behind() == before, left_behind()
"""

NOTEBOOK = """
from accelerate import notebook_launcher
for job in (gan, synthesis, classifier):
    notebook_launcher(job, ("notebook",), num_processes=1)
"""


def ran(code: str, shards: Path, cwd: Path) -> str:
    environment = {**launch_environment(), "PYTHONPATH": str(CLONE)}
    done = subprocess.run(
        [sys.executable, "-c", JOBS + code, str(shards)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def digests(folder: Path, run: str) -> list[str]:
    runs = [json.loads((folder / name / "summary.json").read_text()) for name in (run, f"{run}-cls")]
    return [summary["weights_sha256"] for summary in runs]


def test_gan_synthesis_and_classifier_in_one_process_plainly_and_by_notebook_launcher(
    tmp_path: Path, tiny_set: Path
) -> None:
    said = ran(PLAIN, tiny_set, tmp_path)
    assert "UserError" in said
    ran(NOTEBOOK, tiny_set, tmp_path)
    (tmp_path / "plain-cls").rename(tmp_path / "bf16")
    (tmp_path / "first").rename(tmp_path / "plain-cls")
    assert digests(tmp_path, "notebook") == digests(tmp_path, "plain")
