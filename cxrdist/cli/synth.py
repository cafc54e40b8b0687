"""``cxrdist synth``: what belongs to synthetic sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrdist.config.parser import parse
from cxrdist.data.shards.open import DEFAULT_SET
from cxrdist.errors import OptionError

DIFFERS = MUST_LOOK = 1


@dataclass(frozen=True, kw_only=True)
class Show:
    """Make one image of a synthetic set again from its generator, and compare it with the stored pixels.

    Exits with 1 if they differ.
    """

    key: str
    """Key of the image."""
    set: str
    """Synthetic set that holds it."""
    gan: str = "runs/gan"
    """Run of train_gan.py that the set was made with, or the folder of its generator."""
    generator: str | None = None
    """Your own generator that the set was made with instead: package.module:load."""
    out: str | None = None
    """PNG of both images, side by side; null: none."""


def show(argv: Sequence[str]) -> int:
    options = parse(
        Show,
        argv,
        prog="cxrdist synth show",
        example="cxrdist synth show 0123456789abcdef-0000000007 --set shards/phantom-synthetic --gan runs/gan",
        positional=("key",),
    )
    import numpy as np
    from PIL import Image

    from cxrdist.data.shards.shard_set import ShardSet
    from cxrdist.files import atomic_writer
    from cxrdist.synth.show import show

    shown = show(options.key, ShardSet(options.set), Path(options.gan), options.generator)
    meta = shown.sample.meta
    print(f"{options.key}: {meta['class']}, seed {meta['seed']}, index {meta['index']}")
    print(f"made by {shown.generator} (weights {meta['generator_sha256'][:12]})")
    if options.out is not None:
        with atomic_writer(Path(options.out)) as file:
            Image.fromarray(np.hstack([shown.stored, shown.again])).save(file, "PNG")
        print(f"{options.out}: the stored image, and the one made now")
    if not shown.differing:
        print(f"made again: all {shown.stored.size:,} pixels are the stored ones")
        return 0
    pixels = f"{shown.differing:,} of {shown.stored.size:,} pixels"
    print(f"made again: {pixels} differ, by up to {shown.largest} grey values")
    print("another processor or GPU than that of the synthesis rounds in another way")
    return DIFFERS


@dataclass(frozen=True, kw_only=True)
class Card:
    """Write the card of a shard set: README.md, and croissant.json for programs.

    The card says what the set is made from, how it was judged and what it is not for, from its manifest alone.
    """

    set: str
    """Folder of the set, or its URL; a synthetic or a real one."""
    shards: str | None = None
    """Real set that the generators of a synthetic set learned from: the card then says what it holds; null: none."""
    out: str | None = None
    """Folder of the card, outside of shard sets; null: card/ in runs/synth-<set> if that run is there, else
    runs/card-<set>."""


def card(argv: Sequence[str]) -> None:
    options = parse(
        Card,
        argv,
        prog="cxrdist synth card",
        example="cxrdist synth card shards/phantom-synthetic --shards shards/phantom",
        positional=("set",),
    )
    from cxrdist.cards.dataset import write_dataset_card
    from cxrdist.data.shards.shard_set import ShardSet

    real = None if options.shards is None else ShardSet(options.shards)
    folder = card_folder(options.set) if options.out is None else Path(options.out)
    for path in write_dataset_card(folder, ShardSet(options.set), real):
        print(path)


def card_folder(place: str) -> Path:
    """The folder of a set's card: in the run of its synthesis, if that is here."""
    from cxrdist.run.folder import CONFIG

    name = Path(place).name.strip(".") or Path(place).resolve().name
    run = Path("runs") / f"synth-{name}"
    # Without its config the folder is no run, and a synthesis would refuse it as one that holds other files.
    return run / "card" if (run / CONFIG).exists() else Path("runs") / f"card-{name}"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Look again at a finished synthetic set, of any generator: near copies of training images, duplicates, coverage,
    labels, today's gates. Writes audit.json and one page, audit.html, which shows real images. Exit code 0 if nothing
    must be looked at, 1 if something must, 2 for errors.
    """

    set: str
    """Synthetic set, of any generator, or its URL."""
    shards: str = DEFAULT_SET
    """Real shard set that its generators learned from, or one of its family."""
    out: str = "audit"
    """Folder for audit.json and audit.html."""
    classifiers: tuple[str, ...] = ()
    """Finished runs of train_cls.py on real images of this set: also look at realism and labels."""
    images: int = 2000
    """Look at so many images of each class, the first ones in a fixed random order."""
    real_images: bool = True
    """Show real images in the page."""
    allow_other_lineage: bool = False
    """Audit a set that descends from another real set; the page then says so in red."""

    def __post_init__(self) -> None:
        if self.images < 1:
            raise OptionError("images", f"is {self.images}: expected 1 or more")


def audit(argv: Sequence[str]) -> int:
    options = parse(
        Audit,
        argv,
        prog="cxrdist synth audit",
        example="cxrdist synth audit shards/phantom-synthetic --shards shards/phantom --out audit",
        positional=("set",),
    )
    from cxrdist.data.tools.preview import check_outside_of_sets
    from cxrdist.synth.audit.audit import JSON_FILE, PAGE_FILE, AuditOptions, audit

    check_outside_of_sets(f"{options.out}/{JSON_FILE}")
    found = audit(
        AuditOptions(
            synthetic=options.set,
            shards=options.shards,
            classifiers=options.classifiers,
            images=options.images,
            allow_other_lineage=options.allow_other_lineage,
            real_images=options.real_images,
        ),
        Path(options.out),
    )
    for line in found["findings"]:
        where = f"{line['class']}: " if line["class"] else ""
        print(f"{where}{line['text']}")
    if not found["findings"]:
        print("nothing was found that must be looked at")
    print(f"{options.out}: {PAGE_FILE}, {JSON_FILE}")
    return MUST_LOOK if found["must_look"] else 0


COMMANDS = {"show": show, "audit": audit, "card": card}
