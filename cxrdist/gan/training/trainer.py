"""Train one model, from initial weights to its exported generator.

<run>/<model>/checkpoints/, samples/<class>/, metrics.jsonl, generator.safetensors, model.json, summary.json
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cxrdist.cards.generator import write_model_card
from cxrdist.console import Progress
from cxrdist.data.loading.order_digest import OrderDigest
from cxrdist.data.loading.prefetch import ReadAhead, read_ahead
from cxrdist.data.loading.stream import Stream, StreamOptions
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.storage import traffic
from cxrdist.distributed.batch_gather import BatchGather
from cxrdist.distributed.dist import Dist
from cxrdist.distributed.step_means import StepMeans
from cxrdist.errors import UserError
from cxrdist.files import remove_temporaries
from cxrdist.gan.config import GANConfig
from cxrdist.gan.evaluation.choice import Score
from cxrdist.gan.networks import build
from cxrdist.gan.plan import ModelPlan, augment_strengths, look_steps, rate_factor
from cxrdist.gan.tracking import replay_model, row_of
from cxrdist.gan.training.ema import EMA
from cxrdist.gan.training.init import Origin, lineage_of, start_from
from cxrdist.gan.training.look import Looks
from cxrdist.gan.training.step import STATS, GANStep
from cxrdist.gan.training.watch import Watch
from cxrdist.logs import EVERY_RANK
from cxrdist.models import export_generator
from cxrdist.run.checkpoint import newest_checkpoint, snapshot, weights_sha256
from cxrdist.run.checkpoint_writer import CheckpointWriter
from cxrdist.run.folder import write_summary
from cxrdist.run.hosts import load_on_all
from cxrdist.run.interim import FAILED, StepBreaks, restore_state_of_rank, state_of_rank
from cxrdist.run.stretches import Stretch, continued, stretch_of
from cxrdist.run.tracking.metrics_file import MetricsFile
from cxrdist.run.tracking.no_tracker import NoTracker
from cxrdist.seeds import derive
from cxrdist.stop_signals import Stopped, StopRequest

log = logging.getLogger(__name__)

CHECK_FINITE_EVERY_STEPS = 64
ONE_IMAGE = (
    "one training image, or equal ones: a GAN can only copy it, and its diversity cannot be measured; leave the "
    "class out, or import more"
)


class ModelTrainer:
    """Trains G and D of one model: build, resume, step, look (log, draw samples, checkpoint), export."""

    def __init__(
        self,
        config: GANConfig,
        model: ModelPlan,
        shards: ShardSet,
        dist: Dist,
        tracker: NoTracker,
        title: str,
    ) -> None:
        self.config, self.model, self.shards, self.dist = config, model, shards, dist
        self.tracker, self.title = tracker, title
        self.folder = Path(config.run) / model.folder
        self.stream = Stream(
            shards,
            None,
            model.quotas,
            StreamOptions(
                batch=config.batch,
                seed=derive(config.seed, "gan order", model.name),
                rank=dist.rank,
                world_size=dist.world_size,
                limit=config.images_per_class,
                classes=model.labels,  # a mix may omit some of the set's
            ),
        )
        self.order = OrderDigest()
        self.values: dict[str, float] = {}
        """The metrics of the last look."""
        self.watch = Watch(config.on_collapse)
        self.init: Origin = []
        """Lineage of the run that this one started from."""
        self.stopped: str | None = None
        """Why the training ended before its budget."""
        self.looks = Looks(config, model, shards, self.folder, tracker, dist.device)
        self.writer = CheckpointWriter(self.folder / "checkpoints", config.keep) if dist.is_main else None
        self.stretches: list[Stretch] = []
        self.substituted = 0
        self.seconds = 0.0
        self.waited_s = 0.0

    def train(self, request: StopRequest | None = None) -> None:
        """``request``: of the process, which may ask to stop between two steps. Raises Stopped then."""
        self.build()
        step = self.resume()
        self.metrics = MetricsFile(self.folder, step * self.config.batch) if self.dist.is_main else None
        if self.metrics is not None:
            for name in self.looks.diversity.unmeasured:
                self.note(logging.WARNING, f"{name} has {ONE_IMAGE}")
            replay_model(self.tracker, self.folder, self.model.name, self.model.classes, self.metrics.kept)
        self.logged_at = (step * self.config.batch, self.seconds)
        self.began_s, self.waited_before_s = time.monotonic() - self.seconds, self.waited_s
        look_at = look_steps(self.model.steps, self.config.batch, self.config.look_every_images)
        last = step if self.stopped else self.model.steps
        minutes = self.config.checkpoint_minutes
        breaks = StepBreaks(self.dist, self.writer, minutes, request or StopRequest())
        with self.batches(step, last) as batches, self.progress(step) as progress:
            for batch in batches:
                self.order.saw(batch)
                self.set_learning_rate(step)
                self.stats.add(self.step(step, batch))
                step += 1
                images = step * self.config.batch
                if self.ema is not None:
                    self.ema.update(self.generator.module, batch=self.config.batch, images=images)
                if step in look_at:
                    self.look(step, self.stats.means(), batches)
                    self.stats.clear()
                    breaks.written()
                elif step % CHECK_FINITE_EVERY_STEPS == 0:
                    self.watch.check_finite(images, self.stats.means())
                progress.at(images, show(self.values))
                if self.stopped:
                    break
                if step < last and (asked := breaks.after_step()):
                    self.interrupt(asked, step, batches, is_saved=step in look_at)
                    breaks.written()
            breaks.end()
        self.dist.on_main(self.wait_for_checkpoint)
        if self.stopped:
            self.note(logging.INFO, f"stopped at {step * self.config.batch:,} images: {self.stopped}")
        self.finish(step)

    def set_learning_rate(self, step: int) -> None:
        rate = self.model.learning_rate * rate_factor(self.config.rate_decay, step, self.model.steps)
        self.generator.set_learning_rate(rate)
        self.discriminator.set_learning_rate(rate)

    def batches(self, step: int, last: int) -> ReadAhead:
        """This rank's parts of the global batches of steps [step, last)."""
        stream, loader = self.stream, self.config.loader
        return read_ahead(
            stream, step, last, loader, peers=self.dist, device=self.dist.device, substituted=self.substituted
        )

    def progress(self, step: int) -> Progress:
        total, start = self.model.steps * self.config.batch, step * self.config.batch
        return Progress(self.title, total, start=start, every_rank=self.dist.is_alone)

    @property
    def data_wait(self) -> float:
        """The fraction of the training time spent waiting for data."""
        return self.waited_s / max(self.seconds, 1e-9)

    def build(self) -> None:
        config, name = self.config, self.model.name
        generator, discriminator = build(
            config,
            image_size=self.shards.image_size,
            classes=len(self.model.labels),
            seeds=(derive(config.seed, "G", name), derive(config.seed, "D", name)),
        )
        if config.init is not None and self.newest_checkpoint() is None:
            networks = {"generator": generator, "discriminator": discriminator}
            of = config.init
            self.init = self.dist.agree(lambda: start_from(of, self.model, self.shards, networks))
        adam: dict[str, Any] = {
            "learning_rate": self.model.learning_rate,
            "betas": (config.beta1, config.beta2),
            "parts": config.accumulate,
            "compile": config.compile,
        }
        if config.minibatch_std and self.dist.world_size > 1:
            discriminator.gather = BatchGather(self.dist.rank, self.dist.world_size)  # type: ignore[assignment]
        self.generator = self.dist.engine("generator", generator, **adam)
        self.discriminator = self.dist.engine("discriminator", discriminator, **adam)
        self.ema = (
            EMA(self.generator.module, config.ema_half_life_images) if config.ema_half_life_images else None
        )
        strengths = augment_strengths(config, self.model, self.shards)
        self.stats = StepMeans(self.dist, STATS)
        self.step = GANStep(config, self.generator, self.discriminator, self.dist, name, strengths)

    @property
    def networks(self) -> dict[str, nn.Module]:
        found = {"generator": self.generator.module, "discriminator": self.discriminator.module}
        return found if self.ema is None else {**found, "ema": self.ema.model}

    @property
    def sampler(self) -> nn.Module:
        """The generator that draws samples and is exported: the moving average if there is one."""
        return self.generator.module if self.ema is None else self.ema.model

    def newest_checkpoint(self) -> Path | None:
        return self.dist.on_main(lambda: newest_checkpoint(self.folder / "checkpoints"))

    def resume(self) -> int:
        """Load the newest checkpoint. Returns the step to continue at; 0 for a new run."""
        path = self.newest_checkpoint()
        if path is None:
            self.stretches = [stretch_of(self.dist, 0)]
            return 0
        loaded = load_on_all(self.dist, path, self.networks)
        if loaded.ranks is not None:
            restore_state_of_rank(loaded.ranks, self.dist, self.networks, self.stats)
        self.generator.load_optimizer_state(loaded.optimizers["generator"])
        self.discriminator.load_optimizer_state(loaded.optimizers["discriminator"])
        step = self.stream.load_state_dict(loaded.state["stream"])
        self.order = OrderDigest(loaded.state["order_sha256"])
        self.init = loaded.state.get("init", [])
        self.looks.scores = [Score(**score) for score in loaded.state.get("scores", [])]
        self.stopped = loaded.state.get("stopped")
        self.values = loaded.state["values"]
        self.watch.load_state_dict(loaded.state["watch"])
        self.substituted = loaded.state["substituted"]
        self.seconds, self.waited_s = loaded.state["seconds"], loaded.state["waited_s"]
        self.note(logging.INFO, f"resuming at {loaded.images:,} images")
        self.stretches = continued(loaded.state.get("stretches", []), stretch_of(self.dist, loaded.images))
        return step

    def look(self, step: int, means: dict[str, float], batches: ReadAhead) -> None:
        """Draw samples, log, check for collapse, write a checkpoint. Every rank calls this at the same step.

        ``means``: of the step's stats since the last look. Raises UserError if they are not finite.
        """
        self.watch.check_finite(step * self.config.batch, means)
        self.count(batches)
        self.values = means | {"data_wait": round(self.data_wait, 5)}
        for network in self.networks.values():
            self.dist.average_buffers(network)
        order, optimizers = self.gathered()
        self.stopped = self.dist.on_main(lambda: self.record(step, order, optimizers))

    def interrupt(self, asked: int, step: int, batches: ReadAhead, *, is_saved: bool) -> None:
        """Do what any rank asks for after a step (see ``StepBreaks``): an interim checkpoint, and perhaps stop. Every
        rank calls this at the same step."""
        images = step * self.config.batch
        self.dist.on_main(self.wait_for_checkpoint)
        if not is_saved:
            self.count(batches)
            ranks = self.dist.gather_objects([state_of_rank(self.networks, self.stats)])
            order, optimizers = self.gathered()
            if self.writer is not None:
                state = self.state(step, order, self.stopped)
                self.writer.write(snapshot(images, self.networks, optimizers, state, ranks))
        if asked > FAILED:
            self.dist.on_main(self.wait_for_checkpoint)
            raise Stopped(asked, f"{self.title} at {images:,} images; the same command resumes")

    def count(self, batches: ReadAhead) -> None:
        """Bring the counts of this process up to date."""
        self.substituted = batches.substituted
        self.seconds = time.monotonic() - self.began_s
        self.waited_s = self.waited_before_s + batches.waited_s

    def gathered(self) -> tuple[str, dict[str, Any]]:
        """What the ranks have to exchange for a checkpoint: the digest of the order, the states of the optimizers."""
        order = self.order.flush(self.dist.gather, self.dist.world_size, self.dist.device)
        return order, {
            "generator": self.generator.optimizer_state(),
            "discriminator": self.discriminator.optimizer_state(),
        }

    def wait_for_checkpoint(self) -> None:
        if self.writer is not None:
            self.writer.wait()

    def record(self, step: int, order: str, optimizers: dict[str, Any]) -> str | None:
        """Rank 0's part of a look. Returns the reason to stop here, if any. A collapse that stops the run is raised
        last, after the checkpoint."""
        images = step * self.config.batch
        spread, stopped = self.looks.draw(self.sampler, images), None
        if step < self.model.steps:
            stopped, judged = self.looks.judge(self.sampler, images)
            self.values |= judged
        collapse = self.check_collapse(images, spread)
        values = {**self.values, **{f"spread/{name}": round(value, 4) for name, value in spread.items()}}
        assert self.metrics is not None
        self.metrics.log(images, values)
        self.tracker.log(images, row_of(self.model.name, values) | self.throughput(images))
        assert self.writer is not None
        self.writer.write(snapshot(images, self.networks, optimizers, self.state(step, order, stopped)))
        if collapse is not None:
            self.writer.wait()
            raise collapse
        return stopped

    def state(self, step: int, order: str, stopped: str | None) -> dict[str, Any]:
        """Of a checkpoint."""
        return {
            "stream": self.stream.state_dict(step),
            "order_sha256": order,
            "values": self.values,
            "watch": self.watch.state_dict(),
            "init": self.init,
            "scores": [dataclasses.asdict(score) for score in self.looks.scores],
            "stopped": stopped,
            "substituted": self.substituted,
            "seconds": self.seconds,
            "waited_s": self.waited_s,
            "stretches": self.stretches,
        }

    def throughput(self, images: int) -> dict[str, float]:
        """Training images a second since the last look, with drawing and checkpoint, for the tracker alone."""
        (before, before_s), self.logged_at = self.logged_at, (images, self.seconds)
        return {"throughput/images_per_s": round((images - before) / max(self.seconds - before_s, 1e-9), 2)}

    def check_collapse(self, images: int, spread: dict[str, float]) -> UserError | None:
        """Log the warnings of the watch. Returns the error that stops the run, if any."""
        try:
            for warning in self.watch.look(images, self.values, spread):
                self.note(logging.WARNING, warning)
        except UserError as error:
            return error
        return None

    def note(self, level: int, message: str) -> None:
        # With --placement class every process is the main one of its own models.
        extra = EVERY_RANK if self.dist.is_main else None
        log.log(level, "%s: %s", self.title, message, extra=extra)

    def finish(self, step: int) -> None:
        """Export the generator and write the model's summary, which marks it as finished."""
        order = self.order.flush(self.dist.gather, self.dist.world_size, self.dist.device)
        storage = traffic.summary_of(self.dist.gather_objects([traffic.so_far()]))
        self.dist.on_main(lambda: self.export(step, order, storage))

    def export(self, step: int, order: str, storage: Mapping[str, Any]) -> None:
        self.watch.check_end()
        remove_temporaries(self.folder)
        metrics = {k: v for k, v in self.values.items() if k != "data_wait"}
        export_generator(
            self.folder,
            self.sampler,
            preset=self.config.preset,
            classes=self.model.classes,
            lineage=lineage_of(self.shards, self.init),
            metrics=metrics,
        )
        write_model_card(self.folder)
        write_summary(
            self.folder,
            {
                "job": "gan-model",
                "status": "finished",
                "classes": list(self.model.classes),
                "shards": {"real": self.shards.digest},
                "train_images": self.model.train_images,
                "images_seen": step * self.config.batch,
                "steps": step,
                "stopped": self.stopped,
                "learning_rate": self.model.learning_rate,
                "seconds": round(self.seconds, 1),
                "data_wait": round(self.data_wait, 4),
                "metrics": metrics,
                "warnings": self.watch.warnings,
                "weights_sha256": weights_sha256(self.sampler),
                "order_sha256": order,
                "substituted": self.substituted,
                "world_size": self.dist.world_size,
                "device": self.dist.device_name,
                "precision": self.dist.precision,
                "threads": self.dist.threads,
                "stretches": self.stretches,
                **storage,
            },
        )


def show(values: dict[str, float]) -> str:
    return f"D {values['loss_d']:.2f}  G {values['loss_g']:.2f}" if values else ""
