"""What a user must look at before using a set, and what is worth knowing; in words, from the figures of an audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cxrdist.data.shards.open import REJECTED
from cxrdist.synth.audit.sets import OTHER

LOW_COVERAGE = 0.5
"""A coverage below this fraction of the expected one is low."""

Found = Mapping[str, Any]
Line = dict[str, str | None]
"""``kind``, ``class`` (None: of the whole set) and ``text``."""


def findings(found: Found) -> list[Line]:
    """What a user must look at; [] if there is nothing."""
    return [*_origin(found), *_copies(found), *_duplicates(found), *_coverage(found)]


def notes(found: Found) -> list[Line]:
    """What is worth knowing, and no reason to look again by itself."""
    return [
        *_partial(found),
        *_changes(found),
        *_more_than_expected(found),
        *_refused(found),
        *_labels(found),
    ]


def percent(share: float) -> str:
    """``0.0123`` -> ``1.2 %``."""
    digits = 0 if share >= 0.0995 or share == 0 else 1 if share >= 0.00095 else 2
    return f"{100 * share:.{digits}f} %"


def images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _line(kind: str, text: str, class_name: str | None = None) -> Line:
    return {"kind": kind, "class": class_name, "text": text}


# ---- what must be looked at


def _origin(found: Found) -> Iterator[Line]:
    made, gates = found["made"], found["made"]["gates"]
    if made["compared_with"] == OTHER:
        yield _line(
            "other lineage",
            f"The set descends from another real set ({str(made['real_digest'])[:12]}) than the one it is compared "
            "with: copies of that set's images are not found here, and the generator may have learned from images "
            "that are in val or test of this one.",
        )
    if not made["training_data_known"]:
        yield _line(
            "training data",
            "What the generators learned from is unknown: they may have seen images of val and test, so results on "
            "these may be too good.",
        )
    if made["split"] != "train":
        yield _line(
            "test split",
            f"The generators learned from the {made['split']} split: no result on that split is valid with these "
            "images.",
        )
    if gates is not None and "test" in (gates["fitted_on"], gates["calibrated_on"]):
        yield _line(
            "test split",
            "The gates that chose these images were set on the test split, so results on it would be too good.",
        )
    if made["importer"] == REJECTED:
        yield _line(
            "refused", "These are images that the gates of a synthesis refused: train on none of them."
        )


def _copies(found: Found) -> Iterator[Line]:
    for name, of in _all_and_each(found):
        copies = of["copies"]
        if copies["count"] > copies["most_by_chance"]:
            yield _line(
                "near copies",
                f"{_near_copies(of)}; more than {copies['most_by_chance']:,} are not explained by chance.",
                name,
            )
        if name is not None and copies["very_close"]:
            are = "is" if copies["very_close"] == 1 else "are"
            yield _line(
                "copies",
                f"{images(copies['very_close'])} of {of['looked_at']:,} {are} within half the distance of a near "
                "copy: look at the closest pairs, they may show a patient.",
                name,
            )


def _all_and_each(found: Found) -> Iterator[tuple[str | None, Any]]:
    yield None, found["overall"]
    yield from found["classes"].items()


def _near_copies(of: Mapping[str, Any]) -> str:
    copies = of["copies"]
    low, high = copies["interval"]
    are = "is a near copy" if copies["count"] == 1 else "are near copies"
    return (
        f"{images(copies['count'])} of {of['looked_at']:,} {are} of training images ({percent(copies['rate'])}, 95 % "
        f"interval {percent(low)} to {percent(high)}). Of real images of other patients "
        f"{percent(copies['null_rate'])} are expected to be as close"
    )


def _duplicates(found: Found) -> Iterator[Line]:
    for name, of in found["classes"].items():
        if count := of["duplicates"]["count"]:
            are = (
                "is almost the same as an earlier one"
                if count == 1
                else "are almost the same as earlier ones"
            )
            yield _line("duplicates", f"{images(count)} of {of['looked_at']:,} {are}.", name)


def _coverage(found: Found) -> Iterator[Line]:
    for name, of in found["classes"].items():
        for space, overlap in of["overlap"].items():
            for split in ("train", "val"):
                measured = overlap[split]
                if measured and measured["coverage"] < LOW_COVERAGE * measured["expected_coverage"]:
                    yield _line(
                        "coverage",
                        f"Only {percent(measured['coverage'])} of the real {split} images have a synthetic one near "
                        f"them in the {space} space; as many real ones would cover "
                        f"{percent(measured['expected_coverage'])}. The images differ from real ones, or are few "
                        "over and over.",
                        name,
                    )


# ---- what is worth knowing


def _partial(found: Found) -> Iterator[Line]:
    if found["overall"]["looked_at"] < found["overall"]["images"]:
        yield _line(
            "partial",
            f"{found['overall']['looked_at']:,} of {found['overall']['images']:,} images were looked at: of each "
            f"class the first {found['images_per_class']:,} in a fixed random order (--images). "
            "Duplicates are searched among them.",
        )
    if unlabelled := found["real"]["unlabelled"]:
        yield _line(
            "unlabelled",
            f"{images(unlabelled)} of the real set have no class: copies of them are searched for, and no more.",
        )
    if pooled := (found["made"]["gates"] or {}).get("pooled"):
        yield _line(
            "pooled",
            f"The gates of the synthesis took the thresholds of all classes together for {', '.join(pooled)}: too "
            "few validation images.",
        )


def _changes(found: Found) -> Iterator[Line]:
    for name, of in found["made"]["classes"].items():
        for removal in of["removed"]:
            were = "was" if removal["images"] == 1 else "were"
            yield _line(
                "removed",
                f"{images(removal['images'])} {were} removed by {removal['by']}: {removal['reason']}.",
                name,
            )
    if found["made"]["gates"] is None:
        yield _line("gates", "The manifest says nothing of gates, as that of an earlier version.")
    elif found["made"]["gates"]["name"] == "none":
        yield _line("gates", "The set was made without gates.")


def _more_than_expected(found: Found) -> Iterator[Line]:
    for name, of in _all_and_each(found):
        copies = of["copies"]
        if copies["interval"][0] > copies["null_rate"] and copies["count"] <= copies["most_by_chance"]:
            yield _line(
                "near copies",
                f"{_near_copies(of)}, but with so few validation images up to {copies['most_by_chance']:,} may be.",
                name,
            )


def _refused(found: Found) -> Iterator[Line]:
    gates = found["overall"]["gates"]
    if not gates["refused"]:
        return
    text = f"Today's default gates would refuse {gates['refused']:,} of {images(gates['of'])}"
    if gates["val"] is not None:
        shares = percent(gates["refused"] / gates["of"]), percent(gates["val"]["rate"])
        text += f" ({shares[0]}; of real validation images {shares[1]})"
    yield _line("refused today", f"{text}.")


def _labels(found: Found) -> Iterator[Line]:
    labels = found["overall"]["labels"]
    if labels is None:
        yield _line(
            "labels",
            "Realism and labels were not checked: name classifiers of real images with --classifiers.",
        )
        return
    text = f"The classifiers see the class in {percent(labels['synthetic']['rate'])} of the synthetic images"
    if labels["val"] is not None:
        text += f", and in {percent(labels['val']['rate'])} of the real validation images"
    yield _line("labels", f"{text}.")
