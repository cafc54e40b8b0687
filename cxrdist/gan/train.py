"""Training a DCGAN per class (paper 2.1), one class after the other, each data-parallel over all processes.

<run>/config.yaml, summary.json
<run>/<class>/checkpoints/, samples/, metrics.jsonl, generator.safetensors, model.json, summary.json
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from cxrdist.budget import budget_steps
from cxrdist.checkpoint import (
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    save_weights,
    weights_sha256,
)
from cxrdist.config import to_dict
from cxrdist.data.lineage import made_from
from cxrdist.data.open import open_real
from cxrdist.data.order import check_divides
from cxrdist.data.order_digest import OrderDigest
from cxrdist.data.shard_set import ShardSet
from cxrdist.data.stream import Batch, Stream
from cxrdist.data.transforms import to_float
from cxrdist.dist import Dist
from cxrdist.errors import UserError, nearest
from cxrdist.files import canonical_json, remove_temporaries, sha256_bytes, slug, write_atomic
from cxrdist.gan.config import GANConfig
from cxrdist.gan.losses import d_loss, g_loss
from cxrdist.gan.samples import GRID_SIDE, generate, save_grid
from cxrdist.nets.dcgan import Discriminator, Generator, init_weights
from cxrdist.progress import Progress, duration, say
from cxrdist.run import SUMMARY, environment, evenly, finished_summary, holding, write_summary
from cxrdist.seeds import derive, uniform
from cxrdist.tracking import MetricsFile, NoTracker, start

GENERATOR_FILE = "generator.safetensors"
MODEL_FILE = "model.json"


def train(config: GANConfig) -> None:
    """Train the classes that ``config`` names and that are not finished yet."""
    began_s = time.monotonic()
    dist = Dist(config.precision)
    folder = Path(config.run)
    dist.on_main(lambda: open_real(config.shards).close())
    shards = ShardSet(config.shards)
    classes = choose_classes(config.classes, shards)
    config.network(shards.image_size)
    check_divides(config.batch, dist.world_size)
    with holding(folder, "gan", to_dict(config), dist):
        done = dist.on_main(lambda: finished_classes(folder, shards))
        classes = [name for name in classes if name not in done]
        if not classes and (folder / SUMMARY).exists():
            say(f"{folder}: finished before; nothing to do (another --run starts a new one)")
            dist.close()
            return
        say(f"GAN: {', '.join(classes)} of {shards}, {shards.image_size} px; {dist.describe()}")
        tracker = start(folder, config.tracking, job="gan", settings=to_dict(config), is_main=dist.is_main)
        for number, class_name in enumerate(classes, 1):
            title = f"GAN {number}/{len(classes)} {class_name}"
            ClassTrainer(config, class_name, shards, dist, tracker, title).train()
            dist.forget_models()
        summary = dist.on_main(lambda: summarise(folder, shards, dist))
        tracker.finish(summary)
    say(f"{folder}: {len(classes)} generators in {duration(time.monotonic() - began_s)}")
    dist.close()


def choose_classes(asked: tuple[str, ...], shards: ShardSet) -> list[str]:
    """The classes to train, in the set's order. Raises UserError for a class that the set does not have."""
    if asked == ("all",):
        return shards.classes
    for name in asked:
        if name not in shards.classes:
            raise UserError(f"--classes {name}: not a class of {shards}{nearest(name, shards.classes)}")
    return [name for name in shards.classes if name in asked]


def finished_classes(folder: Path, shards: ShardSet) -> dict[str, dict[str, Any]]:
    """Summaries of the classes that are finished in this run, also by earlier commands. Raises UserError where
    one of them has learnt from another set."""
    found = {name: finished_summary(folder / slug(name), {"real": shards.digest}) for name in shards.classes}
    return {name: summary for name, summary in found.items() if summary is not None}


def summarise(folder: Path, shards: ShardSet, dist: Dist) -> dict[str, Any]:
    """The run's summary, over all classes that are finished in it, also by earlier commands."""
    dropped = ("job", "status", "class", "shards")
    per_class = {
        name: {k: v for k, v in of_class.items() if k not in dropped}
        for name, of_class in finished_classes(folder, shards).items()
    }
    together = "".join(c["weights_sha256"] for c in per_class.values())
    orders = "".join(c["order_sha256"] for c in per_class.values())
    summary = {
        "job": "gan",
        "status": "finished",
        "classes": per_class,
        "shards": {"real": shards.digest},
        "metrics": {name: values["metrics"] for name, values in per_class.items()},
        "images_seen": sum(c["images_seen"] for c in per_class.values()),
        "seconds": round(sum(c["seconds"] for c in per_class.values()), 1),
        "world_size": dist.world_size,
        "device": dist.device_name,
        "weights_sha256": sha256_bytes(together.encode()),
        "order_sha256": sha256_bytes(orders.encode()),
        **environment(),
    }
    write_summary(folder, summary)
    return summary


class ClassTrainer:
    """One class's G and D: build, resume, train, look, export."""

    def __init__(
        self,
        config: GANConfig,
        class_name: str,
        shards: ShardSet,
        dist: Dist,
        tracker: NoTracker,
        title: str,
    ) -> None:
        self.config, self.class_name, self.shards = config, class_name, shards
        self.dist, self.tracker, self.title = dist, tracker, title
        self.folder = Path(config.run) / slug(class_name)
        self.network = config.network(shards.image_size)
        available = shards.samples("train", class_name, "real")
        self.train_images = min(available, config.images_per_class or available)
        self.stream = Stream(
            shards,
            None,
            {class_name: {"real": self.train_images}},
            batch=config.batch,
            seed=derive(config.seed, "gan order", class_name),
            rank=dist.rank,
            world_size=dist.world_size,
            limit=config.images_per_class,
        )
        self.steps = budget_steps(config.budget, epoch_images=self.stream.epoch_images, batch=config.batch)
        self.look_steps = evenly(self.steps, config.looks)
        self.values: dict[str, float] = {}
        self.substituted = 0

    def train(self) -> None:
        self.build()
        step, seconds_before = self.resume()
        metrics = MetricsFile(self.folder, step * self.config.batch) if self.dist.is_main else None
        began_s = time.monotonic()
        sums = torch.zeros(4, device=self.dist.device)
        since = step
        with (
            self.stream.batches(
                step, self.steps, self.config.loader, peers=self.dist, substituted=self.substituted
            ) as batches,
            Progress(self.title, self.steps * self.config.batch, start=step * self.config.batch) as progress,
        ):
            for batch in batches:
                sums += self.step(batch)
                self.substituted = batches.substituted
                step += 1
                images = step * self.config.batch
                if step in self.look_steps:
                    self.values = self.mean_values(sums, step - since)
                    sums.zero_()
                    since = step
                    self.look(images, step, metrics, seconds_before + time.monotonic() - began_s)
                progress.at(images, show(self.values))
        self.finish(seconds_before + time.monotonic() - began_s)

    def build(self) -> None:
        seed, name = self.config.seed, self.class_name
        self.generator, self.discriminator = Generator(self.network), Discriminator(self.network)
        init_weights(self.generator, derive(seed, "G", name))
        init_weights(self.discriminator, derive(seed, "D", name))
        # Wrapped while all parameters are trainable: D is frozen later, in G's half of the step.
        self.ddp_generator = self.dist.wrap(self.generator)
        self.ddp_discriminator = self.dist.wrap(self.discriminator)
        self.generator = self.dist.unwrap(self.ddp_generator)
        self.discriminator = self.dist.unwrap(self.ddp_discriminator)
        betas = (self.config.beta1, 0.999)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), self.config.learning_rate, betas)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), self.config.learning_rate, betas)
        self.order = OrderDigest()

    @property
    def models(self) -> dict[str, torch.nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator": self.optimizer_g, "discriminator": self.optimizer_d}

    def resume(self) -> tuple[int, float]:
        """The step to go on at and the seconds spent before; (0, 0) for a new run."""
        path = self.dist.on_main(lambda: newest_checkpoint(self.folder / "checkpoints"))
        if path is None:
            return 0, 0.0
        loaded = load_checkpoint(path, self.models, self.optimizers)
        step = self.stream.load_state_dict(loaded.state["stream"])
        self.order = OrderDigest(loaded.state["order_sha256"])
        self.values = loaded.state["values"]
        self.substituted = loaded.state["substituted"]
        say(f"{self.title}  resumes at {loaded.images:,} images")
        return step, loaded.state["seconds"]

    def step(self, batch: Batch) -> torch.Tensor:
        """D, then G, each with the other frozen (paper 2.1). Returns [4]: both losses, D(x), D(G(z))."""
        self.order.saw(batch)
        real = to_float(batch.pixels.to(self.dist.device))
        z = uniform(self.config.seed, f"z {self.class_name}", batch.positions, self.config.z_dim)
        fake = self.ddp_generator(torch.from_numpy(z).to(self.dist.device))

        real_logits = self.ddp_discriminator(real)
        fake_logits = self.ddp_discriminator(fake.detach())
        loss_d = d_loss(real_logits, fake_logits)
        self.optimizer_d.zero_grad()
        loss_d.backward()
        self.optimizer_d.step()

        # Around D's DDP wrapper: frozen, it has no gradient to sync, and the wrapper would wait for one.
        self.discriminator.requires_grad_(False)
        loss_g = g_loss(self.discriminator(fake), self.config.g_loss)
        self.optimizer_g.zero_grad()
        loss_g.backward()
        self.optimizer_g.step()
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            scores = [torch.sigmoid(real_logits).mean(), torch.sigmoid(fake_logits).mean()]
            return torch.stack([loss_d, loss_g, *scores]).float()

    def mean_values(self, sums: torch.Tensor, steps: int) -> dict[str, float]:
        """Means since the last look, over all ranks. Raises UserError where the training has diverged."""
        means = self.dist.mean(sums / max(steps, 1))
        if not torch.isfinite(means).all():
            raise UserError(
                f"{self.title}: the losses are no longer finite; lower --learning-rate (now "
                f"{self.config.learning_rate}) or take --precision fp32, and start again with another --run"
            )
        names = ("loss_d", "loss_g", "d_real", "d_fake")
        return {name: round(value, 5) for name, value in zip(names, means.tolist(), strict=True)}

    def look(self, images: int, step: int, metrics: MetricsFile | None, seconds: float) -> None:
        """Log, draw the samples, write a checkpoint."""
        for model in self.models.values():
            self.dist.average_buffers(model)
        order = self.order.flush(self.dist.gather, self.dist.world_size, self.dist.device)
        if metrics is not None:
            metrics.log(images, self.values)
            self.tracker.log(images, {f"{self.class_name}/{k}": v for k, v in self.values.items()})
            z = uniform(self.config.seed, f"grid {self.class_name}", range(GRID_SIDE**2), self.config.z_dim)
            grid = self.folder / "samples" / f"images-{images:09d}.png"
            save_grid(grid, generate(self.generator, z, self.dist.device))
            self.tracker.picture(images, f"{self.class_name}/samples", grid)
            state = {
                "stream": self.stream.state_dict(step),
                "order_sha256": order,
                "values": self.values,
                "substituted": self.substituted,
                "seconds": seconds,
            }
            save_checkpoint(self.folder / "checkpoints", images, self.models, self.optimizers, state)
        self.dist.barrier()

    def finish(self, seconds: float) -> None:
        """Export the generator and write the class's summary, which makes it finished."""
        order = self.order.flush(self.dist.gather, self.dist.world_size, self.dist.device)
        if self.dist.is_main:
            remove_temporaries(self.folder)
            save_weights(self.folder / GENERATOR_FILE, self.generator)
            digest = weights_sha256(self.generator)
            model = {
                "architecture": "dcgan",
                "network": dataclasses.asdict(self.network),
                "class": self.class_name,
                "weights_sha256": digest,
                "lineage": made_from(self.shards),
            }
            write_atomic(self.folder / MODEL_FILE, canonical_json(model))
            write_summary(
                self.folder,
                {
                    "job": "gan-class",
                    "status": "finished",
                    "class": self.class_name,
                    "shards": {"real": self.shards.digest},
                    "train_images": self.train_images,
                    "images_seen": self.steps * self.config.batch,
                    "steps": self.steps,
                    "seconds": round(seconds, 1),
                    "metrics": self.values,
                    "weights_sha256": digest,
                    "order_sha256": order,
                    "substituted": self.substituted,
                    "world_size": self.dist.world_size,
                    "device": self.dist.device_name,
                    "precision": self.dist.precision,
                    "threads": self.dist.threads,
                },
            )
        self.dist.barrier()


def show(values: dict[str, float]) -> str:
    return f"D {values['loss_d']:.2f}  G {values['loss_g']:.2f}" if values else ""
