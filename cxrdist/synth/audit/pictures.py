"""The pictures of the page: which images of a class, and their PNG as a data URI."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cxrdist.data.shards.stratum import StratumReader
from cxrdist.synth.audit.look import random_order
from cxrdist.synth.audit.measure import PAIRS, VERY_CLOSE, ClassAudit, Pair, copy_gate
from cxrdist.synth.gates.judge import Judge

GRID = 10
WORST = 8
MOST_PX = 160
"""Larger images are made smaller, to this side."""


@dataclass(frozen=True)
class Picture:
    """One image, as the page shows it."""

    uri: str
    title: str
    is_refused: bool = False
    note: str = ""


@dataclass(frozen=True)
class Beside:
    """Two images that are compared; ``other`` is None if it is left out."""

    one: Picture
    other: Picture | None
    distance: str
    word: str
    """How close they are: ``very close``, ``near copy``, or nothing."""


def closest(of: ClassAudit, judge: Judge, *, real_images: bool) -> list[Beside]:
    """The closest synthetic images beside their nearest training images."""
    limit = np.float32(copy_gate(judge)[1].of_class[of.name])
    found = []
    for pair in of.closest:
        distance = np.float32(pair.distance)
        word = "near copy" if distance < limit else ""
        word = "very close" if distance <= np.float32(VERY_CLOSE * float(limit)) else word
        found.append(_beside(of, pair, word, with_other=real_images))
    return found


def twins(of: ClassAudit) -> list[Beside]:
    """The closest duplicates beside the earlier image."""
    return [_beside(of, pair, "", with_other=True) for pair in of.twins[:PAIRS]]


def _beside(of: ClassAudit, pair: Pair, word: str, *, with_other: bool) -> Beside:
    entry = pair.reader.entry
    other = None
    if with_other:
        title = f"{entry.origin} {entry.split} image {pair.number} of {entry.class_name}"
        note = entry.class_name if entry.origin == "real" else ""
        other = Picture(uri(pair.reader, pair.number), title, note=note)
    one = Picture(uri(of.look.reader, int(of.look.numbers[pair.place])), of.look.key(pair.place))
    return Beside(one, other, f"{pair.distance:.2f}", word)


def grid(reader: StratumReader, chosen: Sequence[int] | None = None) -> list[Picture]:
    """Images in random order: the first of ``random_order``, among ``chosen`` samples if given."""
    order = random_order(reader)
    if chosen is not None:
        order = order[np.isin(order, chosen)]
    return [
        Picture(uri(reader, int(number)), f"{reader.entry.origin} {reader.entry.split} image {number}")
        for number in order[:GRID]
    ]


def worst(of: ClassAudit, gate: str, *, refuses_high: bool) -> list[Picture]:
    """The synthetic images with the worst scores of a gate, the worst first."""
    scores = of.look.scores[gate]
    places = np.argsort(-scores if refuses_high else scores, kind="stable")[:WORST]
    return [
        Picture(
            uri(of.look.reader, int(of.look.numbers[place])),
            of.look.key(place),
            not of.look.passed[gate][place],
            f"{scores[place]:.3g}",
        )
        for place in places.tolist()
    ]


def uri(reader: StratumReader, number: int) -> str:
    """An image as a data URI of a PNG of at most ``MOST_PX`` pixels a side."""
    image = Image.fromarray(reader.pixels(number))
    if image.width > MOST_PX:
        image = image.resize((MOST_PX, MOST_PX), Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
