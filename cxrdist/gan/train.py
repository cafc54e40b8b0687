"""Train the GANs of a run on the train split of a shard set: one per class (paper 2.1), or one of all classes.

<run>/config.yaml, summary.json
<run>/<model>/       see trainer.py

``placement`` data: every process works on a part of each batch, one model after the other. ``placement`` class: each
process trains other models, without communication until all are finished.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrdist.cards.generator import EVALUATION
from cxrdist.config.parser import to_dict
from cxrdist.console import duration, say
from cxrdist.data.ingest.default_set import open_real
from cxrdist.data.mix.order import check_parts
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError, from_os
from cxrdist.files import slug
from cxrdist.gan.config import GANConfig
from cxrdist.gan.networks import network_config
from cxrdist.gan.plan import ModelPlan, plan, shares
from cxrdist.gan.tracking import describe_gan, gan_data, replay_finished
from cxrdist.gan.training.step import ENGINES
from cxrdist.gan.training.trainer import ModelTrainer
from cxrdist.logs import EVERY_RANK
from cxrdist.models import ALL_CLASSES
from cxrdist.run.folder import (
    SUMMARY,
    budget_of,
    change_budget,
    environment,
    finished_summary,
    joint_digest,
    locked_run,
    write_summary,
)
from cxrdist.run.hosts import check_data, check_left_behind, check_options, check_seen
from cxrdist.run.tracking.no_tracker import NoTracker
from cxrdist.run.tracking.start import start
from cxrdist.stop_signals import Stopped, StopRequest, exit_code_of, stop_between_steps

log = logging.getLogger(__name__)


def train(config: GANConfig) -> None:
    """Train the models of ``config`` that are not finished yet."""
    with Dist(
        config.precision,
        engines=ENGINES,
        threads=config.threads,
        collective_timeout=config.collective_timeout,
    ) as dist:
        resolved = {**to_dict(config), "precision": dist.precision}
        check_options(dist, "gan", resolved)
        dist.on_main(lambda: open_real(config.shards).close())
        shards = dist.agree(lambda: ShardSet(config.shards))
        check_data(dist, {"the real set": shards.digest})
        models = plan(config, shards)
        network_config(config, image_size=shards.image_size, classes=len(models[0].labels))
        apart = config.placement == "class" and dist.world_size > 1
        check_parts(config.batch, 1 if apart else dist.world_size, config.accumulate)
        folder = Path(config.run)
        if apart:
            check_seen(dist, folder, "with --placement class each process writes the models that it trains")
        else:
            check_left_behind(dist, folder)
        with locked_run(folder, "gan", resolved, dist):
            train_unfinished(config, models, shards, dist, apart=apart)


def train_unfinished(
    config: GANConfig, models: Sequence[ModelPlan], shards: ShardSet, dist: Dist, *, apart: bool
) -> None:
    """Train what is left of a run, and write its summary."""
    began_s = time.monotonic()
    folder = Path(config.run)
    done = dist.on_main(lambda: finished_models(folder, shards, config))
    if config.extend:
        done = dist.on_main(lambda: reopened(config, models, shards, done))
    unfinished = [model for model in models if model.name not in done]
    if not unfinished:
        dist.on_main(lambda: complete_summary(folder, shards, config, dist, done))
        say(f"{folder}: already finished; nothing to do (name another --run to start a new one)")
        return
    names = ", ".join(model.name for model in unfinished)
    say(f"GAN: {names} of {shards}, {shards.image_size} px; {dist.describe()}")
    if apart:
        train_apart(config, unfinished, shards, dist)
        summary = dist.on_main(lambda: summarise(folder, shards, config, dist))
        if dist.is_main:
            # Each model has a W&B run; this one has the looks and figures of all, and those of the evaluation.
            joint = start(folder, config.tracking, describe_gan(config, shards, dist))
            replay_finished(joint, folder, summary["models"])
            finish_run(joint, config, shards, summary)
    else:
        train_together(config, unfinished, shards, dist, done)
    generators = "1 generator" if len(unfinished) == 1 else f"{len(unfinished)} generators"
    say(f"{folder}: {generators} in {duration(time.monotonic() - began_s)}")


def train_together(
    config: GANConfig,
    models: Sequence[ModelPlan],
    shards: ShardSet,
    dist: Dist,
    done: Mapping[str, Mapping[str, Any]],
) -> None:
    """Train one model after the other, each with all processes. ``done``: summaries of the finished ones."""
    folder = Path(config.run)
    with stop_between_steps() as request:
        tracker = start(folder, config.tracking, describe_gan(config, shards, dist), is_main=dist.is_main)
        if dist.is_main:
            replay_finished(tracker, folder, done)
        try:
            for number, model in enumerate(models, 1):
                title = f"GAN {number}/{len(models)} {model.name}"
                train_model(ModelTrainer(config, model, shards, dist, tracker, title), request)
                dist.forget_models()
                if number < len(models):
                    stop_after_model(title, request, dist)
        except Stopped as stopped:
            tracker.interrupt(stopped.exit_code)
            raise
        finish_run(tracker, config, shards, dist.on_main(lambda: summarise(folder, shards, config, dist)))


def stop_after_model(title: str, request: StopRequest, dist: Dist) -> None:
    """Raises Stopped on all ranks if any was asked to stop since the last step of a model."""
    asked = dist.gather_objects([0 if request.signum is None else exit_code_of(request.signum)])
    if any(asked):
        raise Stopped(max(asked), f"{title} is finished; the same command resumes")


def finish_run(tracker: NoTracker, config: GANConfig, shards: ShardSet, summary: dict[str, Any]) -> None:
    tracker.use_artifact("real-set", shards.digest, Path(str(shards)).name)
    tracker.log_artifact("gan", summary["weights_sha256"], Path(config.run).name)
    tracker.finish(summary)


def train_apart(config: GANConfig, models: Sequence[ModelPlan], shards: ShardSet, dist: Dist) -> None:
    """Train a share of the models in each process. A model that fails does not stop the others; its error is raised
    at the end, on all ranks."""
    dealt = shares(models, dist.world_size)
    if idle := sum(not share for share in dealt):
        log.warning(
            "%s of %s processes are idle: only %s models to train", idle, dist.world_size, len(models)
        )
    alone, folder = dist.alone(), Path(config.run)
    failed: list[str] = []
    stopped: list[tuple[int, str]] = []
    with stop_between_steps() as request:
        for model in dealt[dist.rank]:
            # A W&B run belongs to one process, so each model has its own.
            group = config.tracking.group or folder.name
            tracker = NoTracker()
            try:
                stop_after_model(f"GAN before {model.name}", request, alone)
                tracker = start(
                    folder / model.folder,
                    dataclasses.replace(config.tracking, group=group),
                    describe_gan(config, shards, alone, model.name),
                )
                train_model(ModelTrainer(config, model, shards, alone, tracker, f"GAN {model.name}"), request)
            except UserError as error:
                failed.append(str(error))
                log.warning("GAN stopped: %s", error, extra=EVERY_RANK)
            except Stopped as stop:
                tracker.interrupt(stop.exit_code)
                stopped.append((stop.exit_code, str(stop)))
                break
            tracker.finish(finished_summary(folder / model.folder, {"real": shards.digest}) or {})
    met = dist.meet((failed, stopped))
    if all_failed := [text for texts, _ in met for text in texts]:
        raise UserError("; ".join(all_failed), is_named=True)
    if all_stopped := [stop for _, stops in met for stop in stops]:
        raise Stopped(*max(all_stopped))


def train_model(trainer: ModelTrainer, request: StopRequest) -> None:
    """Train a model. A UserError or OSError is raised as a UserError that names the model."""
    name = trainer.model.name
    try:
        trainer.train(request)
    except UserError as error:
        raise UserError(f"{name}: {error}", is_named=error.is_named) from error
    except BrokenPipeError:  # the reader of stdout has exited, which is not an error of the model
        raise
    except OSError as error:
        raise UserError(f"{name}: {from_os(error)}") from error


def finished_models(folder: Path, shards: ShardSet, config: GANConfig) -> dict[str, dict[str, Any]]:
    """``{model: summary}`` of the models finished in this run, by this or earlier commands. Raises UserError if one
    of them was trained on another set."""
    names = [*shards.classes, ALL_CLASSES]
    found = {name: finished_summary(folder / slug(name), {"real": shards.digest}) for name in names}
    return {name: summary for name, summary in found.items() if summary is not None}


def reopened(
    config: GANConfig, models: Sequence[ModelPlan], shards: ShardSet, done: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Make models unfinished that have a larger budget than they were trained for; an early stop stays an end.
    Returns the finished ones. What belonged to the old generators is removed: evaluations, and summaries, which the
    run writes again. Raises UserError for a smaller budget."""
    folder = Path(config.run)
    before = budget_of(folder)
    old = {model.name: model.steps for model in plan(dataclasses.replace(config, budget=before), shards)}
    if any(model.steps < old[model.name] for model in models):
        raise UserError(
            f"--budget {config.budget}: less than the {before} that {folder} has: --extend needs a larger one",
        )
    change_budget(folder, config.budget)
    longer = {model.name for model in models if model.name in done and model.steps > old[model.name]}
    longer -= {name for name in longer if done[name]["stopped"]}
    for place in [folder, *(folder / slug(name) for name in longer)] if longer else []:
        for name in (SUMMARY, EVALUATION):
            (place / name).unlink(missing_ok=True)
    return {name: summary for name, summary in done.items() if name not in longer}


def complete_summary(
    folder: Path, shards: ShardSet, config: GANConfig, dist: Dist, done: Iterable[str]
) -> None:
    """Write the run's summary if a command was killed between finishing a model and writing it."""
    summary = finished_summary(folder, {"real": shards.digest})
    if summary is None or set(summary["models"]) != set(done):
        summarise(folder, shards, config, dist)


def summarise(folder: Path, shards: ShardSet, config: GANConfig, dist: Dist) -> dict[str, Any]:
    """Write and return the run's summary, over all models finished by this or earlier commands."""
    dropped = ("job", "status", "shards")
    models = {
        name: {k: v for k, v in of_model.items() if k not in dropped}
        for name, of_model in finished_models(folder, shards, config).items()
    }
    summary = {
        "job": "gan",
        "status": "finished",
        "architecture": config.architecture,
        "models": models,
        "shards": {"real": shards.digest},
        "data": gan_data(shards),
        "metrics": {name: values["metrics"] for name, values in models.items()},
        "images_seen": sum(m["images_seen"] for m in models.values()),
        "seconds": round(sum(m["seconds"] for m in models.values()), 1),
        "world_size": dist.world_size,
        "device": dist.device_name,
        "precision": dist.precision,
        "threads": dist.threads,
        "weights_sha256": joint_digest(models, "weights_sha256"),
        "order_sha256": joint_digest(models, "order_sha256"),
        **environment(),
    }
    write_summary(folder, summary)
    return summary
