"""``cxrdist shards ...``: what a shard set holds, and whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from cxrdist.config import parse
from cxrdist.data.open import DEFAULT_SET


@dataclass(frozen=True, kw_only=True)
class ShardsInfo:
    """What a shard set holds and where it comes from."""

    set: str = DEFAULT_SET
    """Folder of the set."""
    json: bool = False
    """As JSON: digest, image_size, encoding, classes, counts."""


def info(argv: Sequence[str]) -> None:
    options = parse(
        ShardsInfo,
        argv,
        prog="cxrdist shards info",
        example="cxrdist shards info shards/phantom",
        positional=("set",),
    )
    from cxrdist.data.info import as_json, print_info

    if options.json:
        print(json.dumps(as_json(options.set), indent=1))
    else:
        print_info(options.set)


@dataclass(frozen=True, kw_only=True)
class ShardsVerify:
    """Read a whole shard set and list all that is wrong with it; exit code 1 if anything is."""

    set: str = DEFAULT_SET
    """Folder of the set."""


def verify(argv: Sequence[str]) -> int:
    options = parse(
        ShardsVerify,
        argv,
        prog="cxrdist shards verify",
        example="cxrdist shards verify shards/phantom",
        positional=("set",),
    )
    from cxrdist.data.verify import verify

    found = verify(options.set)
    for line in found:
        print(line)
    count = f"{len(found)} problem{'s' if len(found) > 1 else ''}" if found else "all is as it was written"
    print(f"{options.set}: {count}")
    return 1 if found else 0


COMMANDS = {"info": info, "verify": verify}
