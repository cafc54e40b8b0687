"""The sentences of the card of a synthetic set."""

from __future__ import annotations

from cxrdist.cards.gates import Gates
from cxrdist.cards.markdown import percent
from cxrdist.cards.statements import (
    BIBTEX,
    NOT_FOR_DIAGNOSIS,
    NOT_STATED,
    PAPER,
    Statements,
    converted_from,
    form_of,
    generators_of,
    knows_training_data,
    names,
    plural,
    size_of,
)
from cxrdist.data.shards.manifest import Manifest

NO_GATES = "none"
NEAR_COPIES = (
    "Generators of small classes draw near copies of their training images, which are images of patients: look at "
    "the nearest training images, which an evaluation draws, before you share the set."
)


def synthetic_statements(manifest: Manifest, gates: Gates, real: Manifest | None) -> Statements:
    """``real``: of the set that the generators learned from, or of one of its family; None if it is not at hand."""
    is_known = knows_training_data(manifest)
    if not is_known:
        real = None  # the generators may have learned from anything else, too
    is_phantom = real is not None and bool(real.provenance.is_phantom)
    return Statements(
        title=f"Synthetic chest radiographs {manifest.digest[:12]}",
        summary=f"{size_of(manifest)}, {form_of(manifest)}. {_drawn_by(manifest, real)}",
        keywords=["chest radiograph", "synthetic data", "generative adversarial network", "WebDataset"],
        collection_type="Software Collection",
        collection=_collection(manifest, gates),
        source=_source(manifest, real),
        processing=[f"The images have {form_of(manifest)}.", *converted_from(manifest)],
        labels="The class of an image is the one that its generator was asked for; it is no radiologist's reading.",
        missing=[],
        uses=[
            "Training of classifiers, beside real images of the same classes: augmentation of rare classes.",
            "Pre-training, and tests of software that reads chest radiographs.",
        ],
        not_for=[
            NOT_FOR_DIAGNOSIS,
            "Not for evaluating clinical performance: figures measured on synthetic images say nothing about "
            "patients.",
            "Not as a substitute of real test data: test on radiographs of patients whom no generator has seen.",
            "Not beside another real set than the one that the generators learned from, or one of its family: they "
            "may have seen patients of the other set's validation or test split."
            if is_known
            else "Not for a classifier that is compared on real test data, unless you know that the generators have "
            "seen none of its patients.",
        ],
        limitations=_limitations(manifest, gates),
        biases=_biases(real),
        privacy=_privacy(gates, is_phantom=is_phantom),
        licence=f"That of the images that the generators learned from, which is {NOT_STATED}.",
        citation=f"Cite the paper whose method made the set, and the digest of the set. {PAPER}",
        bibtex=BIBTEX,
    )


def _drawn_by(manifest: Manifest, real: Manifest | None) -> str:
    lineage = manifest.lineage
    said = "Generative adversarial networks drew them"
    if not knows_training_data(manifest):
        return f"{said}; what their generators learned from is unknown."
    said += f"; their generators learned from the {lineage.split} split of the set {str(lineage.real_digest)[:12]}"
    if real is None:
        return f"{said}."
    if real.provenance.is_phantom:
        return f"{said}, which holds computed radiographs: no image shows a patient."
    return f"{said}, which holds radiographs of patients: some images may be near copies of those."


def _collection(manifest: Manifest, gates: Gates) -> list[str]:
    digests = generators_of(manifest)
    sentences = ["An image is a function of its generator, its class, the seed and its index."]
    if digests:
        sentences.append(f"{plural(len(digests), 'generator')} drew the images.")
    if (mix := manifest.provenance.option("mix")) is not None:
        sentences.append(f"The mix {mix} determines how many images a class has.")
    tried, admitted = gates.total("tried"), gates.total("admitted")
    if tried and admitted is not None:
        which = f"the gates {gates.name!r}" if gates.name else "a gate"
        sentences.append(
            f"Of {tried:,} generated images {which} admitted {admitted:,} ({percent(admitted / tried)})."
        )
    return sentences


def _source(manifest: Manifest, real: Manifest | None) -> str:
    lineage = manifest.lineage
    if not knows_training_data(manifest):
        return (
            "Unknown: custom generators made the set, and they do not say what they learned from. They may have seen "
            "patients of any split of any set."
        )
    said = f"The {lineage.split} split of the set {lineage.real_digest}"
    if real is None:
        return f"{said}; this set's manifest does not state what it holds."
    counts = real.counts.get(str(lineage.split), {})
    of_class = ", ".join(f"{name} {counts[name].get('real', 0):,}" for name in real.classes if name in counts)
    release = f" ({real.provenance.release})" if real.provenance.release else ""
    same = "" if real.digest == lineage.real_digest else f" (of {real.digest}, of the same family)"
    said = f"{said}{release}. Images: {of_class}{same}."
    if real.unlabelled is not None:
        said += (
            f" Generators may also have learned from its {real.unlabelled.samples:,} images without a class."
        )
    return said


def _limitations(manifest: Manifest, gates: Gates) -> list[str]:
    found = [
        "Images may lack the sign of their class, show another one, or show what no body has.",
        f"Details finer than {manifest.image_size} pixels a side can show are missing: small or faint findings "
        "above all.",
    ]
    if gates.pooled:
        found.append(
            f"Too few real images for thresholds of their own: {names(list(gates.pooled))}. Their gates have the "
            "thresholds of all classes together."
        )
    if gates.name == NO_GATES:
        found.append("No gate judged the images: they are all that the generators drew.")
    elif gates.names:
        found.append("The gates know nothing of anatomy: admitted means that none of them objected.")
    return found


def _biases(real: Manifest | None) -> list[str]:
    found = [
        "The images repeat what the training images hold too much and too little of: ages, sexes, devices, views, "
        "exposures, annotations in the film.",
        "The shares of the classes were chosen; they are no prevalence of any population.",
        "A class of few training images varies less than the same number of real images would.",
    ]
    if real is not None:
        counts = {name: of.get("real", 0) for name, of in real.counts.get("train", {}).items()}
        if counts:
            fewest = min(counts, key=lambda name: (counts[name], name))
            found.append(f"The class of the fewest training images is {fewest}, with {counts[fewest]:,}.")
    return found


def _privacy(gates: Gates, *, is_phantom: bool) -> list[str]:
    if is_phantom:
        return [
            "The generators learned from computed radiographs: the set shows no patient, and its metadata name none."
        ]
    found = [
        "The metadata of an image hold no patient, age, sex or date.",
        NEAR_COPIES,
    ]
    for name, one in gates.copy_rates.items():
        null = "of real held-out images it is not known"
        if one.copy_null_rate is not None:
            null = f"of real held-out images {percent(one.copy_null_rate)} are"
        found.append(
            f"{name}: {percent(one.copy_rate)} of the images that were generated are near copies of training images, "
            f"and are not in the set; {null}."
        )
    if not gates.copy_rates:
        found.append("The manifest states no rate of near copies.")
    return found
