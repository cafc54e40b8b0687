"""All that the templates show, computed once for HTML and Markdown, with the pictures of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cxrdist.study.report.answer.answer import Answer
from cxrdist.study.report.answer.sentence import sentences
from cxrdist.study.report.charts.confusion import confusion_figure
from cxrdist.study.report.charts.counts import counts_figure
from cxrdist.study.report.charts.curves import FEW_ARMS, curves_figure
from cxrdist.study.report.charts.forest import class_forest_figure, forest_figure
from cxrdist.study.report.charts.style import ARMS_DARK, ARMS_LIGHT, DARK, LIGHT, Drawn, tint
from cxrdist.study.report.page import prose
from cxrdist.study.report.page.arms import arm_rows, mix_rows, subgroup_table
from cxrdist.study.report.page.checklist import SOURCES, items
from cxrdist.study.report.page.evaluation import section
from cxrdist.study.report.page.generators import gate_rows, pair_figure, sample_cards
from cxrdist.study.report.page.paper import PAPER, rows
from cxrdist.study.report.page.provenance import classifier_row, gan_row, lineage_rows, total_time, versions
from cxrdist.study.report.page.readers import readers_section
from cxrdist.study.report.page.words import run_names
from cxrdist.study.report.reading.runs import PAPER_MIXES, Study

NARROW_ONLY = ("forest-narrow",)
"""Charts of the page that are not written as files: a wide form of them is."""


@dataclass(frozen=True, kw_only=True)
class Content:
    context: dict[str, Any]
    """Of the templates."""
    pictures: dict[str, bytes]
    """PNG files by name."""
    copies: dict[str, bytes]
    """Files of the study that the page links to."""


def content_of(study: Study, answer: Answer) -> Content:
    """Raises UserError if a picture or an evaluation cannot be read."""
    readers = readers_section(study)
    charts = _charts(study, answer) if study.cls else {}
    charts |= {"readers": readers["chart"]} if readers else {}
    pairs = pair_figure(study)
    cards = sample_cards(study.gan[0]) if study.gan else []
    found = [section(run, f"nearest{_suffix(number)}-") for number, run in enumerate(study.gan)]
    evaluations = [each for each in found if each]
    context = {
        "study": study,
        "answer": answer,
        "name": study.described.name if study.described else "",
        "sentences": sentences(study, answer),
        "banner": prose.banner(study),
        "leaks": prose.leaks(study),
        "notices": prose.notices(study),
        "words": prose.interval_words(study, answer) if study.cls else [],
        "figures": {name: Markup(chart.svg) if chart else None for name, chart in charts.items()},
        "few_arms": len(study.arms) <= FEW_ARMS,
        "arm_rows": arm_rows(study, answer),
        "mix_rows": mix_rows(study),
        "subgroups": subgroup_table(study),
        "columns": [{"mix": mix, "tint": tint(study, mix)} for mix in PAPER_MIXES],
        "rows": rows(study),
        "notes": prose.table_notes(study) if study.cls else [],
        "paper": PAPER,
        "pairs": pairs,
        "cards": cards,
        "gates": gate_rows(study),
        "evaluations": evaluations,
        "readers": readers,
        "cls_names": run_names(study.cls),
        "gan_names": run_names(study.gan),
        "cls_rows": [classifier_row(run, study) for run in study.cls],
        "gan_rows": [gan_row(run) for run in study.gan],
        "lineage": lineage_rows(study),
        "versions": versions(study),
        "total_time": total_time(study),
        "budget": prose.budget(study) if study.cls else None,
        "checkpoints": prose.checkpoints(study) if study.cls else "",
        "cls_settings": prose.settings(study.cls),
        "gan_settings": prose.settings(study.gan),
        "checklist": items(study, answer, was_read=bool(readers and not readers["note"]))
        if study.cls
        else [],
        "checklist_sources": SOURCES,
        "data": (study.cls[0].summary if study.cls else study.gan[0].summary).get("data", {}),
        "light": LIGHT,
        "dark": DARK,
        "arms_light": ARMS_LIGHT,
        "arms_dark": ARMS_DARK,
    }
    pictures = {
        f"{name}.png": chart.png for name, chart in charts.items() if chart and name not in NARROW_ONLY
    }
    if pairs and pairs["png"]:
        pictures["fig3.png"] = pairs["png"]
    pictures |= {card["file"]: card["grid"] for card in cards if card["grid"]}
    pictures |= {picture["file"]: picture["png"] for each in evaluations for picture in each["pictures"]}
    copies = {readers["file"]: readers["data"]} if readers else {}
    return Content(context=context, pictures=pictures, copies=copies)


def _charts(study: Study, answer: Answer) -> dict[str, Drawn | None]:
    return {
        "forest": forest_figure(study, answer),
        "forest-narrow": forest_figure(study, answer, is_narrow=True),
        "forest-classes": class_forest_figure(study, answer),
        "fig4": counts_figure(study),
        "fig5": curves_figure(study),
        "confusion": confusion_figure(study),
    }


def _suffix(number: int) -> str:
    """Several GAN runs may have the same classes: the files of the first have plain names."""
    return str(number + 1) if number else ""
