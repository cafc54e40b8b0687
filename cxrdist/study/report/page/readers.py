"""Texts on the readers of a study's synthetic images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cxrdist.errors import shown
from cxrdist.study.report.charts.readers import readers_figure
from cxrdist.study.report.page.words import DIGITS, NONE
from cxrdist.study.report.reading.readers import Kappa, Reader, Readers, Share, read_readers
from cxrdist.study.report.reading.runs import Study

FILE = "readers.json"
"""Copy of the report on readers beside the page."""
_TASKS = {"blinded": "real or synthetic", "curate": "keep, remove or unsure"}


def readers_section(study: Study) -> dict[str, Any] | None:
    """What readers said, as texts, with the chart and the bytes of its file; None without a report on readers."""
    found = read_readers(study.described.folder) if study.described else None
    if found is None:
        return None
    readers, data = found
    return {
        "rows": [_row(reader) for reader in readers.readers],
        "agreement": _agreement(readers),
        "note": _set_note(study, readers.store.synthetic_digest, readers.set_digests),
        "chart": readers_figure(readers.readers),
        "file": FILE,
        "data": data,
    }


def _row(reader: Reader) -> dict[str, Any]:
    blinded, curated = reader.blinded, reader.curate
    none = {"share": NONE, "rest": ""}
    return {
        "name": shown(reader.name),
        "blinded": str(blinded.right.n) if blinded else NONE,
        "shares": [_texts(part) for part in (blinded.right, blinded.synthetic, blinded.real)]
        if blinded
        else [none] * 3,
        "always": f"{100 * blinded.always_one_answer:.1f}" if blinded else NONE,
        "curated": str(curated.remove.n) if curated else NONE,
        "removed": _texts(curated.remove) if curated else none,
        "seconds": " / ".join(
            NONE if part.median is None else f"{part.median:.1f}"
            for part in (reader.seconds.blinded, reader.seconds.curate)
        ),
    }


def _texts(found: Share) -> dict[str, str]:
    """The share in %, and its interval or why there is none."""
    if found.value is None or found.low is None or found.high is None:
        return {"share": NONE, "rest": found.why or ""}
    return {"share": f"{100 * found.value:.1f}", "rest": f"{100 * found.low:.1f} to {100 * found.high:.1f}"}


def _agreement(readers: Readers) -> str:
    """Fleiss' kappa of each task that was read."""
    parts = []
    for task, words in _TASKS.items():
        everyone = getattr(readers.agreement, task).all
        if everyone.readers:
            parts.append(f"{words}: {_kappa(everyone.kappa)}")
    return f"Fleiss’ kappa over the images that all readers of a task read; {'; '.join(parts)}."


def _kappa(found: Kappa) -> str:
    images = f"{found.n} image{'' if found.n == 1 else 's'}"
    if found.value is None:
        return f"{NONE} ({found.why})"
    if found.low is None or found.high is None:
        return f"{_signed(found.value)} ({images}; {found.why})"
    return f"{_signed(found.value)} ({_signed(found.low)} to {_signed(found.high)}; {images})"


def _signed(value: float) -> str:
    text = f"{value:.2f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def _set_note(study: Study, digest: str | None, later: Sequence[str]) -> str | None:
    """A sentence if the readers saw another set than the study's. ``later``: what the set that they saw became."""
    summaries = [*(run.summary for run in study.cls), *(run.summary for run in study.synth)]
    own = sorted({str(of) for each in summaries if (of := each.get("shards", {}).get("synthetic"))})
    if not {digest, *later}.isdisjoint(own):
        return None
    used = (
        f"those of this study are {', '.join(each[:DIGITS] for each in own)}"
        if own
        else "this study has none"
    )
    saw = f"The readers saw another synthetic set ({shown(digest or 'unknown')[:DIGITS]}); {used}."
    return saw if later else f"{saw} If theirs became it by a review, give cxrdist review report its --set."
