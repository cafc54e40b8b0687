"""Train one classifier, from initial weights to its test metrics, data-parallel over all processes.

<run>/config.yaml, metrics.jsonl, checkpoints/, model.safetensors, summary.json
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from cxrdist import counter_rng
from cxrdist.cls.config import ClsConfig
from cxrdist.cls.evaluate import SplitEvaluator
from cxrdist.cls.metrics import MeanLoss
from cxrdist.cls.optim import sigmoid_decay
from cxrdist.cls.sources import describe_data, digests_of
from cxrdist.cls.tracking import describe_cls, log_cls
from cxrdist.config.budget import budget_steps, evenly_spaced
from cxrdist.console import Progress, duration, say
from cxrdist.data.loading.mix_log import MixLog
from cxrdist.data.loading.mix_sets import repeated_strata, train_counts
from cxrdist.data.loading.order_digest import OrderDigest
from cxrdist.data.loading.prefetch import ReadAhead, read_ahead
from cxrdist.data.loading.stream import Batch, Stream, StreamOptions
from cxrdist.data.mix.order import order_seed
from cxrdist.data.mix.rules import MixRule, quotas
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.transforms import AUGMENT_AMOUNTS, augment, to_float
from cxrdist.distributed.dist import Dist
from cxrdist.distributed.engines import adam_groups
from cxrdist.errors import UserError
from cxrdist.nets.dcnn import DCNN, init_weights
from cxrdist.run.checkpoint import (
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    save_weights,
    weights_sha256,
)
from cxrdist.run.folder import environment, write_summary
from cxrdist.run.tracking.metrics_file import MetricsFile
from cxrdist.run.tracking.start import start
from cxrdist.seeds import derive

log = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
CHECKPOINTS_KEPT = 2


class Trainer:
    """Trains one classifier: build, resume, step, validate (log, checkpoint), test."""

    def __init__(
        self, config: ClsConfig, rule: MixRule, real: ShardSet, synthetic: ShardSet | None, dist: Dist
    ) -> None:
        self.config, self.rule, self.real, self.synthetic, self.dist = config, rule, real, synthetic, dist
        self.folder = Path(config.run_folder)
        counts = train_counts(real, synthetic)
        self.quotas = quotas(rule, counts)
        for repeat in repeated_strata(self.quotas, counts):
            log.warning("%s", repeat)
        self.stream = Stream(
            real,
            synthetic,
            self.quotas,
            StreamOptions(
                batch=config.batch, seed=order_seed(config.seed), rank=dist.rank, world_size=dist.world_size
            ),
        )
        self.steps = budget_steps(config.budget, epoch_images=self.stream.epoch_images, batch=config.batch)
        self.epochs = self.epoch_at(self.steps)
        self.validation = SplitEvaluator(real, "val", dist)
        self.substituted = 0
        self.seconds_before = 0.0
        """What the run took before it was resumed."""
        self.validation_s = 0.0
        self.data_wait = 0.0
        """The fraction of the training time spent waiting for data, without validation."""

    def epoch_at(self, step: int) -> float:
        return step * self.config.batch / self.stream.epoch_images

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began_s

    def train(self) -> None:
        self.build()
        step = self.resume()
        self.start_logs(step)
        evaluation_steps = evenly_spaced(self.steps, self.config.evaluations)
        mix, losses = MixLog(self.stream, step), MeanLoss(self.dist)
        self.began_s = time.monotonic()
        with self.batches(step) as batches, self.progress(step) as progress:
            while step < self.steps and not self.out_of_patience():
                batch = next(batches)
                losses.add(self.step(step, batch))
                mix.saw(batch)
                if mix.ends_epoch(step):
                    values = mix.flush(step, self.dist.gather, self.dist.world_size, self.dist.device)
                    self.log_metrics(step + 1, values)
                step += 1
                if step in evaluation_steps:
                    self.look(step, losses.mean(), batches)
                    losses.clear()
                progress.at(step * self.config.batch, self.best_note)
        summary = self.finish(step)
        log_cls(self.tracker, self.real, self.synthetic, summary)
        self.tracker.finish(summary)

    def build(self) -> None:
        self.model = DCNN(self.config.network(self.real.image_size, len(self.real.classes)))
        init_weights(self.model, derive(self.config.seed, "classifier"))
        self.best_model = copy.deepcopy(self.model).to(self.dist.device)
        self.ddp_model = self.dist.wrap(self.model)
        self.model = self.dist.unwrap(self.ddp_model)
        self.optimizer = torch.optim.Adam(
            adam_groups(self.model, self.config.l2),
            lr=self.config.learning_rate,
            betas=(self.config.beta1, 0.999),
        )
        self.order = OrderDigest()
        self.best: dict[str, Any] = {"score": -1.0, "step": 0, "evaluations_since": 0}

    @property
    def models(self) -> dict[str, torch.nn.Module]:
        return {"model": self.model, "best": self.best_model}

    def resume(self) -> int:
        """Load the newest checkpoint. Returns the step to continue at; 0 for a new run."""
        path = self.dist.on_main(lambda: newest_checkpoint(self.folder / "checkpoints"))
        if path is None:
            return 0
        loaded = load_checkpoint(path, self.models)
        self.optimizer.load_state_dict(loaded.optimizers["model"])
        step = self.stream.load_state_dict(loaded.state["stream"])
        self.order = OrderDigest(loaded.state["order_sha256"])
        self.best = loaded.state["best"]
        self.substituted = loaded.state["substituted"]
        self.seconds_before = loaded.state["seconds"]
        log.info("%s: resuming at %s images", self.folder, f"{loaded.images:,}")
        return step

    def start_logs(self, step: int) -> None:
        self.metrics = MetricsFile(self.folder, step * self.config.batch) if self.dist.is_main else None
        self.tracker = start(
            self.folder,
            self.config.tracking,
            describe_cls(self.config, self.rule, self.real, self.synthetic, self.dist),
            is_main=self.dist.is_main,
        )
        if self.metrics is not None:
            self.tracker.replay(self.metrics.kept)
        self.looked_at = (step * self.config.batch, time.monotonic())

    def batches(self, step: int) -> ReadAhead:
        """This rank's parts of the global batches from ``step`` on."""
        stream, loader = self.stream, self.config.loader
        return read_ahead(
            stream,
            step,
            self.steps,
            loader,
            peers=self.dist,
            device=self.dist.device,
            substituted=self.substituted,
        )

    def progress(self, step: int) -> Progress:
        total, start = self.steps * self.config.batch, step * self.config.batch
        return Progress(f"classifier {self.rule.name}", total, start=start)

    @property
    def best_note(self) -> str:
        return f"val {self.best['score']:.1%} best" if self.best["step"] else ""

    def step(self, step: int, batch: Batch) -> torch.Tensor:
        """One Adam step on this rank's part of global batch ``step``; returns its mean loss."""
        self.order.saw(batch)
        rate = sigmoid_decay(
            self.epoch_at(step),
            self.epochs,
            self.config.learning_rate,
            self.config.decay_steepness,
            self.config.decay_middle,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images = to_float(batch.pixels)
        positions = counter_rng.positions_on(batch.positions, self.dist.device)
        amounts = counter_rng.uniform(derive(self.config.seed, "augment"), positions, AUGMENT_AMOUNTS)
        logits = self.ddp_model(augment(images, self.config.augment, amounts))
        loss = cross_entropy(logits, batch.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def look(self, step: int, loss: float, batches: ReadAhead) -> None:
        """Validate, log, write a checkpoint. Every rank calls this at the same step. ``loss``: mean since the last
        look."""
        look_s = time.monotonic()
        self.substituted = batches.substituted
        values = self.validate(step, loss)
        self.data_wait = batches.waited_s / (look_s - self.began_s - self.validation_s)
        (before, before_s), images = self.looked_at, step * self.config.batch
        rate = round((images - before) / max(look_s - before_s, 1e-9), 2)
        self.log_metrics(step, values, {"data_wait": self.data_wait, "throughput/images_per_s": rate})
        self.checkpoint(step)
        self.looked_at = (images, time.monotonic())
        self.validation_s += self.looked_at[1] - look_s

    def log_metrics(
        self, step: int, values: Mapping[str, Any], timing: Mapping[str, float] | None = None
    ) -> None:
        """``timing`` is sent to the tracker only, so that ``metrics.jsonl`` is reproducible."""
        images = step * self.config.batch
        if self.metrics is not None:
            self.metrics.log(images, values)
        self.tracker.log(images, {**values, **(timing or {})})

    def validate(self, step: int, loss: float) -> dict[str, Any]:
        """Metrics on ``val``. Keeps a copy of the weights if they are the best so far."""
        if not math.isfinite(loss):
            raise UserError(
                f"{self.folder}: the loss is no longer finite; lower --learning-rate (now "
                f"{self.config.learning_rate}) or set --precision fp32, and start again with another --run"
            )
        found = self.validation.evaluate(self.model)
        if found["balanced_accuracy"] > self.best["score"]:
            self.best = {"score": found["balanced_accuracy"], "step": step, "evaluations_since": 0}
            self.best_model.load_state_dict(self.model.state_dict())
        else:
            self.best = {**self.best, "evaluations_since": self.best["evaluations_since"] + 1}
        return {
            "epoch": round(self.epoch_at(step), 4),
            "train/loss": round(loss, 5),
            "lr": self.optimizer.param_groups[0]["lr"],
            "val/accuracy": found["accuracy"],
            "val/balanced_accuracy": found["balanced_accuracy"],
            "val/macro_auroc": found["macro_auroc"],
            **{f"val/per_class/{name}": value for name, value in found["per_class"].items()},
        }

    def out_of_patience(self) -> bool:
        return self.config.patience is not None and self.best["evaluations_since"] >= self.config.patience

    def checkpoint(self, step: int) -> None:
        order = self.order.flush(self.dist.gather, self.dist.world_size, self.dist.device)
        if self.dist.is_main:
            state = {
                "stream": self.stream.state_dict(step),
                "order_sha256": order,
                "best": self.best,
                "substituted": self.substituted,
                "seconds": self.seconds,
            }
            images = step * self.config.batch
            optimizers = {"model": self.optimizer.state_dict()}
            save_checkpoint(
                self.folder / "checkpoints", images, self.models, optimizers, state, keep=CHECKPOINTS_KEPT
            )
        self.dist.barrier()

    def finish(self, step: int) -> Mapping[str, Any]:
        """Test the best weights and write the summary, which marks the run as finished."""
        seconds = self.seconds
        order = self.order.flush(self.dist.gather, self.dist.world_size, self.dist.device)
        metrics = {
            "val": self.validation.evaluate(self.best_model),
            "test": SplitEvaluator(self.real, "test", self.dist).evaluate(self.best_model),
        }
        summary = {
            "job": "cls",
            "status": "finished",
            "mix": self.rule.name,
            "seed": self.config.seed,
            "classes": self.real.classes,
            "counts": self.quotas,
            "shards": digests_of(self.real, self.synthetic),
            "other_lineage_allowed": self.config.allow_other_lineage,
            "data": describe_data(self.real),
            "metrics": metrics,
            "best_images": self.best["step"] * self.config.batch,
            "epochs": round(self.epoch_at(step), 4),
            "images_seen": step * self.config.batch,
            "steps": step,
            "world_size": self.dist.world_size,
            "device": self.dist.device_name,
            "precision": self.dist.precision,
            "threads": self.dist.threads,
            "weights_sha256": weights_sha256(self.best_model),
            "order_sha256": order,
            "substituted": self.substituted,
            "data_wait": round(self.data_wait, 4),
            "seconds": round(seconds, 1),
            **environment(),
        }
        if self.dist.is_main:
            save_weights(self.folder / MODEL_FILE, self.best_model)
            write_summary(self.folder, summary)
        self.dist.barrier()
        test = metrics["test"]
        say(
            f"{self.folder}: test accuracy {test['accuracy']:.1%}, balanced {test['balanced_accuracy']:.1%}, "
            f"macro AUROC {test['macro_auroc']:.3f}; {duration(seconds)}"
        )
        return summary
