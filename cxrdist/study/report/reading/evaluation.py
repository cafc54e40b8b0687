"""The evaluation of a GAN run, read from the files of launch/evaluate_gan.py, and what the report shows of it.

<run>/evaluation.json, <run>/<model>/nearest/<class>-<space>.png
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrdist.errors import UserError
from cxrdist.files import read_json, slug
from cxrdist.study.report.reading.runs import number

EVALUATION = "evaluation.json"
_PREFERRED = "classifier"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A metric of the generated images, and its floor: the same metric of real images. None: not measured."""

    value: float | None
    floor: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """The metrics of one class, or of all classes together."""

    name: str
    checkpoint: int | None
    """Images that had been trained on at the checkpoint that was chosen; None if unknown."""
    generated: int | None
    """Images that KID compares."""
    real: int | None
    kid: Figure
    recall: Figure
    coverage: Figure
    copies: Figure
    """Share of images that are as close to a training image as the closest 1 % of held-out images are."""
    picture: Path | None
    """The closest pairs: generated image, nearest training image, in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All models of a GAN run in one feature space."""

    split: str
    """Split of the real images that were compared with."""
    space: str
    """Feature space: the classifier's, if it was used."""
    is_current: bool
    """The evaluated weights are those that the run exports now."""
    classes: tuple[ClassFigures, ...]
    overall: ClassFigures | None


def read_evaluation(run: Path) -> Evaluation | None:
    """The evaluation of a finished GAN run; None if there is none. A metric that is missing from the file is None.

    Raises UserError if the file, or the run's summary, is no JSON object.
    """
    if not (run / EVALUATION).is_file() or not (run / "summary.json").is_file():
        return None
    found, summary = _object(run / EVALUATION), _object(run / "summary.json")
    models = _mapping(found, "models")
    spaces = [
        space
        for m in models.values()
        for c in _mapping(m, "classes").values()
        for space in _mapping(c, "spaces")
    ]
    space = _PREFERRED if _PREFERRED in spaces or not spaces else spaces[0]
    exported = {slug(name): m.get("weights_sha256") for name, m in _mapping(summary, "models").items()}
    evaluated = {folder: _mapping(m, "best").get("weights_sha256") for folder, m in models.items()}
    overall = _mapping(found, "overall")
    return Evaluation(
        split=str(found.get("split", "")),
        space=space,
        is_current=exported == evaluated and None not in evaluated.values(),
        classes=tuple(
            _figures(name, figures, space, _mapping(model, "best").get("images"), run / folder / "nearest")
            for folder, model in models.items()
            for name, figures in _mapping(model, "classes").items()
        ),
        overall=_figures("all classes", {"spaces": overall}, space) if overall else None,
    )


def _figures(
    name: str,
    found: Mapping[str, Any],
    space: str,
    checkpoint: object = None,
    pictures: Path | None = None,
) -> ClassFigures:
    compared = _mapping(_mapping(found, "spaces"), space)
    copies = _mapping(_mapping(found, "copies"), space)
    picture = pictures / f"{slug(name)}-{slug(space)}.png" if pictures else None
    kid = _mapping(compared, "kid")
    return ClassFigures(
        name=name,
        checkpoint=checkpoint if isinstance(checkpoint, int) else None,
        generated=kid.get("n_generated"),
        real=kid.get("n_real"),
        kid=_figure(kid),
        recall=_figure(_mapping(compared, "recall")),
        coverage=_figure(_mapping(compared, "coverage")),
        copies=Figure(value=number(copies.get("share")), floor=number(copies.get("floor"))),
        picture=picture if picture and picture.is_file() else None,
    )


def _figure(found: Mapping[str, Any]) -> Figure:
    return Figure(value=number(found.get("value")), floor=number(found.get("floor")))


def _mapping(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = found.get(key)
    return value if isinstance(value, Mapping) else {}


def _object(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; run the job again, or remove the file")
    return content
