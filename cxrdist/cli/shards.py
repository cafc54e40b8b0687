"""``cxrdist shards ...``: show, check, draw, repair and convert a shard set."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from cxrdist.config.parser import parse
from cxrdist.data.shards.open import DEFAULT_SET, check_default_is_there
from cxrdist.data.tools.convert import ConvertOptions
from cxrdist.data.tools.merge import MergeOptions
from cxrdist.errors import OptionError

T = TypeVar("T")


def options_of(cls: type[T], argv: Sequence[str], name: str, example: str, positional: str = "set") -> T:
    """The command's options. Raises UserError if they mean the default set and it does not exist."""
    prog = f"cxrdist shards {name}"
    options = parse(cls, argv, prog=prog, example=f"{prog} {example}", positional=(positional,))
    named = getattr(options, positional)
    for place in (named,) if isinstance(named, str) else named:
        check_default_is_there(place)
    return options


@dataclass(frozen=True, kw_only=True)
class ShardsInfo:
    """Show what a shard set holds and where it comes from."""

    set: str = DEFAULT_SET
    """Folder of the set, or its URL."""
    json: bool = False
    """As JSON: digest, image_size, encoding, classes, counts, strata, provenance, lineage, and removed if samples
    were removed."""


def info(argv: Sequence[str]) -> None:
    options = options_of(ShardsInfo, argv, "info", "shards/phantom")
    from cxrdist.data.tools.info import as_json, print_info

    if options.json:
        print(json.dumps(as_json(options.set), indent=1))
    else:
        print_info(options.set)


@dataclass(frozen=True, kw_only=True)
class ShardsVerify:
    """Read a whole shard set and list all problems; exit code 1 if there are any."""

    set: str = DEFAULT_SET
    """Folder of the set, or its URL."""
    quick: bool = False
    """Compare only sizes, manifest and tables; no image is read."""


def verify(argv: Sequence[str]) -> int:
    options = options_of(ShardsVerify, argv, "verify", "shards/phantom --quick")
    from cxrdist.data.tools.verify import remedy, verify

    found = verify(options.set, quick=options.quick)
    for problem in found:
        print(problem)
    extent = " in sizes and tables; images were not read" if options.quick else ""
    print(f"{options.set}: {problems(found) or f'no problems found{extent}'}")
    if found:
        print(remedy(options.set, found))
    return 1 if found else 0


def problems(found: Sequence[object]) -> str:
    return f"{len(found)} problem{'s' if len(found) > 1 else ''}" if found else ""


@dataclass(frozen=True, kw_only=True)
class ShardsPreview:
    """Draw a contact sheet of one or several shard sets: a row for each class and origin."""

    sets: tuple[str, ...] = (DEFAULT_SET,)
    """Folders of sets, or their URLs: for example a set and its synthetic one, side by side."""
    out: str = "preview.png"
    """The PNG file to write, outside of shard sets."""
    split: Literal["train", "val", "test"] = "train"
    """The split whose images are shown."""
    count: int = 8
    """Images in each row."""

    def __post_init__(self) -> None:
        if not self.out.lower().endswith(".png"):
            raise OptionError("out", f"must name a PNG file, ending in .png, not {self.out}")
        if self.count < 1:
            raise OptionError("count", f"must be 1 or more, not {self.count}")


def preview(argv: Sequence[str]) -> None:
    options = options_of(ShardsPreview, argv, "preview", "shards/phantom --out preview.png", "sets")
    from cxrdist.data.tools.preview import preview

    preview(options.sets, options.out, split=options.split, count=options.count)
    print(f"preview: {options.out}")


@dataclass(frozen=True, kw_only=True)
class ShardsIndex:
    """Rebuild the missing and damaged indexes of a shard set from its tars; exit code 1 if one cannot be rebuilt."""

    set: str = DEFAULT_SET
    """Folder of the set, or its URL."""


def index(argv: Sequence[str]) -> int:
    options = options_of(ShardsIndex, argv, "index", "shards/phantom")
    from cxrdist.data.tools.reindex import reindex
    from cxrdist.data.tools.verify import remedy

    result = reindex(options.set)
    for name in result.rebuilt:
        print(f"{name}: rebuilt")
    for problem in result.problems:
        print(problem)
    counts = f"{result.intact:,} intact, {len(result.rebuilt):,} rebuilt"
    print(f"{options.set}: indexes: {counts}{', ' * bool(result.problems)}{problems(result.problems)}")
    if result.problems:
        print(remedy(options.set, result.problems))
    return 1 if result.problems else 0


def convert(argv: Sequence[str]) -> None:
    example = "shards/phantom --encoding npy --out shards/phantom-npy"
    options = options_of(ConvertOptions, argv, "convert", example)
    from cxrdist.data.tools.convert import convert

    convert(options)


def merge(argv: Sequence[str]) -> None:
    options = options_of(MergeOptions, argv, "merge", "shards/mercy shards/grace --out shards/both", "sets")
    from cxrdist.data.tools.merge import merge

    merge(options)


@dataclass(frozen=True, kw_only=True)
class ShardsStats:
    """Show grey values, views, sex and age of each class; warn if they predict the class.

    Reads every image.
    """

    set: str = DEFAULT_SET
    """Folder of the set, or its URL."""
    json: bool = False
    """As JSON; progress then goes to stderr."""


def stats(argv: Sequence[str]) -> None:
    options = options_of(ShardsStats, argv, "stats", "shards/phantom")
    from cxrdist.data.tools.stats import as_json, stats
    from cxrdist.data.tools.stats_tables import print_stats

    if options.json:
        with contextlib.redirect_stdout(sys.stderr):
            found = stats(options.set)
        print(json.dumps(as_json(found), indent=1))
    else:
        print_stats(stats(options.set))


COMMANDS = {
    "info": info,
    "verify": verify,
    "preview": preview,
    "index": index,
    "convert": convert,
    "merge": merge,
    "stats": stats,
}
