"""Evaluate the generators of a run, over all processes, from the run's files and the shard set.

    real images of train and of the held-out split ─────────┐
    each model: each checkpoint draws from the same z ──────┴─> features in two spaces (and pixels), gathered
      -> the checkpoint that choice.py chooses becomes the model's generator
      -> FID, KID, precision, recall, density, coverage against the held-out split, each beside its floor
      -> label agreement, near copies and diversity, beside those of held-out images
      -> the nearest training image of each generated one: shares, and pictures of the closest pairs

The best checkpoint has the lowest KID (mean over the model's classes, in the classifier's space) against *train*
among those with few near copies of training images. Selecting a checkpoint is a part of training, so it must not use
the held-out split; metrics on a split that was used for the selection would be too good.

<run>/evaluation.json, <run>/<model>/evaluation.json, <run>/<model>/nearest/<class>-<space>.png, and the figures in
<run>/<model>/README.md, the generator's card.
The pictures show real training images: they stay in the run folder and are not sent to W&B.
"""

from __future__ import annotations

import logging
import time
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxrdist.cards.generator import EVALUATION, write_model_card
from cxrdist.config.parser import to_dict
from cxrdist.console import Progress, duration, say
from cxrdist.data.shards.open import open_finished_real
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.features.classifier import ensure_classifier, load_classifier
from cxrdist.features.embed import Embedder, Features, drawn, patient_groups, patients_of
from cxrdist.features.memorization import TrainImages, find_nearest
from cxrdist.features.spaces import CLASSIFIER, PIXELS, Space, spaces_of
from cxrdist.files import canonical_json, slug, write_atomic
from cxrdist.gan.evaluation.choice import Score, TrainSide, choose, score
from cxrdist.gan.evaluation.class_metrics import (
    ClassImages,
    ClassMetrics,
    class_metrics,
    compare_with_intervals,
    mean_over_classes,
)
from cxrdist.gan.evaluation.config import EvaluateConfig
from cxrdist.gan.evaluation.metrics import brief, together
from cxrdist.gan.evaluation.run import (
    candidates_of,
    conclude,
    find_models,
    images_at,
    locked_folder,
    replace_generator,
)
from cxrdist.gan.samples import save_grid
from cxrdist.models import TrainedGenerator
from cxrdist.run.checkpoint import load_weights, mark_best, weights_sha256
from cxrdist.run.hosts import check_data, check_options, check_seen
from cxrdist.seeds import permutation

log = logging.getLogger(__name__)

MAX_IMAGES = 2000
MIN_GENERATED = 500
PICTURE_COLUMNS = 4


def evaluate(config: EvaluateConfig) -> None:
    """Evaluate all models of a run and export the best checkpoint of each."""
    began_s = time.monotonic()
    # bf16 would change grey values and distances.
    with Dist("fp32", threads=config.threads, collective_timeout=config.collective_timeout) as dist:
        _evaluate(config, dist)
    say(f"{Path(config.run) / EVALUATION}: {duration(time.monotonic() - began_s)}")


def _evaluate(config: EvaluateConfig, dist: Dist) -> None:
    folder = Path(config.run)
    check_options(dist, "evaluate", to_dict(config))
    check_seen(dist, folder, "an evaluation reads the run's checkpoints in every process")
    dist.on_main(lambda: open_finished_real(config.shards).close())
    shards = dist.agree(lambda: ShardSet(config.shards))
    models = dist.agree(lambda: find_models(folder, shards, config.split))
    with dist.hold_on_main(locked_folder(folder)):
        classifier = Path(config.classifier or folder / "classifier")
        if config.classifier is None:
            dist.on_main(lambda: ensure_classifier(classifier, shards, config.shards))
        trained = dist.agree(lambda: load_classifier(classifier, shards, allow_code=config.allow_code))
        check_data(dist, {"the real set": shards.digest, "the classifier": trained.weights_sha256})
        spaces, pixels = spaces_of(config.features, trained, shards.image_size, dist.device)
        say(f"evaluation of {folder} on {config.split} of {shards}; {dist.describe()}")
        result = Evaluation(config, shards, models, [*spaces, pixels], dist).run()
        if dist.is_main:
            conclude(folder, result, config)


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
        self.of_class: dict[str, ClassMetrics] = {}

    def run(self) -> dict[str, Any]:
        classes = [name for model in self.models.values() for name in model.classes]
        split = self.config.split
        total = sum(self.images_of("train", name) + self.count(split, name) for name in classes)
        for model_name, model in self.models.items():
            each = sum(self.to_make(name) for name in model.classes)
            total += each * len(self.candidates[model_name])
        with Progress("evaluation", total) as progress:
            self.embedder = Embedder(self.spaces, self.shards.image_size, self.dist, progress)
            for name in classes:
                every = np.arange(self.images_of("train", name))
                self.train[name] = self.embedder.real(self.shards.stratum("train", name, "real"), every)
                held_out = self.shards.stratum(split, name, "real")
                self.real[name] = self.embedder.real(held_out, self.sample(split, name))
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
        scores: list[Score] = []
        for path in self.candidates[name]:
            if path is not None:
                load_weights(path, model.network)
            made = {
                c: self.embedder.generated(model, c, self.to_make(c), self.config.seed) for c in model.classes
            }
            scores.append(self.dist.on_main(partial(self.score, images_at(path), made)))
            if choose(scores, self.config.copy_limit).index == len(scores) - 1:
                best = path
                self.generated.update(made)
        if best is not None:
            load_weights(best, model.network)
        return self.dist.on_main(partial(self.results_of, name, model, scores, best))

    def score(self, images: int | None, made: dict[str, Features]) -> Score:
        """Rank 0: judge generated images against train, in the classifier's space and in pixels."""
        features, pixels = ({name: made[name][space] for name in made} for space in (CLASSIFIER, PIXELS))
        train = {c: TrainSide(self.train_sample(c, CLASSIFIER), self.train_images[c]) for c in made}
        return score(images, features, pixels, train)

    @cached_property
    def train_images(self) -> dict[str, TrainImages]:
        """Rank 0: the training images of each class, for near copies."""
        found = {}
        for name, features in self.train.items():
            reader = self.shards.stratum("train", name, "real")
            groups = patient_groups(reader, np.arange(reader.samples))
            pixels, sample = features[PIXELS], torch.from_numpy(self.sample("train", name))
            found[name] = TrainImages.of(pixels, groups.to(pixels.device), sample)
        return found

    def train_sample(self, class_name: str, space: str) -> Tensor:
        return self.train[class_name][space][torch.from_numpy(self.sample("train", class_name))]

    def images(self, class_name: str) -> ClassImages:
        split = self.config.split
        numbers = self.sample(split, class_name)
        return ClassImages(
            label=self.shards.classes.index(class_name),
            generated=self.generated[class_name],
            train={space: self.train_sample(class_name, space) for space in self.train[class_name]},
            real=self.real[class_name],
            patients=patients_of(self.shards.stratum(split, class_name, "real"), numbers),
        )

    def results_of_class(self, name: str, model: TrainedGenerator, class_name: str) -> dict[str, Any]:
        """Rank 0: the results of one class of a model. Saves its pictures."""
        images, config = self.images(class_name), self.config
        self.of_class[class_name] = class_metrics(
            images, self.train_images[class_name], config.seed, class_name
        )
        return {
            "spaces": {
                space: compare_with_intervals(
                    images.sets(space), images.patients, config.k, config.seed, class_name
                )
                for space in self.compared
            },
            "copies": {space.name: self.copies(name, model, class_name, space.name) for space in self.spaces},
            **self.of_class[class_name].results(),
        }

    def results_of(
        self, name: str, model: TrainedGenerator, scores: list[Score], best: Path | None
    ) -> dict[str, Any]:
        """Rank 0: compute the results of a model, save its pictures, mark and export its best checkpoint."""
        classes = {c: self.results_of_class(name, model, c) for c in model.classes}
        choice = choose(scores, self.config.copy_limit)
        why = scores[choice.index].results()
        result = {
            "best": {"images": images_at(best), "weights_sha256": weights_sha256(model.network)},
            "choice": choice.results(self.config.copy_limit),
            "checkpoints": [one.results() for one in scores],
            "classes": classes,
        }
        folder = self.folder / name
        if best is not None:
            mark_best(folder / "checkpoints", why["images"], why)
        values = {c: brief(found["spaces"]) for c, found in classes.items()}
        evaluation = {"split": self.config.split, "images": images_at(best), "classes": values}
        replace_generator(folder, model, {**model.metrics, "evaluation": evaluation})
        write_atomic(folder / EVALUATION, canonical_json({**self.settings(), **result}))
        write_model_card(folder)
        if not choice.is_within_limit:
            log.warning(
                "%s: the near-copy rate of every checkpoint exceeds %g (--copy-limit); chose the one with the lowest "
                "rate, %.2f. Look at %s/nearest, and train it on more images or for a shorter time",
                *(folder, self.config.copy_limit, why["copy_rate"], folder),
            )
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
        config, images = self.config, {name: self.images(name) for name in classes}
        patients = np.concatenate([one.patients for one in images.values()])
        overall = {
            space: compare_with_intervals(
                together({name: one.sets(space) for name, one in images.items()}),
                patients,
                config.k,
                config.seed,
                "overall",
            )
            for space in self.compared
        }
        mean = mean_over_classes([self.of_class[name] for name in classes])
        return {
            **self.settings(),
            "models": models,
            "overall": overall,
            "mean_over_classes": mean.results(),
        }
