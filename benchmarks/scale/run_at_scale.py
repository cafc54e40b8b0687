"""The paper's protocol at 8, 64 and 512 GPUs on paper: what each job sends, stores and reads; what limits it first.

Bytes are measured in real runs of two processes on CPU (``measure.py``). The speed of a GPU, the network and the
storage are assumptions, printed with every figure that rests on them: no GPU was used.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.cls.paper import EPOCH_IMAGES
from benchmarks.common import Row, device, parser, versions, write_json
from benchmarks.scale.life import Job, Machines, first_bottleneck, life, rates
from benchmarks.scale.measure import SIZE, measure
from cxrdist.config.parser import parse
from cxrdist.gan.config import GANConfig
from cxrdist.gan.networks import construct

GPUS = (8, 64, 512)
NETWORKS_GBIT_S = (10, 100, 400)
CLASSES, CLASS_IMAGES, GAN_BATCH, CLS_BATCH = 5, 2_000, 64, 128
EPOCHS_GAN, EPOCHS_CLS, EVALUATIONS = 20, 100, 100
SYNTHETIC = 104_560
TRAIN, VAL, KEPT = 46_420, 5_000, 3
"""Images of the paper's train and val split; checkpoints of a model that an evaluation compares."""
ASSUMED_IMAGES_S = {
    "train_gan": (500, 4_000),
    "synthesize": (1_000, 10_000),
    "train_cls": (2_000, 20_000),
    "evaluate_gan": (1_000, 10_000),
}
"""Images a second of one GPU, a low and a high guess: nobody has measured them. They hold at any batch per GPU here,
though a GPU with one image of a batch is slower: what is said of the network is therefore rather too much."""


def jobs(facts: dict[str, Any], sample: str) -> dict[str, Job]:
    """The paper's jobs. ``sample``: the kind of images whose bytes are read, nih or phantom."""
    gan, cls, image = facts["train_gan"], facts["train_cls"], facts[sample]["image_bytes"]
    looks = EPOCHS_GAN * CLASS_IMAGES // 2_000  # look_every_images of configs/gan/paper.yaml
    return {
        "train_gan": Job(
            name="train_gan",
            images=CLASSES * EPOCHS_GAN * CLASS_IMAGES,
            batch=GAN_BATCH,
            gradient_bytes=gan["gradient_bytes"],
            calls=calls_of(gan) + sync_batchnorm_calls(),
            read_bytes=image,
            checkpoint_bytes=look_bytes(gan),
            checkpoints=CLASSES * looks,
        ),
        "synthesize": Job(
            name="synthesize",
            images=SYNTHETIC,
            write_bytes=facts["synthesize"]["tar_bytes_per_image"]
            + facts["synthesize"]["run_bytes_per_image"],
        ),
        "train_cls": Job(
            name="train_cls",
            images=EPOCHS_CLS * EPOCH_IMAGES["DS3"],
            batch=CLS_BATCH,
            gradient_bytes=cls["gradient_bytes"],
            calls=calls_of(cls),
            read_bytes=image,  # as if no epoch found the images of the one before in a cache
            checkpoint_bytes=look_bytes(cls),
            checkpoints=EVALUATIONS,
        ),
        "evaluate_gan": Job(
            name="evaluate_gan",
            images=TRAIN + VAL + CLASSES * KEPT * CLASS_IMAGES,
            # Only real images are read, of all that are embedded.
            read_bytes=image * (TRAIN + VAL) / (TRAIN + VAL + CLASSES * KEPT * CLASS_IMAGES),
            gathered_bytes=facts["evaluate_gan"]["features_bytes_per_image"],
        ),
    }


def look_bytes(of: dict[str, Any]) -> int:
    """What a look stores: checkpoint, samples, metrics, W&B."""
    return sum(of[key] for key in of if key == "checkpoint_bytes" or key.endswith("_bytes_per_look"))


def calls_of(of: dict[str, Any]) -> float:
    """Collectives of a step, DDP's buckets among them."""
    return of["small_calls"] + of["kinds"]["gradients"]


def sync_batchnorm_calls() -> int:
    """Of a GAN's step on GPUs, where BatchNorm is synchronised: one collective for each layer in each forward and
    each backward pass. G has one of both, D three: real, fake, and fake again for G."""
    config = parse(GANConfig, ["--config", "configs/gan/paper.yaml"], prog="", example="")
    with torch.device("meta"):
        generator, discriminator = construct(config, image_size=SIZE, classes=CLASSES)
    return 2 * norms_of(generator) + 2 * 3 * norms_of(discriminator)


def norms_of(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())


def scale_rows(of: dict[str, Job]) -> list[Row]:
    """Each job at each number of GPUs, with the low and the high guess of a GPU's speed, over 100 Gbit/s."""
    rows = []
    for name, job in of.items():
        for images_per_s in ASSUMED_IMAGES_S[name]:
            machines = Machines(images_per_s=images_per_s, network_gbit_s=100)
            for gpus in GPUS:
                found = life(job, machines, gpus)
                row = {
                    "job": name,
                    "assumed_img_s_per_gpu": images_per_s,
                    "gpus": gpus,
                    "processes": found.processes,
                }
                shares = {f"{key}_s": round(value, 2) for key, value in found.seconds.items()}
                figures = {key: round(value, 2) for key, value in rates(job, found).items()}
                rows.append({**row, **figures, "slowest": found.bottleneck, **shares})
    return rows


def bottleneck_rows(of: dict[str, Job]) -> list[Row]:
    """From how many GPUs on each job is not limited by computing, and by what."""
    return [
        {
            "job": name,
            "assumed_img_s_per_gpu": images_per_s,
            "network_gbit_s": network,
            **first(job, images_per_s, network),
        }
        for name, job in of.items()
        for images_per_s in ASSUMED_IMAGES_S[name]
        for network in NETWORKS_GBIT_S
    ]


def first(job: Job, images_per_s: float, network: float) -> Row:
    found = first_bottleneck(job, Machines(images_per_s=images_per_s, network_gbit_s=network))
    return (
        {"from_gpus": None, "what": "nothing"} if found is None else {"from_gpus": found[0], "what": found[1]}
    )


def useful_rows(of: dict[str, Job]) -> list[Row]:
    """Up to how many GPUs a job gets faster at all: processes divide a global batch."""
    return [{"job": name, "batch": job.batch, "most_gpus": job.batch} for name, job in of.items()]


HEADS = {
    "assumed_img_s_per_gpu": "images/s per GPU (assumed)",
    "gpus": "GPUs",
    "processes": "of use",
    "sent_MB_per_step": "MB sent per GPU and step",
    "stored_GB_per_h": "GB stored per hour",
    "read_MB_per_s": "MB read per second",
    "job_s": "seconds",
    "network_gbit_s": "Gbit/s (assumed)",
    "from_gpus": "from GPUs",
    "most_gpus": "most GPUs of use",
}


def markdown(rows: list[Row], columns: tuple[str, ...]) -> str:
    heads = [HEADS.get(name, name) for name in columns]
    lines = [heads, ["---"] * len(columns), *([_cell(row[name]) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and value < 1000:
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


SCALE_COLUMNS = (
    *("job", "assumed_img_s_per_gpu", "gpus", "processes", "sent_MB_per_step", "stored_GB_per_h"),
    *("read_MB_per_s", "job_s", "slowest"),
)
FIRST_COLUMNS = ("job", "assumed_img_s_per_gpu", "network_gbit_s", "from_gpus", "what")


def main() -> None:
    example = "python -m benchmarks.scale.run_at_scale --json benchmarks/results/run_at_scale.json"
    options = parser(__doc__ or "", example)
    options.add_argument(
        "--nih", help="folder of NIH ChestX-ray14 films, whose bytes count instead of phantoms'"
    )
    options.add_argument("--markdown", type=Path, metavar="FILE", help="where the tables go as Markdown")
    options.add_argument(
        "--measured", type=Path, metavar="FILE", help="an earlier --json, whose facts are used"
    )
    chosen = options.parse_args()
    facts = facts_of(chosen)
    of = jobs(facts, "nih" if "nih" in facts else "phantom")
    rows, bottlenecks = scale_rows(of), bottleneck_rows(of)
    result = {
        "device": device(),
        "versions": versions("torch", "accelerate"),
        "measured": facts,
        "computed": {"sync_batchnorm_calls_per_gan_step": sync_batchnorm_calls()},
        "assumed": {
            "images_per_s_per_gpu": ASSUMED_IMAGES_S,
            **{
                name: getattr(Machines, name)
                for name in ("latency_s", "storage_gb_s", "requests_per_s", "request_bytes")
            },
            "network_gbit_s": NETWORKS_GBIT_S,
        },
        "rows": rows,
        "first_bottlenecks": bottlenecks,
        "most_gpus": {name: job.batch for name, job in of.items()},
    }
    tables = [
        "## Each job at 8, 64 and 512 GPUs, over 100 Gbit/s",
        markdown(rows, SCALE_COLUMNS),
        "## From how many GPUs on computing is not the slowest",
        markdown(bottlenecks, FIRST_COLUMNS),
        "## Up to how many GPUs one job gets faster",
        markdown(useful_rows(of), ("job", "batch", "most_gpus")),
    ]
    print("\n\n".join(tables))
    if chosen.markdown:
        chosen.markdown.write_text(f"# The paper at scale\n\n{NOTE}\n\n" + "\n\n".join(tables) + "\n")
    write_json(result, chosen.json)


NOTE = """Written by `python -m benchmarks.scale.run_at_scale`. Bytes are measured. The speed of a GPU, of the network
and of the storage are assumptions: see [benchmarks](../README.md#scalerun_at_scalepy)."""


def facts_of(chosen: argparse.Namespace) -> dict[str, Any]:
    if chosen.measured is not None:
        facts: dict[str, Any] = json.loads(chosen.measured.read_text())["measured"]
        return facts
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), chosen.nih)


if __name__ == "__main__":
    main()
