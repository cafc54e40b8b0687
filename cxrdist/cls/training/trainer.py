"""Train one classifier, from initial weights to its test metrics, data-parallel over all processes.

    stages -> steps -> looks (validate, log, checkpoint) -> test of the kept weights -> export

<run>/config.yaml, metrics.jsonl, checkpoints/, and of record.py: model.safetensors, model.json, predictions-*.csv,
summary.json
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrdist.cls.config import ClsConfig
from cxrdist.cls.training.evaluate import SplitEvaluator
from cxrdist.cls.training.networks import config_for, freeze_features
from cxrdist.cls.training.record import Finished, Progressed, record
from cxrdist.cls.training.sources import soft_labels_digest
from cxrdist.cls.training.stages import StagePlan
from cxrdist.cls.training.step import ClsStep
from cxrdist.cls.training.targets import SoftLabels
from cxrdist.cls.training.tracking import describe_cls, log_cls
from cxrdist.config.budget import evenly_spaced
from cxrdist.console import Progress
from cxrdist.data.loading.mix_log import MixLog
from cxrdist.data.loading.mix_sets import repeated_strata, train_counts
from cxrdist.data.loading.order_digest import OrderDigest
from cxrdist.data.loading.prefetch import ReadAhead, read_ahead
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage import traffic
from cxrdist.distributed.dist import Dist
from cxrdist.distributed.step_means import StepMeans
from cxrdist.errors import UserError
from cxrdist.metrics.classification import metrics_of
from cxrdist.nets.classifiers import build_network, init_network
from cxrdist.run.checkpoint import Loaded, RankState, newest_checkpoint, snapshot
from cxrdist.run.checkpoint_writer import CheckpointWriter
from cxrdist.run.hosts import load_on_all
from cxrdist.run.interim import FAILED, StepBreaks, restore_state_of_rank, state_of_rank
from cxrdist.run.stretches import Stretch, continued, stretch_of
from cxrdist.run.tracking.metrics_file import MetricsFile
from cxrdist.run.tracking.start import start
from cxrdist.seeds import derive
from cxrdist.stop_signals import Stopped, StopRequest, stop_between_steps

log = logging.getLogger(__name__)

ENGINE = "classifier"
CHECKPOINTS_KEPT = 2


class Trainer:
    """Trains one classifier: build, resume, train each stage, record.

    ``current`` and ``kept`` are plain networks on the device: the weights of the last look, and those to test. The
    engine of a stage has the weights in training.
    """

    def __init__(
        self,
        config: ClsConfig,
        stages: Sequence[StagePlan],
        real: ShardSet,
        synthetic: ShardSet | None,
        dist: Dist,
    ) -> None:
        self.config, self.stages, self.real, self.synthetic, self.dist = config, stages, real, synthetic, dist
        self.folder = Path(config.run_folder)
        for stage in stages:
            counts = train_counts(real, synthetic if stage.rule.needs_synthetic else None)
            for repeat in repeated_strata(stage.quotas, counts):
                log.warning("%s", repeat)
        steps = stages[-1].end
        self.looks = evenly_spaced(steps, config.evaluations) | {stage.end for stage in stages}
        self.validation = SplitEvaluator(real, "val", dist)
        self.soft_labels_digest = dist.on_main(lambda: soft_labels_digest(config))
        self.soft_labels: SoftLabels | None = None
        if config.soft_labels is not None:
            self.soft_labels = SoftLabels.read(config.soft_labels, real.classes, dist.device)
        self.writer: CheckpointWriter | None = None
        if dist.is_main:
            self.writer = CheckpointWriter(self.folder / "checkpoints", CHECKPOINTS_KEPT)
        self.stretches: list[Stretch] = []
        self.losses = StepMeans(dist, ("loss",))
        """Of the steps since the last look."""
        self.step = 0
        """Steps that were trained, in all stages."""
        self.substituted = 0
        self.seconds_before = 0.0
        """What the run took before it was resumed."""
        self.validation_s = 0.0
        self.waited_s = 0.0
        self.data_wait = 0.0
        """The fraction of the training time spent waiting for data, without validation."""

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began_s

    def train(self) -> None:
        self.build()
        loaded, stage_loaded = self.resume()
        with stop_between_steps() as request:
            self.start_logs()
            self.began_s = time.monotonic()
            try:
                for stage in self.stages[stage_loaded:]:
                    self.begin(stage, loaded)
                    loaded = None
                    self.train_stage(stage, request)
                    self.waited_s += self.batches.waited_s
                self.tracker.finish(self.finish())
            except Stopped as stopped:
                self.tracker.interrupt(stopped.exit_code)
                raise

    def build(self) -> None:
        config = config_for(self.config, self.real)
        self.current = build_network(config)
        init_network(self.current, config, derive(self.config.seed, "classifier"))
        self.current.to(self.dist.device)
        self.kept = copy.deepcopy(self.current)
        self.order = OrderDigest()
        self.best: dict[str, Any] = {"score": -1.0, "evaluations_since": 0, "kept_step": 0}

    @property
    def models(self) -> dict[str, Any]:
        return {"model": self.current, "best": self.kept}

    def resume(self) -> tuple[Loaded | None, int]:
        """Load the newest checkpoint. Returns it and the stage to continue in; None and 0 for a new run."""
        path = self.dist.on_main(lambda: newest_checkpoint(self.folder / "checkpoints"))
        if path is None:
            self.stretches = [stretch_of(self.dist, 0)]
            return None, 0
        loaded = load_on_all(self.dist, path, self.models)
        if loaded.state.get("soft_labels") != self.soft_labels_digest:
            raise UserError(
                f"{self.folder} was begun with other soft labels than {self.config.soft_labels} holds now: give "
                "another --run"
            )
        stage = self.stages[loaded.state["stage"]]
        self.step = stage.first + stage.stream.load_state_dict(loaded.state["stream"])
        self.order = OrderDigest(loaded.state["order_sha256"])
        self.best = loaded.state["best"]
        self.substituted = loaded.state["substituted"]
        self.seconds_before = loaded.state["seconds"]
        log.info("%s: resuming at %s images", self.folder, f"{loaded.images:,}")
        self.stretches = continued(loaded.state.get("stretches", []), stretch_of(self.dist, loaded.images))
        return loaded, stage.number

    def start_logs(self) -> None:
        images = self.step * self.config.batch
        self.metrics = MetricsFile(self.folder, images) if self.dist.is_main else None
        self.tracker = start(
            self.folder,
            self.config.tracking,
            describe_cls(self.config, self.stages, self.real, self.synthetic, self.dist),
            is_main=self.dist.is_main,
        )
        if self.metrics is not None:
            self.tracker.replay(self.metrics.kept)
        self.looked_at = (images, time.monotonic())

    def begin(self, stage: StagePlan, loaded: Loaded | None) -> None:
        """Make the engine of a stage from the current weights, with a new Adam, or with that of a checkpoint in the
        stage."""
        self.dist.forget_models()
        network = copy.deepcopy(self.current).train()
        if stage.is_frozen:
            freeze_features(network, self.real.image_size)
        self.engine = self.dist.engine(
            ENGINE,
            network,
            learning_rate=stage.learning_rate,
            betas=(self.config.beta1, 0.999),
            l2=self.config.l2,
            parts=self.config.accumulate,
            compile=self.config.compile,
        )
        self.one_step = ClsStep(self.config, self.engine, self.dist, stage, self.soft_labels)
        self.losses.clear()
        if loaded is not None:
            self.engine.load_optimizer_state(loaded.optimizers["model"])
            if loaded.ranks is not None:
                restore_state_of_rank(loaded.ranks, self.dist, {ENGINE: self.engine.module}, self.losses)

    def train_stage(self, stage: StagePlan, request: StopRequest) -> None:
        """Train a stage to its end, or until it is out of patience."""
        is_last = stage is self.stages[-1]
        mix = MixLog(stage.stream, self.step - stage.first)
        breaks = StepBreaks(self.dist, self.writer, self.config.checkpoint_minutes, request)
        with self.open_batches(stage) as self.batches, self.progress(stage) as progress:
            while self.step < stage.end and not (is_last and self.out_of_patience()):
                batch = next(self.batches)
                self.order.saw(batch)
                self.engine.set_learning_rate(stage.learning_rate_at(self.step, self.config))
                of_stage = self.step - stage.first
                self.losses.add(self.one_step(of_stage, batch))
                mix.saw(batch)
                self.step += 1
                if mix.ends_epoch(of_stage):
                    values = mix.flush(of_stage, self.dist.gather, self.dist.world_size, self.dist.device)
                    self.log_metrics(values)
                if self.step in self.looks:
                    self.look(stage, self.losses.means()["loss"])
                    self.losses.clear()
                    breaks.written()
                progress.at(self.step * self.config.batch, self.best_note)
                if self.step < self.stages[-1].end and (asked := breaks.after_step()):
                    self.interrupt(asked, stage)
                    breaks.written()
        breaks.end()
        self.dist.on_main(self.wait_for_checkpoint)

    def open_batches(self, stage: StagePlan) -> ReadAhead:
        """This rank's parts of the global batches of the rest of a stage."""
        return read_ahead(
            stage.stream,
            self.step - stage.first,
            stage.steps,
            self.config.loader,
            peers=self.dist,
            device=self.dist.device,
            substituted=self.substituted,
        )

    def progress(self, stage: StagePlan) -> Progress:
        batch = self.config.batch
        return Progress(f"classifier {stage.rule.name}", stage.end * batch, start=self.step * batch)

    @property
    def best_note(self) -> str:
        return f"val {self.best['score']:.1%} best" if self.best["kept_step"] else ""

    def look(self, stage: StagePlan, loss: float) -> None:
        """Validate, log, write a checkpoint. Every rank calls this at the same step. ``loss``: mean since the last
        look."""
        look_s = time.monotonic()
        self.dist.average_buffers(self.engine.module)
        self.engine.copy_weights_to(self.current)
        values = self.validate(stage, loss)
        trained_s = look_s - self.began_s - self.validation_s
        self.data_wait = (self.waited_s + self.batches.waited_s) / trained_s
        (before, before_s), images = self.looked_at, self.step * self.config.batch
        images_per_s = round((images - before) / max(look_s - before_s, 1e-9), 2)
        self.log_metrics(values, {"data_wait": self.data_wait, "throughput/images_per_s": images_per_s})
        self.checkpoint(stage)
        self.looked_at = (images, time.monotonic())
        self.validation_s += self.looked_at[1] - look_s

    def log_metrics(self, values: Mapping[str, Any], timing: Mapping[str, float] | None = None) -> None:
        """``timing`` is sent to the tracker only, so that ``metrics.jsonl`` is reproducible."""
        images = self.step * self.config.batch
        if self.metrics is not None:
            self.metrics.log(images, values)
        self.tracker.log(images, {**values, **(timing or {})})

    def validate(self, stage: StagePlan, loss: float) -> dict[str, Any]:
        """Metrics on ``val``. In the last stage, keeps a copy of the weights as ``keep_weights`` says."""
        if not math.isfinite(loss):
            raise UserError(
                f"{self.folder}: the loss is no longer finite; lower --learning-rate (now "
                f"{stage.learning_rate}) or set --precision fp32, and start again with another --run"
            )
        found = metrics_of(self.validation.predictions(self.current))
        if stage is self.stages[-1]:
            score = found["balanced_accuracy"] or 0.0  # null if val has no images
            is_better = score > self.best["score"]
            if is_better:
                self.best |= {"score": score, "evaluations_since": 0}
            else:
                self.best["evaluations_since"] += 1
            if is_better or self.config.keep_weights == "last":
                self.best["kept_step"] = self.step
                self.kept.load_state_dict(self.current.state_dict())
        values = {
            "stage": stage.number,
            "epoch": round(stage.epoch_at(self.step), 4),
            "train/loss": loss,
            "lr": stage.learning_rate_at(self.step - 1, self.config),
            "val/accuracy": found["accuracy"],
            "val/balanced_accuracy": found["balanced_accuracy"],
            "val/macro_auroc": found["macro_auroc"],
            **{f"val/per_class/{name}": value for name, value in found["per_class"].items()},
        }
        return {name: value for name, value in values.items() if value is not None}

    def out_of_patience(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.best["evaluations_since"] >= patience

    def interrupt(self, asked: int, stage: StagePlan) -> None:
        """Do what any rank asks for after a step (see ``StepBreaks``): an interim checkpoint, and perhaps stop. Every
        rank calls this at the same step."""
        self.dist.on_main(self.wait_for_checkpoint)
        if self.step not in self.looks:
            self.engine.copy_weights_to(self.current)
            mine = state_of_rank({ENGINE: self.engine.module}, self.losses)
            self.checkpoint(stage, self.dist.gather_objects([mine]))
        if asked > FAILED:
            self.dist.on_main(self.wait_for_checkpoint)
            images = self.step * self.config.batch
            raise Stopped(asked, f"{self.folder} at {images:,} images; the same command resumes")

    def wait_for_checkpoint(self) -> None:
        if self.writer is not None:
            self.writer.wait()

    def checkpoint(self, stage: StagePlan, ranks: list[RankState] | None = None) -> None:
        """``ranks``: of an interim checkpoint."""
        self.dist.on_main(self.wait_for_checkpoint)
        self.substituted = self.batches.substituted
        order = self.order.flush(self.dist.gather, self.dist.world_size, self.dist.device)
        optimizers = {"model": self.engine.optimizer_state()}
        if self.writer is not None:
            state = {
                "stage": stage.number,
                "stream": stage.stream.state_dict(self.step - stage.first),
                "order_sha256": order,
                "best": self.best,
                "substituted": self.substituted,
                "soft_labels": self.soft_labels_digest,
                "seconds": self.seconds,
                "stretches": self.stretches,
            }
            images = self.step * self.config.batch
            self.writer.write(snapshot(images, self.models, optimizers, state, ranks))

    def finish(self) -> Mapping[str, Any]:
        """Test the kept weights and write what a finished run has."""
        test = SplitEvaluator(self.real, "test", self.dist)
        predictions = {"val": self.validation.predictions(self.kept), "test": test.predictions(self.kept)}
        progressed = Progressed(
            step=self.step,
            kept_step=self.best["kept_step"],
            order_sha256=self.order.flush(self.dist.gather, self.dist.world_size, self.dist.device),
            substituted=self.substituted,
            data_wait=self.data_wait,
            seconds=self.seconds,
            stretches=self.stretches,
            storage=traffic.summary_of(self.dist.gather_objects([traffic.so_far()])),
        )
        finished = Finished(
            config=self.config,
            stages=self.stages,
            real=self.real,
            synthetic=self.synthetic,
            network=self.kept,
            progressed=progressed,
        )
        summary = self.dist.on_main(lambda: record(finished, predictions, self.dist))
        if self.tracker.is_on:
            log_cls(self.tracker, self.real, self.synthetic, summary, predictions["test"])
        return summary
