"""What a reader sees next, and what becomes of the answer."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrdist.errors import UserError, shown
from cxrdist.synth.review import dealing, recording
from cxrdist.synth.review.readers import Reader, readers
from cxrdist.synth.review.recording import ANSWERS, OTHER, REASONS, Decision
from cxrdist.synth.review.serving.pictures import Pictures
from cxrdist.synth.review.serving.pool import Pool
from cxrdist.synth.review.store import Store
from cxrdist.synth.review.terms import Terms

MAX_TEXT = 500
MAX_NONCE = 64
MAX_SECONDS = 7 * 24 * 3600
PREPARED = 3


class Refused(Exception):
    """A request that the page never makes."""


@dataclass(frozen=True)
class Place:
    """Where a reader is in a task."""

    done: int
    open: list[int]
    """Numbers of the images that are left, in order."""

    @property
    def total(self) -> int:
        return self.done + len(self.open)


class Reading:
    """The tasks of all readers. Several threads may ask at once."""

    def __init__(self, store: Store, pool: Pool, pictures: Pictures, terms: Terms, limit: int | None) -> None:
        self.store, self.pool, self.pictures, self.terms, self.limit = store, pool, pictures, terms, limit
        classes = range(len(pool.classes))
        self._sequences = {
            "curate": dealing.curate_sequence(pool.numbers(is_real=False), terms.seed),
            "blinded": dealing.blinded_sequence(
                [pool.numbers(is_real=True, class_index=number) for number in classes],
                [pool.numbers(is_real=False, class_index=number) for number in classes],
                terms.share_real,
                terms.seed,
            ),
        }
        self._dealt: dict[tuple[int, str], np.ndarray] = {}

    def deal(self, reader: Reader, task: str) -> None:
        """Deal a reader's images, anew if readers came or went since."""
        ids = [other.id for other in readers(self.store)]
        if reader.id not in ids:
            raise Refused("this reader was removed")
        numbers = dealing.dealt(
            self._sequences[task],
            ids.index(reader.id),
            len(ids),
            self.terms.overlap,
            self.limit,
            mine=self.pool.numbers_of(recording.judged(self.store, reader.name, task)),
            others=self.pool.numbers_of(recording.judged_by_others(self.store, reader.name, task)),
        )
        numbers = dealing.in_order(numbers, self.terms.seed, task, reader.seed)
        self._dealt[reader.id, task] = numbers if task == "curate" else self._still_blinded(numbers, reader)

    def _still_blinded(self, numbers: np.ndarray, reader: Reader) -> np.ndarray:
        """Without images that the reader knows to be synthetic, since they came in the other task; the share of real
        ones stays."""
        judged = self.pool.numbers_of(recording.judged(self.store, reader.name, "blinded"))
        known = self.pool.numbers_of(recording.judged(self.store, reader.name, "curate", even_if_undone=True))
        is_left = np.isin(numbers, judged) | ~np.isin(numbers, known)
        if is_left.all():
            return numbers
        numbers = numbers[is_left]
        is_judged = np.isin(numbers, judged)
        return dealing.at_share(numbers, self.pool.is_real[numbers], is_judged, self.terms.share_real)

    def place(self, reader: Reader, task: str) -> Place:
        if (reader.id, task) not in self._dealt:
            self.deal(reader, task)
        numbers = self._dealt[reader.id, task]
        judged = known = self.pool.numbers_of(recording.judged(self.store, reader.name, task))
        if task == "blinded":  # the other task may be open in another window
            curated = recording.judged(self.store, reader.name, "curate", even_if_undone=True)
            known = np.union1d(judged, self.pool.numbers_of(curated))
        left = numbers[~np.isin(numbers, known)]
        return Place(int(np.isin(numbers, judged).sum()), left.tolist())

    def state(self, reader: Reader, task: str) -> dict[str, Any]:
        """What the page shows, as JSON: the image, the one after it, and the progress."""
        place = self.place(reader, task)
        self.pictures.prepare(place.open[:PREPARED])
        items = [self._item(reader, task, number) for number in place.open[:2]]
        seconds = recording.seconds_per_image(self.store, reader.name, task)
        key, nonce = recording.last_decided(self.store, reader.name, task) or (None, None)
        return {
            "done": place.done,
            "total": place.total,
            "left_s": None if seconds is None else round(seconds * len(place.open)),
            "item": items[0] if items else None,
            "next": items[1] if len(items) > 1 else None,
            # An image that was removed meanwhile cannot be shown again, so its decision stays.
            "undo": nonce if key in self.pool else None,
        }

    def _item(self, reader: Reader, task: str, number: int) -> dict[str, str]:
        item = {"token": self.pictures.token(reader.id, task, number)}
        return item | ({"class": self.pool.class_name(number)} if task == "curate" else {})

    def read_ahead(self, reader: Reader, task: str) -> None:
        """Read the images that the page asks for first, and wait for all of them: how long one alone takes, cold, may
        tell which set it is of. One that cannot be read is told when it is due."""
        for number in self.place(reader, task).open[:PREPARED]:
            with contextlib.suppress(UserError, OSError):
                self.pictures.png(number)

    def image(self, reader: Reader, token: str, tasks: tuple[str, ...]) -> int | None:
        """The number of an image that is due: this one or the next one of a task; None for any other token."""
        for task in tasks:
            for number in self.place(reader, task).open[:2]:
                if self.pictures.token(reader.id, task, number) == token:
                    return number
        return None

    def answer(self, reader: Reader, task: str, form: Mapping[str, Any]) -> bool:
        """Record the answer to the image that is due. Returns False, and records nothing, if it is to another image:
        it was answered in another window. A request that arrives again is recorded once. Raises Refused."""
        nonce = _text(form, "nonce", MAX_NONCE)
        if not nonce:
            raise Refused("no nonce")
        if recording.is_known(self.store, reader.name, nonce):
            return True
        place = self.place(reader, task)
        if not place.open or self.pictures.token(reader.id, task, place.open[0]) != form.get("token"):
            return False
        number = place.open[0]
        answer = form.get("answer")
        if answer not in ANSWERS[task]:
            raise Refused("unknown answer")
        is_blinded = task == "blinded"
        decision = Decision(
            reader=reader.name,
            task=task,
            key=self.pool.key(number),
            origin=self.pool.origin(number),
            class_name=self.pool.class_name(number),
            answer=answer,
            reason=None if is_blinded else _reason(form, is_needed=answer == "remove"),
            guessed_class=self.pool.classes[_integer(form, "guessed_class", 0, len(self.pool.classes) - 1)]
            if is_blinded
            else None,
            confidence=_integer(form, "confidence", 1, 5) if is_blinded else None,
            seconds=_seconds(form),
            # With images that were removed from the set since, which are not in its place.
            position=len(recording.judged(self.store, reader.name, task)) + 1,
            nonce=nonce,
        )
        recording.record(self.store, decision)
        return True

    def undo(self, reader: Reader, task: str, form: Mapping[str, Any]) -> None:
        recording.undo(self.store, reader.name, task, _text(form, "nonce", MAX_NONCE))


def check_pool(pool: Pool, terms: Terms, tasks: tuple[str, ...]) -> list[str]:
    """Classes that the blinded task leaves out, since one origin has no images of them. Raises UserError if none is
    left."""
    if "blinded" not in tasks:
        return []
    lacking = [
        name
        for number, name in enumerate(pool.classes)
        if 0 in (len(pool.numbers(is_real=is_real, class_index=number)) for is_real in (True, False))
    ]
    if len(lacking) == len(pool.classes):
        raise UserError(
            f"no class has both synthetic images and real ones in the {terms.split} split, so the blinded task has "
            "no images: add --tasks curate, or name another --split"
        )
    return lacking


def _reason(form: Mapping[str, Any], *, is_needed: bool) -> str | None:
    """``label``, or ``label: words of the reader``."""
    label, text = _text(form, "reason", MAX_TEXT), shown(" ".join(_text(form, "text", MAX_TEXT).split()))
    if label and label not in REASONS:
        raise Refused("unknown reason")
    if (is_needed and not label) or (label == OTHER and not text):
        raise Refused("no reason")
    return ": ".join(filter(None, (label or (OTHER if text else ""), text))) or None


def _text(form: Mapping[str, Any], name: str, most: int) -> str:
    value = form.get(name) or ""
    if not isinstance(value, str) or len(value) > most:
        raise Refused(f"{name} is no text of up to {most} characters")
    return value


def _integer(form: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = form.get(name)
    if type(value) is not int or not low <= value <= high:
        raise Refused(f"{name} is not from {low} to {high}")
    return value


def _seconds(form: Mapping[str, Any]) -> float:
    value = form.get("seconds")
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise Refused("seconds is no number")  # nor is NaN
    return round(float(min(max(value, 0), MAX_SECONDS)), 3)
