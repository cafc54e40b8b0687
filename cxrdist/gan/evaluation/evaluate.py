"""Evaluate the generators of a run, over all processes, from the run's files and the shard set.

    real images of train and of the held-out split ─────────┐
    each model: each checkpoint draws from the same z ──────┴─> features in two spaces (and pixels), gathered
      -> the checkpoint with the lowest KID against train becomes the model's generator
      -> FID, KID, precision, recall, density, coverage against the held-out split, each beside its floor
      -> the nearest training image of each generated one: shares, and pictures of the closest pairs

The best checkpoint is the one with the lowest KID (mean over the model's classes, in the classifier's space) against
*train*. Selecting a checkpoint is a part of training, so it must not use the held-out split; metrics on a split that
was used for the selection would be too good. KID against train does not penalize memorization: the search for copies
does.

<run>/evaluation.json, <run>/<model>/evaluation.json, <run>/<model>/nearest/<class>-<space>.png
The pictures show real training images: they stay in the run folder and are not sent to W&B.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxrdist.config.parser import to_dict
from cxrdist.console import Progress, duration, say
from cxrdist.data.shards.open import open_finished_real
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.files import canonical_json, slug, write_atomic
from cxrdist.gan.evaluation.classifier import ensure_classifier, load_classifier
from cxrdist.gan.evaluation.config import EvaluateConfig
from cxrdist.gan.evaluation.distances import kernel_distance
from cxrdist.gan.evaluation.embed import Embedder, Features, drawn
from cxrdist.gan.evaluation.feature_spaces import CLASSIFIER, Space, spaces_of
from cxrdist.gan.evaluation.memorization import find_nearest, rounded
from cxrdist.gan.evaluation.metrics import Sets, brief, compare, table, together
from cxrdist.gan.evaluation.run import (
    candidates_of,
    find_models,
    images_at,
    locked_folder,
    replace_generator,
    update_summary,
)
from cxrdist.gan.samples import save_grid
from cxrdist.models import TrainedGenerator
from cxrdist.run.checkpoint import load_weights, mark_best, weights_sha256
from cxrdist.run.folder import environment
from cxrdist.run.tracking import start
from cxrdist.seeds import permutation

EVALUATION = "evaluation.json"
MAX_IMAGES = 2000
MIN_GENERATED = 500
PICTURE_COLUMNS = 4


def evaluate(config: EvaluateConfig) -> None:
    """Evaluate all models of a run and export the best checkpoint of each."""
    began_s = time.monotonic()
    dist = Dist("fp32")  # bf16 would change grey values and distances
    folder = Path(config.run)
    dist.on_main(lambda: open_finished_real(config.shards).close())
    shards = ShardSet(config.shards)
    models = find_models(folder, shards, config.split)
    with dist.hold_on_main(locked_folder(folder)):
        classifier = Path(config.classifier or folder / "classifier")
        if config.classifier is None:
            dist.on_main(lambda: ensure_classifier(classifier, shards, config.shards))
        network = load_classifier(classifier, shards)
        spaces, pixels = spaces_of(config.features, network, shards.image_size, dist.device)
        say(f"evaluation of {folder} on {config.split} of {shards}; {dist.describe()}")
        result = Evaluation(config, shards, models, [*spaces, pixels], dist).run()
        if dist.is_main:
            conclude(folder, result, config)
    say(f"{folder / EVALUATION}: {duration(time.monotonic() - began_s)}")
    dist.close()


class Evaluation:
    """The evaluation of one run. All ranks draw and embed images; rank 0 computes the metrics."""

    def __init__(
        self,
        config: EvaluateConfig,
        shards: ShardSet,
        models: dict[str, TrainedGenerator],
        spaces: list[Space],
        dist: Dist,
    ) -> None:
        self.config, self.shards, self.models, self.spaces, self.dist = config, shards, models, spaces, dist
        self.folder = Path(config.run)
        self.compared = [space.name for space in spaces[:-1]]
        self.candidates = dist.on_main(
            lambda: {name: candidates_of(self.folder / name, config.checkpoints) for name in models}
        )
        self.train: dict[str, Features] = {}
        self.real: dict[str, Features] = {}
        self.generated: dict[str, Features] = {}

    def run(self) -> dict[str, Any]:
        classes = [name for model in self.models.values() for name in model.classes]
        total = sum(self.images_of("train", name) + self.count(self.config.split, name) for name in classes)
        for model_name, model in self.models.items():
            each = sum(self.to_make(name) for name in model.classes)
            total += each * len(self.candidates[model_name])
        with Progress("evaluation", total) as progress:
            self.embedder = Embedder(self.spaces, self.shards.image_size, self.dist, progress)
            for name in classes:
                every = np.arange(self.images_of("train", name))
                self.train[name] = self.embedder.real(self.shards.stratum("train", name, "real"), every)
                split = self.config.split
                reader = self.shards.stratum(split, name, "real")
                self.real[name] = self.embedder.real(reader, self.sample(split, name))
            models = {name: self.evaluate_model(name, model) for name, model in self.models.items()}
        found = self.dist.on_main(lambda: self.all_together(classes, models))
        self.dist.barrier()
        return found

    def images_of(self, split: str, class_name: str) -> int:
        return self.shards.samples(split, class_name, "real")

    def count(self, split: str, class_name: str) -> int:
        return min(MAX_IMAGES, self.images_of(split, class_name))

    def sample(self, split: str, class_name: str) -> np.ndarray:
        """[n] int64: numbers of the images of a class that are compared, in random order."""
        length = self.images_of(split, class_name)
        order = permutation(self.config.seed, "evaluate", split, class_name, length=length)
        return order[: self.count(split, class_name)]

    def to_make(self, class_name: str) -> int:
        train_images = self.images_of("train", class_name)
        return self.config.images or min(MAX_IMAGES, max(MIN_GENERATED, train_images))

    def evaluate_model(self, name: str, model: TrainedGenerator) -> dict[str, Any]:
        """Select and export the best checkpoint, compute its metrics, search for copies. Returns the results of one
        model, on all ranks."""
        model.network.to(self.dist.device)
        looks: list[dict[str, Any]] = []
        best: tuple[float, Path | None] | None = None
        for path in self.candidates[name]:
            if path is not None:
                load_weights(path, model.network)
            made = {
                c: self.embedder.generated(model, c, self.to_make(c), self.config.seed) for c in model.classes
            }
            look = self.dist.on_main(partial(self.against_train, made))
            looks.append({"images": images_at(path), **look})
            score = float("inf") if look["kid_train"] is None else look["kid_train"]
            if best is None or score <= best[0]:  # the newest of equals
                best = (score, path)
                self.generated.update(made)
        assert best is not None  # candidates_of returns at least one
        if best[1] is not None:
            load_weights(best[1], model.network)
        return self.dist.on_main(partial(self.results_of, name, model, looks, best[1]))

    def against_train(self, made: dict[str, Features]) -> dict[str, Any]:
        """KID against train in the classifier's space: per class, and the mean over classes."""
        per_class = {
            name: kernel_distance(features[CLASSIFIER], self.train_sample(name, CLASSIFIER))
            for name, features in made.items()
        }
        known = [value for value in per_class.values() if value is not None]
        mean = sum(known) / len(known) if known else None
        return {"kid_train": rounded(mean), "per_class": {name: rounded(v) for name, v in per_class.items()}}

    def train_sample(self, class_name: str, space: str) -> Tensor:
        return self.train[class_name][space][torch.from_numpy(self.sample("train", class_name))]

    def sets(self, class_name: str, space: str) -> Sets:
        return Sets(
            generated=self.generated[class_name][space],
            train=self.train_sample(class_name, space),
            real=self.real[class_name][space],
        )

    def results_of(
        self, name: str, model: TrainedGenerator, looks: list[dict[str, Any]], best: Path | None
    ) -> dict[str, Any]:
        """Rank 0: compute the results of a model, save its pictures, mark and export its best checkpoint."""
        classes = {
            class_name: {
                "spaces": {s: compare(self.sets(class_name, s), self.config.k) for s in self.compared},
                "copies": {
                    space.name: self.copies(name, model, class_name, space.name) for space in self.spaces
                },
            }
            for class_name in model.classes
        }
        result = {
            "best": {"images": images_at(best), "weights_sha256": weights_sha256(model.network)},
            "checkpoints": looks,
            "classes": classes,
        }
        folder = self.folder / name
        if best is not None:
            why = next(look for look in looks if look["images"] == images_at(best))
            mark_best(folder / "checkpoints", why["images"], why)
        values = {c: brief(found["spaces"]) for c, found in classes.items()}
        evaluation = {"split": self.config.split, "images": images_at(best), "classes": values}
        replace_generator(folder, model, {**model.metrics, "evaluation": evaluation})
        write_atomic(folder / EVALUATION, canonical_json({**self.settings(), **result}))
        newest = self.candidates[name][-1]
        if best != newest:
            say(f"{folder}: exported its best checkpoint, at {images_at(best):,} images, as its generator")
        return result

    def copies(self, name: str, model: TrainedGenerator, class_name: str, space: str) -> dict[str, Any]:
        """The result of ``find_nearest`` for a class in a space. Saves a picture of the closest pairs: generated |
        nearest training image."""
        generated, train = self.generated[class_name][space], self.train[class_name][space]
        real = self.real[class_name][space]
        sample = torch.from_numpy(self.sample("train", class_name)).to(train.device)
        found = find_nearest(generated, train, sample, real)
        reader = self.shards.stratum("train", class_name, "real")
        images = []
        for place, number, _ in found.pairs:
            images.append(drawn(model, class_name, range(place, place + 1), self.config.seed)[0])
            images.append(reader.pixels(number))
        picture = self.folder / name / "nearest" / f"{slug(class_name)}-{slug(space)}.png"
        save_grid(picture, np.stack(images), PICTURE_COLUMNS)
        return found.results(generated=len(generated), train=len(train), real=len(real))

    def settings(self) -> dict[str, Any]:
        return {
            "job": "evaluate",
            "shards": {"real": self.shards.digest},
            "split": self.config.split,
            "seed": self.config.seed,
            "k": self.config.k,
            "spaces": {
                s.name: {"dims": s.dims, "what": s.what, "weights_sha256": s.weights_sha256}
                for s in self.spaces
            },
        }

    def all_together(self, classes: list[str], models: dict[str, Any]) -> dict[str, Any]:
        """Rank 0: the results of the run, with the metrics of all classes as one set."""
        overall = {
            space: compare(together({name: self.sets(name, space) for name in classes}), self.config.k)
            for space in self.compared
        }
        return {**self.settings(), "models": models, "overall": overall}


def conclude(folder: Path, result: dict[str, Any], config: EvaluateConfig) -> None:
    """Rank 0: write the run's files, print the table, log to W&B."""
    update_summary(folder, {name: m["best"]["weights_sha256"] for name, m in result["models"].items()})
    write_atomic(folder / EVALUATION, canonical_json({**result, **environment()}))
    spaces = {
        class_name: found["spaces"]
        for model in result["models"].values()
        for class_name, found in model["classes"].items()
    }
    for line in table({**spaces, "overall": result["overall"]}):
        say(line)
    for model in result["models"].values():
        for class_name, found in model["classes"].items():
            copies = found["copies"]
            shares = ", ".join(f"{s} {c['share']:.1%} (floor {c['floor']:.1%})" for s, c in copies.items())
            say(f"{class_name}: as close to a training image as the closest 1% of {config.split}: {shares}")
    tracker = start(folder, config.tracking, job="evaluate", settings=to_dict(config), is_main=True)
    for name, model in result["models"].items():
        for look in model["checkpoints"]:
            tracker.log(look["images"] or 0, {f"{name}/kid_train": look["kid_train"]})
    values = {**{name: brief(found) for name, found in spaces.items()}, "overall": brief(result["overall"])}
    tracker.finish({"evaluation": values})
