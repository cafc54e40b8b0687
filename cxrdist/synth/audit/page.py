"""The HTML page of an audit: one file that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

from cxrdist.synth.audit import pictures
from cxrdist.synth.audit.chart import Panel, panel
from cxrdist.synth.audit.measure import ClassAudit
from cxrdist.synth.audit.sets import OTHER, Sets
from cxrdist.synth.audit.verdict import images, percent
from cxrdist.synth.gates.copies import NAME as COPY
from cxrdist.synth.gates.judge import Judge

MEANINGS = {
    "pixels": "grey values and power spectrum: up to 1 inside the range of real training images; high is refused",
    "realism": "distance to the real training images of the class, in two feature spaces; high is refused",
    "label": "probability that the classifiers give the class; low is refused",
    "copy": "distance to the nearest training image over that to the next ones; low is refused",
}


def page(
    found: Mapping[str, Any],
    sets: Sets,
    classes: Mapping[str, ClassAudit],
    judge: Judge,
    *,
    real_images: bool,
) -> str:
    """``found``: what audit.json holds. ``real_images``: whether to show them."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(percent=percent, images=images)
    pairs = {name: pictures.closest(of, judge, real_images=real_images) for name, of in classes.items()}
    return environment.get_template("page.html.j2").render(
        found=found,
        made=found["made"],
        facts=list(_facts(found["made"])),
        marked={(line["kind"], line["class"]) for line in found["findings"]},
        real_images=real_images,
        spaces=[(name, of["overlap"]) for name, of in [*found["classes"].items(), ("all", found["overall"])]],
        pairs=pairs,
        twins={name: pictures.twins(of) for name, of in classes.items() if of.twins},
        grids={name: _grids(of, sets, real_images=real_images) for name, of in classes.items()},
        worst={
            gate.name: {
                name: pictures.worst(of, gate.name, refuses_high=gate.refuses_high)
                for name, of in classes.items()
            }
            for gate, _ in judge.gates
            if gate.name != COPY  # the closest pairs show them
        },
        panels=list(_panels_now(found)),
        panels_then=list(_panels_then(found["made"])),
        meanings=MEANINGS,
    )


def _facts(made: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Name, value and whether it is alarming, of how the set was made."""
    generators = {digest for of in made["generators"].values() for digest in of}
    yield "made by", made["importer"] or "unknown", False
    yield "generators", ", ".join(digest[:12] for digest in sorted(generators)) or "unknown", not generators
    yield "learned from", made["training_data"], not made["training_data_known"] or made["split"] != "train"
    yield "real set named", str(made["real_digest"])[:12], False
    yield "compared with", made["compared_with"], made["compared_with"] == OTHER
    for name, value in made["options"].items():
        if name != "gates":
            yield name, _text(value), False
    gates = made["gates"]
    yield "gates", made["options"].get("gates") or (gates["name"] if gates else "not recorded"), False
    if gates is not None:
        if gates["fitted_on"]:
            yield "gates fitted on", gates["fitted_on"], gates["fitted_on"] == "test"
            yield "gates calibrated on", gates["calibrated_on"], gates["calibrated_on"] == "test"
        if gates["pooled"]:
            yield "thresholds of all classes for", ", ".join(gates["pooled"]), False
    for change in made["converted"] or []:
        yield "converted from", change["from"][:12], False
    for part in made["merged"] or []:
        yield "merged from", part["digest"][:12], False
    for edit in made["edited"] or []:
        yield "changed by", f"{edit['by']}, {images(edit['removed'])} removed", False


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:,}" for name, number in value.items())
    return ", ".join(digest[:12] for digest in value) if isinstance(value, list) else str(value)


def _grids(
    of: ClassAudit, sets: Sets, *, real_images: bool
) -> tuple[list[pictures.Picture], list[pictures.Picture]]:
    """Random synthetic images, and random real training images of the class."""
    real = pictures.grid(sets.real.stratum("train", of.name, "real")) if real_images else []
    return pictures.grid(of.look.reader, of.look.numbers.tolist()), real


def _panels_now(found: Mapping[str, Any]) -> Iterator[Panel]:
    """Scores of the stored images by today's gates."""
    classes = {name: of["gates"]["by_gate"] for name, of in found["classes"].items()}
    for gate in found["overall"]["gates"]["by_gate"]:
        yield panel(
            gate,
            {name: of[gate] for name, of in classes.items()},
            {name: of[gate]["threshold"] for name, of in classes.items()},
        )


def _panels_then(made: Mapping[str, Any]) -> Iterator[Panel]:
    """Scores of the candidates, as the manifest has them."""
    known = {name: of["gates"] for name, of in made["classes"].items() if (of["gates"] or {}).get("scores")}
    for gate in dict.fromkeys(gate for of in known.values() for gate in of["scores"]):
        scores = {name: of["scores"][gate] for name, of in known.items() if gate in of["scores"]}
        complete = {name: of for name, of in scores.items() if {"synthetic", "real"} <= of.keys()}
        if complete:
            limits = {name: (known[name].get("thresholds") or {}).get(gate) for name in complete}
            yield panel(gate, complete, {name: limit for name, limit in limits.items() if limit is not None})
