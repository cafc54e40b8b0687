"""What was wrong with images of a source: those that were left out for it, and those that were repaired."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cxrdist.data.imaging.errors import LEADS_OUT
from cxrdist.data.imaging.other_files import ADVICE
from cxrdist.errors import UserError, shown

MAX_UNDECODABLE_SHARE = 0.01
LISTED = 10

log = logging.getLogger(__name__)


class RefusedSource(UserError):
    """Too many images of a source do not decode, or --strict refuses repairs; nothing was written."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """What is wrong with one image."""

    file: str
    """The image as its source names it: for messages, never for the set."""
    what: str
    key: str = ""
    """Its key in the set."""

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def check_undecodable(undecodable: list[Fault], images: int) -> None:
    """Raises RefusedSource if more than 1 % of the images, and more than one, do not decode."""
    if len(undecodable) > max(1, MAX_UNDECODABLE_SHARE * images):
        what = Counter(fault.what for fault in undecodable).most_common(1)[0][0]
        advice = ADVICE.get(what, "repair the download, or remove these images from it")
        if what == LEADS_OUT:
            advice = (
                "links are followed within the folder only, so copy the files into it (`cp -rL ROOT NEW`), or name "
                "the folder that the links lead to as --root"
            )
        are_not = "are not read" if what == LEADS_OUT else "do not decode"
        raise RefusedSource(
            f"{len(undecodable)} or more of {images} images {are_not}, "
            f"over {MAX_UNDECODABLE_SHARE:.0%} (one is {undecodable[0]}): {advice}; nothing was written"
        )


def check_strict(repairs: list[Fault], *, strict: bool) -> None:
    """Raises RefusedSource if repairs were needed and ``strict`` refuses them."""
    if strict and repairs:
        images = len({fault.key for fault in repairs})
        raise RefusedSource(
            f"{images} {'image needs' if images == 1 else 'images need'} a repair (one is {min(repairs)}), which "
            "--strict refuses: mend the files, or remove the option; nothing was written"
        )


def report_undecodable(undecodable: list[Fault]) -> None:
    """List images that were left out because they do not decode."""
    for fault in sorted(undecodable)[:LISTED]:
        log.warning("left out, does not decode: %s", shown(str(fault)))
    if len(undecodable) > LISTED:
        log.warning("... and %s more", f"{len(undecodable) - LISTED:,}")


def counted(faults: Iterable[Fault]) -> dict[str, dict[str, Any]]:
    """``{what: {"images": number, "example": key}}``, as the manifest keeps it: sorted, and without file names."""
    found: dict[str, list[str]] = {}
    for fault in faults:
        found.setdefault(fault.what, []).append(fault.key)
    return {what: {"images": len(keys), "example": min(keys)} for what, keys in sorted(found.items())}
