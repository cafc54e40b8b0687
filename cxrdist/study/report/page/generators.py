"""What the page shows of the generators: sample grids, and the images that passed the gates."""

from __future__ import annotations

from typing import Any

from cxrdist.files import slug
from cxrdist.study.report.charts.radiographs import grid_png, pairs, pairs_png, tile_png
from cxrdist.study.report.page.words import NONE, count, run_names, short, time
from cxrdist.study.report.reading.runs import GanRun, Study, relative


def pair_figure(study: Study) -> dict[str, Any] | None:
    """The paper's Fig. 3: real and synthetic images, a row per class; None without classifiers."""
    if not study.cls:
        return None
    found = pairs(study)
    shown = [
        {
            "name": row.name,
            "real": None if row.real is None else [tile_png(image) for image in row.real],
            "synthetic": None if row.synthetic is None else [tile_png(image) for image in row.synthetic],
        }
        for row in found.rows
    ]
    return {
        "rows": shown,
        "notes": found.notes,
        "names": run_names([found.run]),
        "png": pairs_png(found.rows) if found.rows else None,
    }


def sample_cards(run: GanRun) -> list[dict[str, Any]]:
    """A card with the newest sample grid of each class, also if one GAN generates several."""
    cards = []
    for model in run.models:
        for name, path in model.grids.items():
            of_all = f" (one GAN of {len(model.grids)} classes)" if len(model.grids) > 1 else ""
            cards.append(
                {
                    "name": name,
                    "grid": grid_png(path) if path else None,
                    "file": f"gan-{slug(name)}.png",
                    "of_all": of_all,
                    **model_figures(model.summary),
                }
            )
    return cards


def model_figures(summary: dict[str, Any]) -> dict[str, str]:
    return {
        "images": count(summary.get("images_seen")),
        "train_images": count(summary.get("train_images")),
        "time": time(summary.get("seconds")),
        "weights": short(summary.get("weights_sha256")),
    }


def gate_rows(study: Study) -> list[dict[str, str]]:
    """Generated images and those that passed the gates, per synthesis and class."""
    return [
        {
            "run": relative(run.folder),
            "name": name,
            "tried": count(found.get("tried")),
            "admitted": count(found.get("admitted")),
            "share": _share(found.get("admitted"), found.get("tried")),
        }
        for run in study.synth
        for name, found in run.summary.get("metrics", {}).get("gates", {}).items()
    ]


def _share(part: object, whole: object) -> str:
    if not isinstance(part, int) or not isinstance(whole, int) or not whole:
        return NONE
    return f"{100 * part / whole:.0f}"
