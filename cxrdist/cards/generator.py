"""The card of an exported generator, README.md beside its model.json: from that file and its evaluation alone.

Training writes it at export, the evaluation again with its figures. An evaluation of other weights is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrdist.cards.markdown import NONE, number, render
from cxrdist.cards.statements import NOT_FOR_DIAGNOSIS, PAPER
from cxrdist.files import read_json, slug, write_atomic
from cxrdist.models.description import GENERATOR, read_model

EVALUATION = "evaluation.json"
README = "README.md"
FIGURES = ("fid", "kid", "precision", "recall", "coverage")
KID_FACTOR = 1000


def write_model_card(folder: Path) -> Path:
    """Write the card of the generator that lies in a folder; returns its path.

    Raises UserError if the folder has no valid ``model.json``.
    """
    model = read_model(folder, GENERATOR)
    evaluation = _evaluation_of(folder, model)
    lineage = model["lineage"]
    images = None if evaluation is None else _at(evaluation, "best", "images")
    context = {
        "title": f"Generator of synthetic chest radiographs {model['weights_sha256'][:12]}",
        "model": model,
        "lineage": lineage,
        "ancestors": lineage.get("real_ancestors") or [],
        "origins": [origin for origin in lineage.get("init") or [] if isinstance(origin, dict)],
        "is_phantom": lineage.get("is_phantom") is True,
        "uses_unlabelled": model.get("unlabelled") is True,
        "network": ", ".join(f"{name} {value}" for name, value in sorted(model["network"].items())),
        "not_for": _not_for(),
        "judged": None if evaluation is None else _judged(evaluation),
        "images": images,
        "spaces": _spaces(evaluation or {}, model["classes"]),
        "shares": _shares(evaluation or {}, model["classes"]),
        "grids": _grids(folder, model["classes"], images),
        "has_nearest": any((folder / "nearest").glob("*.png")),
        "paper": PAPER,
    }
    write_atomic(folder / README, render("generator", context))
    return folder / README


def _not_for() -> list[str]:
    return [
        NOT_FOR_DIAGNOSIS,
        "Not for evaluating clinical performance, and its images are no substitute of real test data.",
        "Not for a classifier that is tested on patients whom the generator may have seen: its images belong beside "
        "the real set that it learned from, or one of its family.",
    ]


def _evaluation_of(folder: Path, model: Mapping[str, Any]) -> dict[str, Any] | None:
    """The evaluation of exactly these weights; None if there is none."""
    path = folder / EVALUATION
    found = read_json(path) if path.is_file() else None
    return found if _at(found, "best", "weights_sha256") == model["weights_sha256"] else None


def _judged(evaluation: dict[str, Any]) -> dict[str, Any]:
    """On what an evaluation compared the images, and how the checkpoint was chosen."""
    return {
        "split": _at(evaluation, "split"),
        "digest": _at(evaluation, "shards", "real"),
        "seed": _at(evaluation, "seed"),
        "by": _at(evaluation, "choice", "by"),
    }


def _at(value: Any, *keys: str) -> Any:
    """A value within nested JSON objects; None if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _spaces(evaluation: dict[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    """A table per feature space: of each class its figures, each with its floor."""
    return [
        {
            "name": name,
            "what": _at(about, "what"),
            "rows": [
                {
                    "name": class_name,
                    "cells": [
                        _figure(figure, _at(evaluation, "classes", class_name, "spaces", name, figure))
                        for figure in FIGURES
                    ],
                }
                for class_name in classes
            ],
        }
        for name, about in (evaluation.get("spaces") or {}).items()
        if any(_at(evaluation, "classes", class_name, "spaces", name) for class_name in classes)
    ]


def _figure(name: str, found: Any) -> str:
    """``1.2 (0.9)``: the value, and in parentheses its floor."""
    factor = KID_FACTOR if name == "kid" else 1
    value, floor = (None if (x := _at(found, key)) is None else x * factor for key in ("value", "floor"))
    return NONE if value is None else f"{number(value)} ({number(floor)})"


def _shares(evaluation: dict[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Of each class its training images, near copies and agreement, beside those of held-out real images."""
    rows = []
    for name in classes:
        found = _at(evaluation, "classes", name)
        if found is None:
            continue
        trained = [space.get("n_train") for space in (found.get("copies") or {}).values()]
        rows.append(
            {
                "name": name,
                "train": trained[0] if trained else None,
                "copies": _share(found.get("near_copies")),
                "null": _share(_at(found, "near_copies", "null")),
                "agreement": _share(found.get("agreement")),
                "real_agreement": _share(_at(found, "agreement", "real")),
                "diversity": number(_at(found, "diversity", "nearest")),
            }
        )
    return rows


def _share(found: Any) -> str:
    """``1.5 [0.0 to 4.0]``: a share and its interval, in percent."""
    value, interval = _at(found, "value"), _at(found, "interval")
    if value is None:
        return NONE
    shown = f"{100 * value:.1f}"
    return f"{shown} [{100 * interval[0]:.1f} to {100 * interval[1]:.1f}]" if interval else shown


def _grids(folder: Path, classes: Sequence[str], images: int | None) -> list[tuple[str, str]]:
    """``(class, path)`` of the grid of each class that training drew at the exported checkpoint, or last of all."""
    found = []
    for name in classes:
        grids = sorted((folder / "samples" / slug(name)).glob("images-*.png"))
        if images is not None:
            grids = [path for path in grids if path.stem == f"images-{images:09d}"]
        if grids:
            found.append((name, grids[-1].relative_to(folder).as_posix()))
    return found
