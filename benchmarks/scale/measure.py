"""Facts of the jobs at 256 px: what they send and store, measured in real runs of two CPU processes with few images.

The networks are those of the paper's presets. Batches are small, since nothing measured here depends on their size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import CLONE, python_path, report_progress
from benchmarks.scale.traffic import of_job, of_step
from cxrdist.data.importers.nih14 import NIH14
from cxrdist.data.importers.phantom import Phantom
from cxrdist.data.ingest.ingest import ingest
from cxrdist.data.ingest.options import IngestOptions
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.features.embed import BATCH as EMBEDDED

SIZE, BATCH, STEPS = 256, 4, 6
TRAINED, MADE, LOOKS = "Normal", 64, 2
PROCESSES = 2


def measure(folder: Path, nih: str | None) -> dict[str, Any]:
    """The facts of all jobs. ``nih``: folder of NIH ChestX-ray14 films, for the bytes of real ones."""
    shards = str(folder / "set")
    few = {"val_images": 4, "test_images": 4}
    ingest(Phantom(images=60, **few), IngestOptions(out=shards, size=SIZE))  # type: ignore[arg-type]
    facts: dict[str, Any] = {"phantom": sample_bytes(shards)}
    if nih is not None:
        ingest(NIH14(root=nih), IngestOptions(out=str(folder / "nih"), size=SIZE))
        facts["nih"] = sample_bytes(str(folder / "nih"))
    facts["train_gan"] = gan(folder, shards)
    facts["train_cls"] = classifier(folder, shards)
    facts["synthesize"] = synthesis(folder, shards)
    facts["evaluate_gan"] = evaluation(folder, shards)
    return facts


def sample_bytes(place: str) -> dict[str, Any]:
    """Bytes of tar and of image per sample of a PNG set, on average."""
    shards = ShardSet(place)
    tars = sum(path.stat().st_size for path in Path(place).rglob("*.tar"))
    images = count = 0
    for split in ("train", "val", "test"):
        for name in shards.classes:
            samples = shards.samples(split, name, "real")
            if not samples:
                continue
            reader = shards.stratum(split, name, "real")
            count += samples
            images += sum(int(reader.row(number)["length_bytes"]) for number in range(samples))
    return {"images": count, "tar_bytes": round(tars / count, 1), "image_bytes": round(images / count, 1)}


def gan(folder: Path, shards: str) -> dict[str, Any]:
    run = folder / "gan"
    look = BATCH * STEPS
    words = [
        "--config",
        "configs/gan/paper.yaml",
        "--classes",
        TRAINED,
        "--batch",
        str(BATCH),
        "--shards",
        shards,
    ]
    words += ["--budget", f"{LOOKS * look} images", "--look-every-images", str(look), "--run", str(run)]
    events = recorded(folder, "train_gan", *words)
    first = [event for event in events if event[0] <= STEPS]
    model = run / TRAINED.lower()
    return {
        **asdict(of_step(first)),
        **stored(run, model),
        "generator_bytes": size_of(model / "generator.safetensors"),
    }


def classifier(folder: Path, shards: str) -> dict[str, Any]:
    run = folder / "cls"
    words = ["--config", "configs/cls/paper.yaml", "--mix", "DS1", "--batch", str(BATCH), "--shards", shards]
    words += ["--budget", f"{LOOKS * BATCH * STEPS} images", "--evaluations", str(LOOKS), "--run", str(run)]
    events = recorded(folder, "train_cls", *words)
    first = [event for event in events if event[0] <= STEPS]
    return {**asdict(of_step(first)), **stored(run, run)}


def synthesis(folder: Path, shards: str) -> dict[str, Any]:
    out = folder / "synthetic"
    words = [
        "--gan",
        str(folder / "gan"),
        "--shards",
        shards,
        "--count",
        f"{TRAINED}={MADE}",
        "--gates",
        "none",
    ]
    events = recorded(folder, "synthesize", *words, "--out", str(out), "--run", str(folder / "synth"))
    calls, sent = of_job(events)
    tars = sum(path.stat().st_size for path in out.rglob("*.tar"))
    scores = sum(path.stat().st_size for path in (folder / "synth").rglob("*") if path.is_file())
    return {
        "images": MADE,
        "calls": calls,
        "sent_bytes": sent,
        "tar_bytes_per_image": round(tars / MADE, 1),
        "run_bytes_per_image": round(scores / MADE, 1),
    }


def evaluation(folder: Path, shards: str) -> dict[str, Any]:
    """The classifier is that of ``classifier``; images are those of train and val, and 8 of each checkpoint."""
    made = 8
    words = [
        "--run",
        str(folder / "gan"),
        "--shards",
        shards,
        "--images",
        str(made),
        "--classifier",
        str(folder / "cls"),
    ]
    events = recorded(folder, "evaluate_gan", *words)
    opened = ShardSet(shards)
    counts = [opened.samples(split, TRAINED, "real") for split in ("train", "val")] + [made] * LOOKS
    # Ranks embed whole batches, so with few images most of what they send is padding.
    slots = sum(-(-count // (PROCESSES * EMBEDDED)) * EMBEDDED for count in counts)
    sizes = [size for _, _, kind, size in events if kind.startswith("all_gather") and "object" not in kind]
    calls, sent = of_job(events)
    return {
        "images": sum(counts),
        "calls": calls,
        "sent_bytes": sent,
        "features_bytes_per_image": round(sum(sizes) / slots, 1),
    }


def stored(run: Path, model: Path) -> dict[str, Any]:
    """Bytes of a checkpoint, and of all else that a run writes, per look: samples, metrics, the W&B run offline."""
    checkpoints = sorted((model / "checkpoints").glob("images-*"))
    metrics = size_of(model / "metrics.jsonl")
    samples = (
        sum(size_of(path) for path in (model / "samples").rglob("*.png"))
        if (model / "samples").is_dir()
        else 0
    )
    online = sum(size_of(path) for path in (run / "wandb").rglob("*.wandb"))
    return {
        "checkpoint_bytes": sum(size_of(path) for path in checkpoints[-1].iterdir()),
        "metrics_bytes_per_look": round(metrics / LOOKS),
        "samples_bytes_per_look": round(samples / LOOKS),
        "wandb_bytes_per_look": round(online / LOOKS),
    }


def size_of(path: Path) -> int:
    return path.stat().st_size


def recorded(folder: Path, job: str, *words: str) -> list[Any]:
    """The events of rank 0 of a job of two processes on CPU. Raises CalledProcessError if it fails."""
    out = folder / f"{job}.json"
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        "configs/accelerate/cpu2.yaml",
    ]
    command += [
        "benchmarks/scale/recorded.py",
        str(out),
        f"launch/{job}.py",
        *words,
        "--tracking.mode",
        "offline",
    ]
    report_progress(" ".join(command[1:]))
    environment = {**os.environ, "PYTHONPATH": python_path(), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=CLONE, env=environment, check=True, stdout=sys.stderr)
    events: list[Any] = json.loads(out.read_text())
    return events
