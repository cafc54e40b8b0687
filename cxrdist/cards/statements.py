"""What a dataset card says in sentences. The Markdown and the Croissant form say the same."""

from __future__ import annotations

from dataclasses import dataclass

from cxrdist.data.shards.manifest import Manifest

PAPER = (
    "H. Salehinejad, S. Valaee, T. Dowdell, E. Colak, J. Barfett: Generalization of Deep Neural Networks for Chest "
    "Pathology Classification in X-rays Using Generative Adversarial Networks. ICASSP 2018, arXiv:1712.01636."
)
BIBTEX = """@inproceedings{salehinejad2018generalization,
  title = {Generalization of Deep Neural Networks for Chest Pathology Classification in X-rays Using Generative \
Adversarial Networks},
  author = {Salehinejad, Hojjat and Valaee, Shahrokh and Dowdell, Tim and Colak, Errol and Barfett, Joseph},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing (ICASSP)},
  year = {2018},
  eprint = {1712.01636},
  archivePrefix = {arXiv}
}"""
NOT_STATED = "not stated in the manifest"

NOT_FOR_DIAGNOSIS = "Not for diagnosis, nor for any other decision about a patient."
MAINTENANCE = (
    "The set does not change: its digest covers every byte of it, and another content is another set with another "
    "digest. The manifest names nobody who maintains it."
)


@dataclass(frozen=True)
class Statements:
    """A card's sentences, as plain text."""

    title: str
    summary: str
    keywords: list[str]
    collection_type: str
    """A value that the Croissant RAI vocabulary recommends for ``rai:dataCollectionType``."""
    collection: list[str]
    """How the images came about."""
    source: str
    """What they were made from."""
    processing: list[str]
    labels: str
    """Where the class of an image comes from."""
    missing: list[str]
    """What was left out."""
    uses: list[str]
    not_for: list[str]
    limitations: list[str]
    biases: list[str]
    privacy: list[str]
    licence: str
    citation: str
    bibtex: str | None


def knows_training_data(manifest: Manifest) -> bool:
    """False for a synthetic set of custom generators that do not say what they learned from."""
    return manifest.provenance.json_value().get("training_data") != "unknown"


def generators_of(manifest: Manifest) -> dict[str, list[str]]:
    """The classes that each generator drew, by the digest of its weights; several may share a class."""
    found: dict[str, list[str]] = {}
    for name, digests in (manifest.provenance.generators or {}).items():
        for digest in digests if isinstance(digests, list) else [digests]:
            found.setdefault(digest, []).append(name)
    return found


def size_of(manifest: Manifest) -> str:
    """``1,610 images of 5 classes``; images without a class are counted apart."""
    labelled = sum(entry.samples for entry in manifest.strata if entry.class_name in manifest.classes)
    found = f"{plural(labelled, 'image')} of {plural(len(manifest.classes), 'class', 'classes')}"
    if manifest.unlabelled is not None:
        found += f", and {manifest.unlabelled.samples:,} without a class"
    return found


def form_of(manifest: Manifest) -> str:
    """Size and encoding of the images."""
    side = f"{manifest.image_size} x {manifest.image_size} pixels, 8-bit grey"
    if manifest.is_external:
        return f"image files of any size in external tars, which readers convert to {side}"
    return f"{side}, {manifest.encoding}"


def converted_from(manifest: Manifest) -> list[str]:
    """A sentence for each conversion, oldest first."""
    sentences = []
    for step in manifest.provenance.converted or []:
        to = [f"{step.size} pixels a side"] if step.size else []
        to += [str(step.encoding)] if step.encoding else []
        sentences.append(
            f"Converted from the set {step.source[:12]}{' to ' + ', '.join(to) if to else ''}: keys, classes and "
            "splits are the same."
        )
    return sentences


def plural(number: int, one: str, many: str | None = None) -> str:
    """``1 image``, ``1,200 images``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def names(classes: list[str]) -> str:
    return ", ".join(classes)
