"""Write the report of run folders: ``index.html``, ``report.md`` and ``figures/*.png``.

HTML and Markdown are rendered from the same context, so that they contain the same numbers.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from cxrdist.console import duration
from cxrdist.errors import from_os
from cxrdist.files import slug, write_atomic
from cxrdist.study import prose
from cxrdist.study.collect import ClsRun, GanRun, Study, collect, relative
from cxrdist.study.evaluation import section
from cxrdist.study.figures import (
    ARMS_DARK,
    ARMS_LIGHT,
    DARK,
    LIGHT,
    MARKERS,
    Drawn,
    arm,
    confusion_figure,
    counts_figure,
    curves_figure,
)
from cxrdist.study.pictures import grid_png, pairs, pairs_png, tile_png
from cxrdist.study.tables import NONE, PAPER, PAPER_MIXES, Cell, columns, epoch_images, rows

_WHAT = {
    "DS1": "all real images, as they are",
    "DS2": "real images, balanced",
    "DS3": "all real images, balanced with synthetic ones",
}
_DIGITS = 12
"""Digits of a digest or commit in tables."""


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write ``out/index.html`` (self-contained), ``out/report.md`` and ``out/figures/*.png``.

    ``runs``: run folders, or folders that contain runs at any depth. Returns the path of ``index.html``. The same
    runs give the same bytes. Raises UserError if the runs are not comparable or ``out`` cannot be written.
    """
    study = collect(runs)
    charts = _charts(study) if study.cls else {}
    pairs_shown = _pairs(study)
    gans = [_gan(run, number) for number, run in enumerate(study.gan)]
    evaluations = [found for number, run in enumerate(study.gan) if (found := _evaluation(run, number))]
    context = {
        "study": study,
        "title": _title(study),
        "headline": prose.headline(study),
        "banner": prose.banner(study),
        "notices": prose.notices(study),
        "paper": PAPER,
        "figures": {name: Markup(chart.svg) if chart else None for name, chart in charts.items()},
        "tiles": _tiles(study),
        "columns": [
            {"mix": mix, "arm": arm(study, mix), "paper": mix in PAPER_MIXES} for mix in columns(study)
        ],
        "rows": rows(study),
        "notes": prose.table_notes(study) if study.cls else [],
        "pairs": pairs_shown,
        "gans": gans,
        "evaluations": evaluations,
        "cls_names": prose.run_names(study.cls),
        "gan_names": prose.run_names(study.gan),
        "cls_rows": [_cls_row(run, study) for run in study.cls],
        "gan_rows": [_gan_row(run) for run in study.gan],
        "budget": prose.budget(study) if study.cls else None,
        "cls_settings": prose.settings(study.cls),
        "gan_settings": prose.settings(study.gan),
        "data": (study.cls[0].summary if study.cls else study.gan[0].summary).get("data", {}),
        "light": LIGHT,
        "dark": DARK,
        "arms_light": ARMS_LIGHT,
        "arms_dark": ARMS_DARK,
    }
    page = _environment(escape=True).get_template("report.html.j2").render(context)
    text = _environment(escape=False).get_template("report.md.j2").render(context)
    pngs = {f"{name}.png": chart.png for name, chart in charts.items() if chart}
    if pairs_shown and pairs_shown["png"]:
        pngs["fig3.png"] = pairs_shown["png"]
    pngs |= {card["file"]: card["grid"] for cards in gans for card in cards if card["grid"]}
    pngs |= {picture["file"]: picture["png"] for found in evaluations for picture in found["pictures"]}
    try:
        for name, png in pngs.items():
            write_atomic(out / "figures" / name, png)
        write_atomic(out / "report.md", text)
        write_atomic(out / "index.html", page)
    except OSError as error:
        raise from_os(error) from error
    return out / "index.html"


def _environment(*, escape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(lane=_lane, marker=_marker)
    environment.filters.update(uri=_uri, cell=_markdown_cell, glue=_glue)
    return environment


def _title(study: Study) -> str:
    mixes = study.mixes
    if not mixes:
        return "Samples of the GANs"
    return f"{', '.join(mixes[:-1])} and {mixes[-1]}" if len(mixes) > 1 else mixes[0]


def _charts(study: Study) -> dict[str, Drawn | None]:
    return {
        "fig4": counts_figure(study),
        "fig5": curves_figure(study),
        "confusion": confusion_figure(study),
    }


def _tiles(study: Study) -> list[dict[str, Any]]:
    table = {row.name: row for row in rows(study)}
    tiles = []
    for mix in study.mixes:
        real, synthetic = epoch_images(study.of(mix)[0])
        figures = {name: next(c for c in row.cells if c.mix == mix) for name, row in table.items()}
        tiles.append(
            {
                "mix": mix,
                "arm": arm(study, mix),
                "what": _WHAT.get(mix, ""),
                "images": f"{real:,} real" + (f" + {synthetic:,} synthetic" if synthetic else ""),
                "balanced": figures["Balanced accuracy"],
                "total": figures["Total"],
                "auroc": figures["Macro AUROC"],
            }
        )
    return tiles


def _pairs(study: Study) -> dict[str, Any] | None:
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
        "gates": found.gates,
        "names": prose.run_names([found.run]),
        "png": pairs_png(found.rows) if found.rows else None,
    }


def _gan(run: GanRun, number: int) -> list[dict[str, Any]]:
    """A card for each class, also if one GAN generates several."""
    cards = []
    for model in run.models:
        for name, path in model.grids.items():
            grid = grid_png(path) if path else None
            file = f"gan{_suffix(number)}-{slug(name)}.png"
            of_all = f" (one GAN of {len(model.grids)} classes)" if len(model.grids) > 1 else ""
            cards.append(
                {"name": name, "grid": grid, "file": file, "of_all": of_all, **_gan_figures(model.summary)}
            )
    return cards


def _evaluation(run: GanRun, number: int) -> dict[str, Any] | None:
    return section(run, f"nearest{_suffix(number)}-")


def _suffix(number: int) -> str:
    """Several GAN runs may have the same classes: the files of the first have plain names."""
    return str(number + 1) if number else ""


def _gan_figures(summary: dict[str, Any]) -> dict[str, str]:
    return {
        "images": _count(summary.get("images_seen")),
        "train_images": _count(summary.get("train_images")),
        "time": _time(summary.get("seconds")),
        "weights": _short(summary.get("weights_sha256")),
    }


def _cls_row(run: ClsRun, study: Study) -> dict[str, Any]:
    summary = run.summary
    return {
        "run": relative(run.folder),
        "mix": run.mix,
        "arm": arm(study, run.mix),
        "seed": run.seed,
        "kept": _count(summary["best_images"]),
        "synthetic": _short(summary["shards"].get("synthetic")),
        "order": _short(summary.get("order_sha256")),
        "weights": _short(summary.get("weights_sha256")),
        **_machine(summary),
    }


def _gan_row(run: GanRun) -> dict[str, Any]:
    models = [{"name": model.name, **_gan_figures(model.summary)} for model in run.models]
    return {"run": relative(run.folder), **_machine(run.summary), "models": models}


def _machine(summary: dict[str, Any]) -> dict[str, str]:
    return {
        "images": _count(summary.get("images_seen")),
        "steps": _count(summary.get("steps")),
        "ranks": _count(summary.get("world_size")),
        "device": str(summary.get("device") or NONE),
        "time": _time(summary.get("seconds")),
        "real": _short(summary["shards"].get("real")),
        "commit": _commit(summary.get("git_commit")),
    }


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else NONE


def _time(seconds: object) -> str:
    return duration(seconds) if isinstance(seconds, int | float) else NONE


def _short(digest: object) -> str:
    return str(digest)[:_DIGITS] if digest else NONE


def _commit(commit: object) -> str:
    # A plus sign marks a run of changed files and must not be cut off.
    return _short(commit) + ("+" if str(commit).endswith("+") else "")


def _lane(cell: Cell) -> dict[str, float | None]:
    """Positions of a cell's two values on an axis from 0 to 100."""
    ours = None if cell.ours is None else cell.ours * (100 if cell.is_score else 1)
    return {"paper": cell.paper, "ours": ours}


def _marker(arm_number: int) -> str:
    """SVG path of an arm's marker, as in the charts; about 7 px wide, centred on 0, 0."""
    return {
        "o": "M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0Z",
        "s": "M-3 -3H3V3H-3Z",
        "D": "M0 -4L4 0L0 4L-4 0Z",
        "^": "M0 -3.8L3.8 3H-3.8Z",
        "v": "M0 3.8L3.8 -3H-3.8Z",
        "P": "M-1.2 -3.6H1.2V-1.2H3.6V1.2H1.2V3.6H-1.2V1.2H-3.6V-1.2H-1.2Z",
    }[MARKERS[arm_number]]


def _glue(text: str) -> str:
    """No line break between a number and its sign."""
    return text.replace(" %", "\u00a0%").replace("± ", "±\u00a0")


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _markdown_cell(text: object) -> str:
    return str(text).replace("\\", "\\\\").replace("|", "\\|")
