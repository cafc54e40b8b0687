"""Texts and pictures of the evaluation of a GAN."""

from __future__ import annotations

from typing import Any

from cxrdist.files import slug
from cxrdist.study.report.charts.radiographs import grid_png
from cxrdist.study.report.page.words import NONE, count
from cxrdist.study.report.reading.evaluation import EVALUATION, ClassFigures, Figure, read_evaluation
from cxrdist.study.report.reading.runs import GanRun, relative


def section(run: GanRun, file_prefix: str) -> dict[str, Any] | None:
    """The evaluation of a run as texts and PNGs for the report; None if the run was not evaluated.

    Names of picture files begin with ``file_prefix``.
    """
    evaluation = read_evaluation(run.folder)
    if evaluation is None:
        return None
    name = relative(run.folder)
    if not evaluation.is_current:
        note = (
            f"{name}: {EVALUATION} describes other weights than the run exports now, so it is not shown; run "
            "launch/evaluate_gan.py again."
        )
        return {"run": name, "note": note, "rows": [], "pictures": [], "space": "", "split": ""}
    order = [class_name for model in run.models for class_name in model.grids]
    classes = sorted(
        (found for found in evaluation.classes if found.name in order), key=lambda f: order.index(f.name)
    )
    shown = [*classes, *([evaluation.overall] if evaluation.overall else [])]
    return {
        "run": name,
        "note": None,
        "split": {"val": "validation"}.get(evaluation.split, evaluation.split),
        "space": evaluation.space,
        "rows": [_row(figures) for figures in shown],
        "pictures": [
            {
                "name": figures.name,
                "png": grid_png(figures.picture),
                "file": f"{file_prefix}{slug(figures.name)}.png",
            }
            for figures in classes
            if figures.picture
        ],
    }


def _row(figures: ClassFigures) -> dict[str, Any]:
    return {
        "name": figures.name,
        "checkpoint": count(figures.checkpoint),
        "images": f"{count(figures.generated)} : {count(figures.real)}",
        "cells": [
            _texts(figures.kid, 1000, 2),
            _texts(figures.recall, 1, 2),
            _texts(figures.coverage, 1, 2),
            _texts(figures.copies, 100, 1),
        ],
    }


def _texts(figure: Figure, scale: float, digits: int) -> dict[str, str]:
    """Value and floor, with a true minus sign."""
    texts = {}
    for key, value in (("value", figure.value), ("floor", figure.floor)):
        text = NONE if value is None else f"{scale * value:.{digits}f}"
        texts[key] = text.replace("-", "−")
    return texts
