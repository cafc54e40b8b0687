"""Read runs for a comparison from their folders: config.yaml, summary.json, evaluation.json, metrics.jsonl."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cxrdist.errors import UserError
from cxrdist.files import read_json, slug
from cxrdist.run.folder import CONFIG, SUMMARY
from cxrdist.run.tracking.description import cls_name, config_of, data_of, gan_name, machine_of
from cxrdist.run.tracking.figures import evaluation_figures, flat_summary
from cxrdist.run.tracking.identity import read_identity
from cxrdist.run.tracking.metrics_file import METRICS, Row, read_rows
from cxrdist.study.compare.runs import CURVES, ComparedRun, figures_of, options_of

log = logging.getLogger(__name__)

EVALUATION = "evaluation.json"


def local_runs(given: Sequence[Path]) -> list[ComparedRun]:
    """The finished runs in folders: run folders, or folders that hold some.

    Raises UserError for a folder that does not exist or holds no finished run, or whose files are of another version.
    """
    runs: dict[Path, ComparedRun] = {}
    for place in given:
        if not place.is_dir():
            raise UserError(f"{place}: no such folder; name run folders, or a folder that holds some")
        folders = list(_search(place))
        if not folders:
            raise UserError(f"{place}: holds no run (no config.yaml in it or below)")
        finished = [folder for folder in folders if _is_finished(folder)]
        if not finished:
            raise UserError(f"{place}: no run in it is finished; start the same command again to finish one")
        runs |= {folder.resolve(): read_run(folder) for folder in finished}
    return list(runs.values())


def group_folders(group: str, root: Path = Path("runs")) -> list[Path]:
    """The run folders below ``root`` of a W&B group, or in the folder of that name. Raises UserError if there are
    none."""
    found = []
    for folder in _search(root) if root.is_dir() else ():
        identity = read_identity(folder)
        if folder.parent.name == group or (identity is not None and identity.group == group):
            found.append(folder)
    if not found:
        raise UserError(f"no run of the group {group} in {root}/; name the run folders, or add --wandb")
    return found


def _search(folder: Path) -> Iterator[Path]:
    if (folder / CONFIG).is_file():
        yield folder  # the folders in a GAN run are its models
        return
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
            yield from _search(child)


def _is_finished(folder: Path) -> bool:
    finished = (folder / SUMMARY).exists() and read_json(folder / SUMMARY).get("status") == "finished"
    if not finished:
        log.warning("%s is left out: it is not finished", folder)
    return finished


def read_run(folder: Path) -> ComparedRun:
    """A finished run. Raises UserError if its files are of another version of cxrdist."""
    summary = read_json(folder / SUMMARY)
    read = {"cls": _read_cls, "gan": _read_gan}.get(summary.get("job"))
    if read is None:
        job = str(summary.get("job", "unknown"))
        return ComparedRun(name=folder.name, job=job, options={}, figures={}, curves={}, weights_sha256="")
    try:
        return read(folder, yaml.safe_load((folder / CONFIG).read_text()), summary)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: {error} is missing in its files, as if written by another version of cxrdist; run the job "
            "again, or leave this run out"
        ) from error


def _read_cls(folder: Path, options: Mapping[str, Any], summary: Mapping[str, Any]) -> ComparedRun:
    data = data_of(
        real_digest=summary["shards"]["real"],
        synthetic_digest=summary["shards"]["synthetic"],
        image_size=summary["data"]["image_size"],
        classes=summary["classes"],
        train_counts=summary["data"]["counts"]["train"],
        epoch_counts=summary["counts"],
    )
    return ComparedRun(
        name=cls_name(summary["mix"], summary["seed"]),
        job="cls",
        options=options_of(_config(options, data, summary)),
        figures=figures_of("cls", flat_summary(summary)),
        curves=_curves(read_rows(folder), CURVES["cls"]),
        weights_sha256=summary["weights_sha256"],
        folder=folder,
    )


def _read_gan(folder: Path, options: Mapping[str, Any], summary: Mapping[str, Any]) -> ComparedRun:
    figures = flat_summary(summary)
    if (folder / EVALUATION).exists():
        figures |= evaluation_figures(read_json(folder / EVALUATION))
    return ComparedRun(
        name=gan_name(options["preset"], summary["data"]["image_size"], options["seed"]),
        job="gan",
        options=options_of(_config(options, summary["data"], summary)),
        figures=figures_of("gan", figures),
        curves=_curves_of_models(folder, summary["models"]),
        weights_sha256=summary["weights_sha256"],
        folder=folder,
    )


def _config(
    options: Mapping[str, Any], data: Mapping[str, Any], summary: Mapping[str, Any]
) -> dict[str, Any]:
    """The config that the job has sent to W&B."""
    machine = machine_of(*(summary[key] for key in ("world_size", "device", "precision", "threads")))
    return config_of(options, data, machine, {key: summary[key] for key in ("versions", "git_commit")})


def _curves_of_models(folder: Path, models: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for name in models:
        if (folder / slug(name) / METRICS).exists():
            of_model = _curves(read_rows(folder / slug(name)), CURVES["gan"])
            curves |= {f"{name}/{metric}": points for metric, points in of_model.items()}
    return curves


def _curves(rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    curves = {
        metric: [(images, values[metric]) for images, values in rows if metric in values]
        for metric in metrics
    }
    return {metric: points for metric, points in curves.items() if points}
