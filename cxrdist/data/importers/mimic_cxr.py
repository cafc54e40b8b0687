"""MIMIC-CXR-JPG 2.0.0 and 2.1.0 (Johnson et al., PhysioNet 2019 and 2024), in the layout of PhysioNet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cxrdist.data.importers.common.attributes import attributes, patient_name
from cxrdist.data.importers.common.base import Record
from cxrdist.data.importers.common.chexpert_labels import OBSERVATIONS, CheXpertLabelled, Labels
from cxrdist.data.importers.common.inner_paths import plain_name
from cxrdist.data.importers.common.tables import cell, find_table, merged, rows_of
from cxrdist.errors import UserError, check_choice, nearest

Labeler = Literal["chexpert", "negbio"]
LABELERS = get_args(Labeler)
SPLITS = {"train": "train", "validate": "val", "test": "test"}
NO_LABELS = "no report labels"
# All others (oblique, decubitus, axial, swimmer's: a handful) are neither.
VIEW_OF = {
    "PA": "frontal",
    "AP": "frontal",
    "LATERAL": "lateral",
    "LL": "lateral",
    "XTABLE LATERAL": "lateral",
    "": "unknown",
}


@dataclass(frozen=True, kw_only=True)
class MimicCxrJpg(CheXpertLabelled):
    """Import MIMIC-CXR-JPG: mimic-cxr-2.0.0-metadata.csv, mimic-cxr-2.0.0-chexpert.csv (or -negbio.csv) and files/,
    as released. Tables may be .csv.gz and of any version.

    All images of a study have its labels. ``--split official`` needs mimic-cxr-2.0.0-split.csv beside the tables. The
    tables have neither sex nor age. Frontal views are PA and AP, lateral views are LATERAL, LL and XTABLE LATERAL;
    the few images of other views are kept with ``--views all`` only.
    """

    labeler: Labeler = "chexpert"
    """The labeler that read the reports: chexpert or negbio."""
    keep_unknown_views: bool = False
    """Keep images without a ViewPosition (about 4 %); their view is unknown."""

    name = "mimic-cxr-jpg"
    release = "MIMIC-CXR-JPG"
    example = (
        "cxrdist import mimic-cxr-jpg --root ~/mimic-cxr-jpg --out shards/mimic --size 64 --split official"
    )
    no_official_split = (
        "has mimic-cxr-2.0.0-split.csv for it, which is missing beside the table: copy it there, or remove the "
        "option"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("labeler", self.labeler, LABELERS)

    def records(self) -> Iterator[Record]:
        return merged(self._rows())

    def _rows(self) -> Iterator[tuple[str, Record]]:
        root = Path(self.root)
        metadata = find_table(root, *_names(root, "metadata"))
        labels_of = self._study_labels(root)
        split_of = _official_split(root)
        for where, row in rows_of(metadata, ("dicom_id", "subject_id", "study_id", "ViewPosition")):
            image = plain_name(cell(row, "dicom_id", where), "dicom_id", where)
            # Tables that pandas saved again may have 10000032.0.
            subject, study = (
                plain_name(patient_name(cell(row, column, where), where), column, where)
                for column in ("subject_id", "study_id")
            )
            labels = labels_of.get((subject, study), Labels((), (), NO_LABELS))
            left_out = self._left_out_position(row["ViewPosition"])
            yield (
                where,
                Record(
                    source_id=image,
                    findings=labels.findings,
                    uncounted=labels.uncounted,
                    left_out=left_out,
                    no_class=None if left_out else labels.no_class,
                    split=split_of.get(image),
                    file=f"files/p{subject[:2]}/p{subject}/s{study}/{image}.jpg",
                    **attributes(where, patient=subject, view=row["ViewPosition"]),
                ),
            )

    def _left_out_position(self, position: str) -> str | None:
        if not position and self.keep_unknown_views:
            return None
        return self.left_out_view(VIEW_OF.get(position, "other"))

    def _study_labels(self, root: Path) -> dict[tuple[str, str], Labels]:
        """(subject, study) -> the labels of the study."""
        table = find_table(root, *_names(root, self.labeler))
        labels_of: dict[tuple[str, str], Labels] = {}
        for where, row in rows_of(table, ("subject_id", "study_id", *OBSERVATIONS)):
            subject, study = (
                patient_name(cell(row, column, where), where) for column in ("subject_id", "study_id")
            )
            labels = self.labels_of(row, where)
            if labels_of.setdefault((subject, study), labels) != labels:
                raise UserError(f"{where}: study {study} is listed twice, with other labels; remove one line")
        return labels_of


def _names(root: Path, kind: str) -> list[str]:
    """The names of a table's versions in ``root``, the newest first; that of 2.0.0 if there is none."""
    pattern = re.compile(rf"(mimic-cxr-([0-9.]+)-{kind}\.csv)(?:\.gz)?")
    found = {
        match[1]: [int(n) for n in match[2].split(".") if n]
        for path in root.glob("mimic-cxr-*")
        if (match := pattern.fullmatch(path.name))
    }
    return sorted(found, key=lambda name: found[name], reverse=True) or [f"mimic-cxr-2.0.0-{kind}.csv"]


def _official_split(root: Path) -> dict[str, str]:
    """Image -> train, val or test; empty without the release's split table."""
    split_of: dict[str, str] = {}
    names = _names(root, "split")
    if not any((root / f"{name}{end}").is_file() for name in names for end in ("", ".gz")):
        return split_of
    for where, row in rows_of(find_table(root, *names), ("dicom_id", "split")):
        split = cell(row, "split", where)
        if split not in SPLITS:
            raise UserError(f"{where}: unknown split {split!r}{nearest(split, SPLITS)}")
        if split_of.setdefault(cell(row, "dicom_id", where), SPLITS[split]) != SPLITS[split]:
            raise UserError(f"{where}: {row['dicom_id']} is in two splits; download the table again")
    return split_of
