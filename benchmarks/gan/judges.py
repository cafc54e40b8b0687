"""Whether the evaluation of GANs notices known damage. Held-out real images are evaluated as if they were generated:
as they are, and blurred, streaked, noisy, replaced by training images, few of them repeated, or with swapped classes.

Each damage is drawn several times, and each draw must move a named metric out of the 95 % range of draws without
damage. The default set is made of phantoms; its classifier is trained on the first call.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from benchmarks.common import CLONE, Row, device, load, parser, report, report_progress, versions
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.features.classifier import ensure_classifier, load_classifier
from cxrdist.features.embed import Features, patients_of, split_logits
from cxrdist.features.memorization import TrainImages
from cxrdist.features.spaces import PIXELS, Space, spaces_of
from cxrdist.gan.evaluation.class_metrics import ClassImages, class_metrics, mean_over_classes
from cxrdist.gan.evaluation.metrics import compare
from cxrdist.seeds import permutation, philox

BATCH = 64
COLUMNS = ("damage", "metric", "draws", "caught", "undamaged_low", "undamaged_high", "damaged", "others")
CAUGHT_AT_LEAST = 0.95
TAIL = 0.025
"""Of undamaged draws, on either side of the range."""

Images = dict[str, np.ndarray]
"""``{class: [n, H, W] uint8}``."""


@dataclass(frozen=True)
class Pool:
    """Real images of a set by class: all of train, and the held-out ones that are drawn from."""

    train: Images
    held_out: Images
    train_patients: dict[str, np.ndarray]
    patients: dict[str, np.ndarray]
    """Of the held-out images."""


Damage = Callable[[Images, Pool, np.random.Generator], Images]


# ---- damage


def blurred(images: Images, _: Pool, __: np.random.Generator) -> Images:
    """A Gaussian blur of 1.5 % of the side: 1 px at 64 px."""
    return {name: _blur(some, 0.015 * some.shape[1]) for name, some in images.items()}


def _blur(images: np.ndarray, sigma_px: float) -> np.ndarray:
    reach = int(4 * sigma_px + 1)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * sigma_px**2))
    kernel /= kernel.sum()
    grey = torch.from_numpy(images[:, None]).float()
    across = conv2d(pad(grey, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    both = conv2d(pad(across, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
    return _uint8(both[:, 0].numpy())


def streaked(images: Images, _: Pool, draw: np.random.Generator) -> Images:
    """Vertical and horizontal lines every four pixels, as transposed convolutions leave them, of 10 grey values."""
    found = {}
    for name, some in images.items():
        lines = np.zeros(some.shape[1:])
        lines[:, draw.integers(4) :: 4] += 10
        lines[draw.integers(4) :: 4] += 10
        found[name] = _uint8(some + lines)
    return found


def noisy(images: Images, _: Pool, draw: np.random.Generator) -> Images:
    """Independent normal noise of 8 grey values in every pixel."""
    return {name: _uint8(some + draw.normal(0, 8, some.shape)) for name, some in images.items()}


def copied(images: Images, pool: Pool, draw: np.random.Generator) -> Images:
    """A third of the images are training images."""
    return {name: _with_third(some, _of_train(pool, name, len(some), draw)) for name, some in images.items()}


def copied_and_changed(images: Images, pool: Pool, draw: np.random.Generator) -> Images:
    """A third of the images are training images: shifted by up to 3 % of the side, enlarged by up to 4 %, with other
    brightness and contrast."""
    return {
        name: _with_third(some, _changed(_of_train(pool, name, len(some), draw), draw))
        for name, some in images.items()
    }


def _of_train(pool: Pool, name: str, count: int, draw: np.random.Generator) -> np.ndarray:
    train = pool.train[name]
    return train[draw.integers(len(train), size=-(-count // 3))]


def _with_third(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.concatenate([others, images[len(others) :]])


def _changed(images: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    found = []
    side = images.shape[1]
    for image in images:
        large = round(side * draw.uniform(1, 1.04))
        grey = torch.from_numpy(image[None, None]).float()
        zoomed = interpolate(grey, (large, large), mode="bilinear", antialias=True)[0, 0].numpy()
        reach = round(0.03 * side)
        edged = np.pad(zoomed, reach, mode="edge")
        top, left = draw.integers(2 * reach + large - side + 1, size=2)
        window = edged[top : top + side, left : left + side]
        found.append(window * draw.uniform(0.8, 1.1) + draw.uniform(-10, 10))
    return _uint8(np.stack(found))


def repeated(images: Images, _: Pool, draw: np.random.Generator) -> Images:
    """A tenth of the images, ten times each, with noise of one grey value."""
    found = {}
    for name, some in images.items():
        few = some[: -(-len(some) // 10)]
        found[name] = _uint8(np.resize(few, some.shape) + draw.normal(0, 1, some.shape))
    return found


def swapped(images: Images, _: Pool, __: np.random.Generator) -> Images:
    """A quarter of the images of a class are of the class after it."""
    names, found = list(images), {}
    for name, other in zip(names, [*names[1:], names[0]]):
        count = min(-(-len(images[name]) // 4), len(images[other]))
        found[name] = np.concatenate([images[other][-count:], images[name][count:]])
    return found


def _uint8(grey: np.ndarray) -> np.ndarray:
    return grey.round().clip(0, 255).astype(np.uint8)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "blur": (blurred, "kid classifier"),
    "streaks": (streaked, "kid classifier"),
    "noise": (noisy, "kid classifier"),
    "copies of train": (copied, "near copies"),
    "changed copies": (copied_and_changed, "near copies"),
    "mode drop": (repeated, "diversity nearest"),
    "swapped classes": (swapped, "agreement"),
}
"""``{name: (function, the metric that must notice it)}``."""


# ---- metrics of a draw


class Judge:
    """Computes the metrics of draws from one pool; each is the mean over classes."""

    def __init__(self, pool: Pool, spaces: Sequence[Space], compared: Sequence[str], per_class: int) -> None:
        self.pool, self.spaces, self.compared, self.per_class = pool, spaces, compared, per_class
        self.train = {name: self.embed(images) for name, images in pool.train.items()}
        self.held_out = {name: self.embed(images) for name, images in pool.held_out.items()}
        self.train_images = {}
        for name, features in self.train.items():
            patients = np.unique(pool.train_patients[name], return_inverse=True)[1]
            sample = torch.from_numpy(permutation(0, "judges", name, length=len(patients)))
            self.train_images[name] = TrainImages.of(features[PIXELS], torch.from_numpy(patients), sample)

    @torch.no_grad()
    def embed(self, images: np.ndarray) -> Features:
        batches = torch.from_numpy(images[:, None]).split(BATCH)
        found = {space: torch.cat([space.embed(batch) for batch in batches]) for space in self.spaces}
        return split_logits(found)

    def metrics(self, seed: int, damage: Damage | None) -> dict[str, float]:
        """Half of the held-out images of each class, at most ``per_class``, are taken as generated ones and damaged;
        the others are the held-out images."""
        orders = {
            name: permutation(seed, "draw", name, length=len(images))
            for name, images in self.pool.held_out.items()
        }
        taken = {name: order[: min(self.per_class, len(order) // 2)] for name, order in orders.items()}
        if damage is None:
            generated = {name: _rows(self.held_out[name], numbers) for name, numbers in taken.items()}
        else:
            images = {name: self.pool.held_out[name][numbers] for name, numbers in taken.items()}
            draw = np.random.Generator(philox(seed, "damage"))
            generated = {name: self.embed(some) for name, some in damage(images, self.pool, draw).items()}
        found, values = [], []
        for label, (name, order) in enumerate(orders.items()):
            rest = order[len(taken[name]) :]
            real = _rows(self.held_out[name], rest)
            one = ClassImages(label, generated[name], self.train[name], real, self.pool.patients[name][rest])
            found.append(class_metrics(one, self.train_images[name], seed, name))
            values.append(
                {
                    f"{metric} {space}": figures["value"]
                    for space in self.compared
                    for metric, figures in compare(one.sets(space), 5).items()
                }
            )
        mean = mean_over_classes(found)
        shares = {
            "agreement": mean.agreement.value,
            "near copies": None if mean.copies is None else mean.copies.value,
            "diversity pairwise": mean.pairwise,
            "diversity nearest": mean.nearest,
        }
        for metric in values[0]:
            known = [one[metric] for one in values if one[metric] is not None]
            shares[metric] = sum(known) / len(known) if known else None
        return {metric: value for metric, value in shares.items() if value is not None}


def _rows(features: Mapping[str, Tensor], numbers: np.ndarray) -> Features:
    return {space: values[torch.from_numpy(numbers)] for space, values in features.items()}


# ---- the test


def rows_of(
    undamaged: Sequence[Mapping[str, float]], damaged: Mapping[str, list[dict[str, float]]]
) -> list[Row]:
    """A row per damage: in which share of its draws the named metric is outside the range of undamaged draws, and
    the other metrics that are outside in at least 95 % of draws."""
    ranges = {metric: range_of([one[metric] for one in undamaged]) for metric in undamaged[0]}

    def caught(draws: list[dict[str, float]], metric: str) -> float:
        low, high = ranges[metric]
        return sum(not low <= one[metric] <= high for one in draws) / len(draws)

    rows: list[Row] = []
    for name, draws in damaged.items():
        metric = DAMAGES[name][1]
        shares = {other: caught(draws, other) for other in ranges}
        others = [m for m, share in shares.items() if share >= CAUGHT_AT_LEAST and m != metric]
        low, high = ranges[metric]
        rows.append(
            {
                "damage": name,
                "metric": metric,
                "draws": len(draws),
                "caught": shares[metric],
                "undamaged_low": round(low, 4),
                "undamaged_high": round(high, 4),
                "damaged": round(float(np.median([one[metric] for one in draws])), 4),
                "others": ", ".join(others),
                "caught_by": {other: round(share, 3) for other, share in shares.items()},
            }
        )
    return rows


def range_of(values: Sequence[float]) -> tuple[float, float]:
    """The central 95 %."""
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
    return float(low), float(high)


def run(judge: Judge, draws: int) -> list[Row]:
    """``draws`` of each damage, and twice as many without."""
    undamaged = [judge.metrics(seed, None) for seed in range(2 * draws)]
    damaged: dict[str, list[dict[str, float]]] = {}
    for name, (damage, _) in DAMAGES.items():
        report_progress(f"{name}: {draws} draws")
        damaged[name] = [judge.metrics(2 * draws + seed, damage) for seed in range(draws)]
    return rows_of(undamaged, damaged)


def pool_of(shards: ShardSet, split: str, most: int) -> Pool:
    """``most``: held-out images of a class. All training images are used."""
    images: list[Images] = []
    patients: list[dict[str, np.ndarray]] = []
    for part in ("train", split):
        readers = {name: shards.stratum(part, name, "real") for name in shards.classes}
        counts = {
            name: reader.samples if part == "train" else min(most, reader.samples)
            for name, reader in readers.items()
        }
        images.append({name: shards.images(part, name, "real", count) for name, count in counts.items()})
        patients.append(
            {name: patients_of(reader, np.arange(counts[name])) for name, reader in readers.items()}
        )
    return Pool(*images, *patients)


def make_phantoms(place: Path) -> None:
    """About 800 training images, and 3,000 held-out ones."""
    command = [sys.executable, "-m", "cxrdist", "import", "phantom", "--out", str(place), "--images", "4000"]
    command += ["--size", "64", "--val", "0.75", "--test", "0.05", "--no-find-duplicates"]
    subprocess.run(command, cwd=CLONE, check=True, stdout=sys.stderr)


def options() -> argparse.ArgumentParser:
    made = parser(__doc__ or "", "python -m benchmarks.gan.judges --json benchmarks/results/gan_judges.json")
    made.add_argument(
        "--shards", type=Path, help="set with a large held-out split; by default 4,000 phantoms"
    )
    made.add_argument(
        "--folder", type=Path, default=Path("runs/gan-judges"), help="where set and classifier are kept"
    )
    made.add_argument("--split", default="val", help="held-out split that images are drawn from")
    made.add_argument("--classifier", type=Path, help="run of train_cls.py; by default one is trained")
    made.add_argument("--draws", type=int, default=20, help="of each damage")
    made.add_argument("--images", type=int, default=100, help="images of a class in a draw, at most")
    return made


def main() -> None:
    chosen = options().parse_args()
    began_load = load()
    place = chosen.shards or chosen.folder / "phantom"
    if chosen.shards is None and not (place / "manifest.json").exists():
        make_phantoms(place)
    shards = ShardSet(place)
    classifier = chosen.classifier or chosen.folder / "classifier"
    if chosen.classifier is None:
        ensure_classifier(classifier, shards, str(place))
    spaces, pixels = spaces_of(
        "random", load_classifier(classifier, shards), shards.image_size, torch.device("cpu")
    )
    pool = pool_of(shards, chosen.split, 4 * chosen.images)
    compared = [space.name for space in spaces]
    judge = Judge(pool, [*spaces, pixels], compared, chosen.images)
    rows = run(judge, chosen.draws)
    result = {
        "device": device(),
        "versions": versions("cxrdist", "torch", "numpy"),
        "load_1_min": [began_load, load()],
        "shards": shards.digest,
        "images_per_class": {
            name: min(chosen.images, len(images) // 2) for name, images in pool.held_out.items()
        },
        "rows": rows,
        "ratios": {"damages caught in 95 % of draws": sum(row["caught"] >= CAUGHT_AT_LEAST for row in rows)},
    }
    report(result, COLUMNS, chosen.json)


if __name__ == "__main__":
    main()
