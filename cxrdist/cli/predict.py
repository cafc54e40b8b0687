"""``cxrdist predict`` and ``cxrdist export``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cxrdist.config.parser import parse
from cxrdist.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Classify files, folders, DICOM files or shard sets with trained classifiers, and write a CSV of probabilities.

    Several runs are an ensemble: the mean of their probabilities.
    """

    paths: tuple[str, ...]
    """Image files (PNG, JPEG, DICOM, npy), folders with such files, or shard sets."""
    run: tuple[str, ...]
    """Folders of finished runs of train_cls.py, or exported classifiers."""
    out: str = "predictions.csv"
    """The CSV: image, label, predicted, a probability per class, error."""
    splits: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
    """Splits of a shard set to classify."""
    explain: str | None = None
    """Folder for a Grad-CAM picture of each image, of its predicted class (needs the extra `explain`)."""
    allow_code: bool = False
    """Load a network that a module of yours builds (package.module:build), which runs its code."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""

    def __post_init__(self) -> None:
        for name in ("paths", "run"):
            if not getattr(self, name):
                raise OptionError(name, "must name at least one")


def predict(argv: Sequence[str]) -> None:
    options = parse(
        Predict,
        argv,
        prog="cxrdist predict",
        example="cxrdist predict --run runs/cls-ds3-seed0 films/ --out predictions.csv --explain cams/",
        positional=("paths",),
    )
    import torch

    from cxrdist.cls.prediction.explain import Explainer
    from cxrdist.cls.prediction.predict import check_same, open_source, predict
    from cxrdist.cls.prediction.probabilities import csv_of
    from cxrdist.files import write_atomic
    from cxrdist.models import load_classifier

    cuda = torch.cuda.is_available() if options.device == "auto" else options.device == "cuda"
    classifiers = [load_classifier(run, allow_code=options.allow_code) for run in options.run]
    check_same(classifiers, options.run)
    explainer = Explainer(classifiers[0], Path(options.explain)) if options.explain else None
    found = predict(
        classifiers,
        [open_source(place, options.splits) for place in options.paths],
        device=torch.device("cuda" if cuda else "cpu"),
        explain=explainer,
    )
    write_atomic(Path(options.out), csv_of(found))
    counts = Counter(found.classes[int(row.argmax())] for row in found.probabilities if row is not None)
    shares = ", ".join(f"{name} {counts[name]:,}" for name in found.classes if counts[name])
    print(f"{options.out}: {sum(counts.values()):,} images classified ({shares or 'none'})")
    if found.unread:
        first = found.unread[0]
        print(
            f"{len(found.unread):,} could not be read, such as {first.name}: {first.error}; see the column error"
        )
    if explainer is not None:
        print(f"{options.explain}: a Grad-CAM picture of each, listed in {options.explain}/pictures.csv")


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained classifier for use elsewhere: its safetensors and model.json, and optionally ONNX."""

    run: str
    """Folder of a finished run of train_cls.py."""
    out: str
    """Folder for model.safetensors and model.json."""
    onnx: bool = False
    """Also write model.onnx (uint8 pixels [N, 1, H, W] to probabilities), checked against torch (needs the extra
    `onnx`)."""
    allow_code: bool = False
    """Load a network that a module of yours builds (package.module:build), which runs its code."""


def export(argv: Sequence[str]) -> None:
    options = parse(
        Export,
        argv,
        prog="cxrdist export",
        example="cxrdist export runs/cls-ds3-seed0 --out classifier --onnx",
        positional=("run",),
    )
    from cxrdist.models import export_classifier, load_classifier

    trained = load_classifier(options.run, allow_code=options.allow_code)
    out = Path(options.out)
    export_classifier(
        out,
        trained.network,
        config=trained.config,
        classes=trained.classes,
        lineage=trained.lineage,
        metrics=trained.metrics,
    )
    print(f"{out}: model.safetensors, model.json: {', '.join(trained.classes)}, {trained.image_size} px")
    if options.onnx:
        from cxrdist.models.onnx import export_onnx

        export_onnx(trained, out / "model.onnx")
        print(
            f"{out / 'model.onnx'}: uint8 [N, 1, {trained.image_size}, {trained.image_size}] to probabilities"
        )
