"""study.json: what a study compares, which ``cxrdist study`` writes beside its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrdist.errors import UserError
from cxrdist.files import read_json
from cxrdist.study.report.reading.runs import Description, relative

STUDY = "study.json"


def read_description(runs: Sequence[Path]) -> tuple[Description | None, list[str]]:
    """The description of the study that run folders lie in, and a sentence if it cannot be used.

    None if there is no study.json beside the runs or one folder above (runs of folds), or several. Raises UserError
    for a file that is not one.
    """
    places = dict.fromkeys(
        folder / STUDY
        for run in runs
        for folder in (run.resolve().parent, run.resolve().parent.parent)
        if (folder / STUDY).is_file()
    )
    if not places:
        return None, []
    if len(places) > 1:
        names = ", ".join(relative(place.parent) for place in places)
        return None, [f"The runs are of several studies ({names}), so none of their {STUDY} is used."]
    (place,) = places
    return _description(read_json(place), place), []


def _description(found: Any, place: Path) -> Description:
    try:
        arms: Sequence[Mapping[str, Any]] = found["arms"]
        margin = float(found["margin_points"])
        if not 0 < margin < math.inf:
            raise ValueError(f"margin_points must be more than 0, not {margin}")
        return Description(
            folder=place.parent,
            name=str(found["name"]),
            reference=str(found["reference"]),
            margin_points=margin,
            arms=tuple(str(arm["name"]) for arm in arms),
            synthetic=frozenset(str(arm["name"]) for arm in arms if arm["synthetic"]),
            about={str(arm["name"]): str(arm.get("about", "")) for arm in arms},
            chosen_rates={str(arm): float(rate) for arm, rate in found.get("chosen_rates", {}).items()},
            searched_rates=tuple(float(rate) for rate in found.get("learning_rates", ())),
            budget=found.get("budget"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{place}: no description of a study ({type(error).__name__}: {error}); run `cxrdist study` again, or "
            "remove the file"
        ) from error
