"""The sentences of the card of a set of real images, or of computed ones that stand for them."""

from __future__ import annotations

from typing import Any

from cxrdist.cards.statements import (
    NOT_FOR_DIAGNOSIS,
    NOT_STATED,
    Statements,
    converted_from,
    form_of,
    plural,
    size_of,
)
from cxrdist.console import options_text
from cxrdist.data.shards.manifest import Manifest

COMPUTED = "The images are computed: no image shows a patient."
RULES = {
    "strict": "an image has the finding of its class and no other finding",
    "one-target": "an image has the finding of its class and of no other class; further findings are allowed",
    "rarest": "of the classes whose findings an image has, it belongs to the one with the fewest images",
}


def real_statements(manifest: Manifest) -> Statements:
    is_phantom = bool(manifest.provenance.is_phantom)
    what = "Computed chest radiographs" if is_phantom else "Chest radiographs"
    release = manifest.provenance.release
    source = release or "a source that the manifest does not name"
    return Statements(
        title=f"{what} {manifest.digest[:12]}",
        summary=f"{size_of(manifest)}, {form_of(manifest)}. {COMPUTED if is_phantom else f'Source: {source}.'}",
        keywords=["chest radiograph", "WebDataset", *(["phantom", "synthetic data"] if is_phantom else [])],
        collection_type="Software Collection" if is_phantom else "Secondary Data analysis",
        collection=_collection(manifest, is_phantom=is_phantom),
        source=f"Made from: {source}.",
        processing=[
            f"The images have {form_of(manifest)}.",
            *_repairs(manifest.provenance.json_value()),
            *converted_from(manifest),
        ],
        labels=_labels(manifest, is_phantom=is_phantom),
        missing=_missing(manifest.provenance.json_value()),
        uses=[
            "Training of generators and classifiers on the train split, choices on val, evaluation on test.",
        ],
        not_for=[
            NOT_FOR_DIAGNOSIS,
            "Not for evaluating clinical performance: "
            + (
                "figures measured on computed images say nothing about patients."
                if is_phantom
                else "the images are small, reduced to one class each, and no random sample of any population."
            ),
            *([] if is_phantom else ["Not for finding out who the patients are."]),
        ],
        limitations=[
            f"Details finer than {manifest.image_size} pixels a side can show are missing.",
            "An image has one class; other findings, if they are known, are in its metadata.",
        ],
        biases=[
            "The images were chosen by their labels; their shares are no prevalence of any population.",
            *(
                []
                if is_phantom
                else ["Labels, views and devices may differ between hospitals, and within this set."]
            ),
        ],
        privacy=[COMPUTED] if is_phantom else _privacy(manifest),
        licence=f"{NOT_STATED[0].upper()}{NOT_STATED[1:]}." + ("" if is_phantom else " Ask the source."),
        citation=("" if is_phantom else f"Cite the source ({source}) as it asks for. ")
        + "Name the digest of the set.",
        bibtex=None,
    )


def _collection(manifest: Manifest, *, is_phantom: bool) -> list[str]:
    provenance = manifest.provenance
    found = []
    if provenance.importer:
        found.append(f"{'Computed' if is_phantom else 'Imported'} with cxrdist import {provenance.importer}.")
    for merged in provenance.merged or []:
        release = f" ({merged.release})" if merged.release else ""
        found.append(
            f"Merged with {plural(merged.samples, 'image')} of the set {merged.digest[:12]}{release}."
        )
    folds, fold = provenance.option("folds"), provenance.option("fold")
    if folds is not None and fold is not None:
        found.append(f"Splits: fold {fold} of {folds} is test.")
    elif (way := provenance.option("split")) is not None:
        found.append(f"Splits: {way}.")
    found.append("No patient is in two splits, as far as the source names patients.")
    if near := provenance.near_duplicates:
        found.append(
            f"Near-duplicates: {plural(near.get('groups', 0), 'film occurs', 'films occur')} more than "
            f"once, {near.get('groups_across_splits', 0):,} of them in several splits."
        )
    return found


def _labels(manifest: Manifest, *, is_phantom: bool) -> str:
    rule = manifest.provenance.option("label_rule")
    if is_phantom:
        return "The class of an image is the sign that was computed into it."
    if rule is None:
        return "The class of an image is that of the source; the manifest states no label rule."
    return f"Label rule {rule}" + (f": {RULES[rule]}." if rule in RULES else ".")


def _repairs(provenance: dict[str, Any]) -> list[str]:
    return [
        f"Repaired: {plural(faults['images'], 'image')} ({what})."
        for what, faults in (provenance.get("repairs") or {}).items()
    ]


def _missing(provenance: dict[str, Any]) -> list[str]:
    found = [f"{plural(count, 'image')}: {why}." for why, count in (provenance.get("left_out") or {}).items()]
    if held_out := (provenance.get("unlabelled") or {}).get("held_out"):
        found.append(f"{plural(held_out, 'image')}: no class, and the patient is in val or test.")
    if undecodable := provenance.get("undecodable"):
        found.append(f"{plural(undecodable, 'image')}: the file does not decode.")
    if unused := provenance.get("unused_tars"):
        found.append(f"{plural(len(unused), 'tar')}: no image of it is used.")
    return found


def _privacy(manifest: Manifest) -> list[str]:
    if manifest.is_external:
        return [
            "The images show patients.",
            "The tars lie where others wrote them and keep the names and metadata that those gave them, which may "
            "identify patients; this card therefore names no tar.",
        ]
    return [
        "The images show patients. Names of patients and files are salted hashes, and the salt is not in the set.",
        "The metadata of an image may hold sex, age in years (90 stands for 90 and above), view and findings.",
    ]


def options_of(manifest: Manifest) -> str:
    """The options that the set was made with, on one line."""
    provenance = manifest.provenance
    options = {name: value for name, value in (provenance.options or {}).items() if name != "classes"}
    return options_text({**options, **(provenance.source_options or {})})
