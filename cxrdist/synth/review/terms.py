"""The terms of a reading: of which sets it is and how images are dealt. Its store keeps them from the first start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxrdist.errors import OptionError, UserError
from cxrdist.synth.review.store import Store, now

DEFAULTS: Mapping[str, str] = {"seed": "0", "share_real": "0.5", "overlap": "0.2", "split": "val"}


@dataclass(frozen=True)
class Terms:
    """What every decision of a store was made under."""

    synthetic_digest: str
    real_digest: str
    split: str
    """The split that the real images are of."""
    seed: int
    share_real: float
    """Of the images of the blinded task."""
    overlap: float
    """Share of the images that every reader sees."""


def agreed(store: Store, digests: Mapping[str, Sequence[str]], asked: Mapping[str, object]) -> Terms:
    """The terms of a store: those that it has, or else the given digests, what is asked for and the defaults.

    ``digests``: of ``synthetic_digest`` and ``real_digest``, that of the set and those that it had before images were
    removed or filled up, so that its readers go on; ``asked``: options that were given, None for others. Raises
    UserError for another set than the store's, OptionError for another value than it was begun with.
    """
    wanted = {name: str(value) for name, value in asked.items() if value is not None}
    with store.transaction() as db:
        kept = {row["name"]: row["value"] for row in db.execute("SELECT name, value FROM meta")}
        if not kept:
            kept = {**DEFAULTS, **wanted, **{name: of[0] for name, of in digests.items()}, "created": now()}
            db.executemany("INSERT INTO meta VALUES (?, ?)", kept.items())
    for name, of in digests.items():
        if kept[name] not in of:
            kind = name.removesuffix("_digest")
            raise UserError(
                f"{store.path} holds a reading of another {kind} set ({kept[name][:12]}) than this one "
                f"({of[0][:12]}): name the set that was read, or start a reading of its own with another --store"
            )
    for name, value in wanted.items():
        if kept[name] != value:
            raise OptionError(
                name,
                f"{store.path} was begun with {kept[name]}, not {value}: leave the option out, or give another "
                "--store",
            )
    return Terms(
        kept["synthetic_digest"],
        kept["real_digest"],
        kept["split"],
        int(kept["seed"]),
        float(kept["share_real"]),
        float(kept["overlap"]),
    )
