"""What an import decides before it writes: which images are used, with which class, in which split.

records -> classes (labels.assign) -> patients -> splits
                                          ^
                    near-duplicate films count as one patient, on request

With ``keep_unlabelled``, usable images without a class follow the others, in the train split: those of patients with
no image in val or test. They do not change the splits of the others.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from cxrdist.console import say
from cxrdist.data.deidentify import PUBLIC_PHANTOM_SALT, Salt, load_salt
from cxrdist.data.imaging.faults import RefusedSource
from cxrdist.data.importers.common.base import Importer, Record
from cxrdist.data.importers.common.texts import composed
from cxrdist.data.ingest.fingerprints import (
    FingerprintTable,
    one_patient_each,
    report_near_duplicates,
    restricted,
)
from cxrdist.data.ingest.labels import Labelling, assign
from cxrdist.data.ingest.options import IngestOptions
from cxrdist.data.ingest.records import check_missing, with_class_names, without_missing
from cxrdist.data.ingest.splits.drawn import split_patients
from cxrdist.data.ingest.splits.folds import fold_split
from cxrdist.data.ingest.splits.kept import EarlierSplits, earlier_splits
from cxrdist.data.ingest.splits.official import TRAIN_VAL, official_split, official_splits
from cxrdist.data.ingest.tasks import HashTask, hash_images
from cxrdist.data.shards.index import ShardRow
from cxrdist.data.shards.manifest import Stratum, check_classes
from cxrdist.data.shards.schema import SPLITS, UNLABELLED, UNLABELLED_INDEX
from cxrdist.data.shards.writing.write_pool import work
from cxrdist.errors import OptionError, UserError

NO_OFFICIAL_SPLIT = "in none of the source's own splits"
IMAGES_PER_HASH_TASK = 256

log = logging.getLogger(__name__)


class SplitError(UserError):
    """With near-duplicate films as one patient, too few patients are left for the splits."""


@dataclass(frozen=True, kw_only=True)
class ImportPlan:
    """The images that an import uses, each with its class and split.

    ``records``, ``labels`` and ``splits`` are parallel lists. Images without a class come last; their label is
    ``UNLABELLED``, their split is train.
    """

    salt: Salt
    earlier: EarlierSplits | None
    """Splits that patients keep."""
    labelling: Labelling
    records_read: int
    """Records of the source, used or left out."""
    left_out: dict[str, int]
    """Reason -> records left out. Candidates are not among them."""
    candidates: list[Record] | None
    """The usable images without a class, also those of patients in val or test; None without ``keep_unlabelled``."""
    held_out: set[str]
    """Patients with images in the source's own val or test split, if that is used."""
    records: list[Record]
    labels: list[str]
    splits: list[str]
    split_way: str
    """How the splits are made: "drawn" or "official"."""
    finds_duplicates: bool
    """Compare all images, and report near-duplicate films."""
    dedup: bool
    """Compare them before the split is drawn, and keep near-duplicates in one split."""
    unknown_patients: int
    """Images that name no patient in the source."""
    near_duplicates: dict[str, int] | None = None
    """The entry in the manifest; None if the images have not been compared."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labelling.classes

    @property
    def labelled(self) -> int:
        """Number of images with a class."""
        return len(self.labels) - self.unlabelled

    @property
    def unlabelled(self) -> int:
        """Number of images without a class."""
        return self.labels.count(UNLABELLED)

    @property
    def unlabelled_counts(self) -> dict[str, int] | None:
        """The entry in the manifest; None without ``keep_unlabelled``."""
        if self.candidates is None:
            return None
        return {"candidates": len(self.candidates), "held_out": len(self.candidates) - self.unlabelled}

    def class_index(self, class_name: str) -> int:
        return UNLABELLED_INDEX if class_name == UNLABELLED else self.classes.index(class_name)

    @property
    def makes_hashes(self) -> bool:
        """True if perceptual hashes are computed as the images are written."""
        return self.finds_duplicates and self.near_duplicates is None

    def check_still_covered(self, rows: Mapping[Stratum, list[ShardRow]]) -> None:
        """Raises RefusedSource if a class has no image left in a split."""
        for name in self.classes:
            for split in SPLITS:
                if not rows.get(Stratum(split, name, "real")):
                    raise RefusedSource(
                        f"{name}: no image of its {split} split decodes; repair the download; nothing was written"
                    )


def plan_import(importer: Importer, options: IngestOptions) -> ImportPlan:
    """Read the source's tables, assign classes and draw splits. Decodes no image and writes nothing.

    Raises UserError for invalid tables or options.
    """
    if options.size > importer.largest_size:
        raise OptionError(
            "size",
            f"must be at most {importer.largest_size} pixels for {importer.release}, not {options.size}",
        )
    salt = Salt(PUBLIC_PHANTOM_SALT) if importer.is_phantom else load_salt(options.salt_file)
    salt = replace(salt, source=options.source_name)
    earlier = None if options.keep_split is None else earlier_splits(options.keep_split, salt)
    say(importer.activity or f"reading {importer.release}")
    records = list(importer.records())
    if options.missing == "skip":
        records = without_missing(importer, records)
    way = split_way(importer, records, options)
    if importer.added_splits:
        records = replace_drawn(importer, records, options, earlier)
    if way == "official":
        records = [r if r.split or r.left_out else replace(r, left_out=NO_OFFICIAL_SPLIT) for r in records]
    records, targets = with_class_names(records, importer.targets, options.class_map)
    classes = tuple(map(composed, options.classes)) or None
    labelling = assign(records, options.label_rule, targets, importer.normal, classes)
    check_classes(labelling.classes)
    chosen = [(record, label) for record, label in zip(records, labelling.label) if label is not None]
    used, labels = [record for record, _ in chosen], [label for _, label in chosen]
    left_out = labelling.left_out
    candidates = None
    if options.keep_unlabelled:
        no_class = [record for record, label in zip(records, labelling.label) if label is None]
        candidates = [record for record in no_class if record.left_out is None]
        left_out = dict(sorted(Counter(r.left_out for r in no_class if r.left_out is not None).items()))
    dedup = needs_dedup(importer, used, candidates or [], way, options)
    # Drawn also if the images are compared first: data that cannot be split is reported at once.
    if importer.added_splits:
        splits = [str(record.split) for record in used]
    else:
        with telling(left_out):
            splits = splits_of(used, patients_of(used), labels, way, options, earlier)
    is_held_out = ("val", "test") if way == "official" else ()
    plan = ImportPlan(
        salt=salt,
        earlier=earlier,
        labelling=labelling,
        records_read=len(records),
        left_out=left_out,
        candidates=candidates,
        held_out={record.patient for record in records if record.split in is_held_out},
        records=used,
        labels=labels,
        splits=splits,
        split_way=way,
        finds_duplicates=options.find_duplicates and not importer.is_phantom,
        dedup=dedup,
        unknown_patients=sum(not record.patient_id for record in used),
    )
    if options.missing == "stop":
        check_missing(importer, records)
    if candidates is None:
        return plan
    everyone = [*used, *candidates]
    return with_unlabelled(plan, chosen_candidates(plan, everyone, patients_of(everyone)), candidates)


@contextmanager
def telling(left_out: Mapping[str, int]) -> Iterator[None]:
    """Warn of what has been left out if the ``with`` block refuses the rest: that may be why so little is left."""
    try:
        yield
    except UserError:
        for reason, count in left_out.items():
            log.warning("%s images: left out, %s", f"{count:,}", reason)
        raise


def replace_drawn(
    importer: Importer, records: list[Record], options: IngestOptions, earlier: EarlierSplits | None
) -> list[Record]:
    """All records with a split: that of an additional image, or the one that is drawn.

    Records drawn into one of ``importer.added_splits`` are left out. Raises OptionError if the size of such a split
    is also given as --val or --test, or if the splits are folds.
    """
    for split in importer.added_splits:
        if options.folds is not None:
            raise OptionError(
                f"{split}_images", f"--folds makes {split} one of the folds; remove one of the two options"
            )
        if getattr(options, split) != getattr(IngestOptions, split):
            raise OptionError(
                split, f"--{split}-images sets the number of {split} images; remove one of the two options"
            )
    drawn = [record for record in records if not record.split]
    labels = [str(record.label) for record in drawn]
    splits = iter(splits_of(drawn, [record.patient for record in drawn], labels, "drawn", options, earlier))
    whole = [record if record.split else replace(record, split=next(splits)) for record in records]
    return [
        replace(old, left_out=f"{new.split} image replaced by --{new.split}-images")
        if not old.split and new.split in importer.added_splits
        else new
        for old, new in zip(records, whole)
    ]


def patients_of(records: Sequence[Record]) -> list[str]:
    return [record.patient for record in records]


def chosen_candidates(plan: ImportPlan, records: Sequence[Record], together: Sequence[str]) -> list[int]:
    """Numbers of the candidates that may be trained on: no image of their group is in val or test.

    ``records``: the labelled ones of the plan, then the candidates; ``together`` names the group of each: its
    patient, or several patients who share a film.
    """
    held_out = {group for group, split in zip(together, plan.splits) if split != "train"}
    held_out |= {group for group, record in zip(together, records) if record.patient in plan.held_out}
    return [i for i, group in enumerate(together[len(plan.splits) :]) if group not in held_out]


def with_unlabelled(plan: ImportPlan, chosen: Sequence[int], candidates: Sequence[Record]) -> ImportPlan:
    """The plan with the chosen ones of its candidates as unlabelled images."""
    added = [candidates[i] for i in chosen]
    return replace(
        plan,
        records=[*plan.records, *added],
        labels=[*plan.labels, *[UNLABELLED] * len(added)],
        splits=[*plan.splits, *["train"] * len(added)],
        unknown_patients=plan.unknown_patients + sum(not record.patient_id for record in added),
    )


def needs_dedup(
    importer: Importer, used: list[Record], candidates: list[Record], way: str, options: IngestOptions
) -> bool:
    """True if near-duplicates are to be found before the split is drawn.

    Raises UserError if --dedup is given and nothing is drawn.
    """
    is_drawn = way == "drawn" or TRAIN_VAL in official_splits(used)
    if options.dedup and not is_drawn:
        raise OptionError(
            "dedup", "the source's own split is used as it is; add --split drawn, or remove this option"
        )
    if options.dedup is None:
        wanted = options.find_duplicates and not all(record.patient_id for record in [*used, *candidates])
    else:
        wanted = options.dedup
    return is_drawn and wanted and not importer.is_phantom  # all patients of the phantom are known


def keep_films_together(plan: ImportPlan, importer: Importer, options: IngestOptions) -> ImportPlan:
    """The plan with its splits drawn again, near-duplicate films as one patient; decodes every image.

    The same plan if it has no ``dedup``. Raises SplitError if too few patients are left for the splits.
    """
    if not plan.dedup:
        return plan
    labelled, labels = plan.records[: plan.labelled], plan.labels[: plan.labelled]
    candidates = plan.candidates or []
    table = film_hashes(importer, options, [*labelled, *candidates])
    groups = table.groups("comparing films", len(labelled))
    records, together = one_patient_each(labelled, groups)
    try:
        with telling(plan.left_out):
            splits = splits_of(records, together, labels, plan.split_way, options, plan.earlier)
    except UserError as error:
        raise SplitError(f"with near-duplicate films as one patient: {error}") from None
    plan = replace(plan, records=records, labels=labels, splits=splits)
    if candidates:
        # Compared again with the candidates: they may show the film of a labelled image, but must not change the
        # splits of those.
        groups = table.groups("comparing films")
        everyone, together = one_patient_each([*records, *candidates], groups)
        chosen = chosen_candidates(plan, everyone, together)
        plan = with_unlabelled(plan, chosen, everyone[len(records) :])
        groups = restricted(groups, [*range(len(records)), *(len(records) + i for i in chosen)])
    near_duplicates = report_near_duplicates(groups, plan.records, plan.splits, plan.split_way)
    return replace(plan, near_duplicates=near_duplicates)


def film_hashes(importer: Importer, options: IngestOptions, records: list[Record]) -> FingerprintTable:
    """The hash of each image, in the order of the records."""
    table = FingerprintTable(len(records))
    starts = range(0, len(records), IMAGES_PER_HASH_TASK)
    tasks = [
        HashTask(start, options.size, options.fit, importer, records[start : start + IMAGES_PER_HASH_TASK])
        for start in starts
    ]
    title = "looking for near-duplicates"
    for task, hashes in work(hash_images, tasks, title, len(records), options.workers, in_process=False):
        table.put(task.start, hashes)
    return table


def split_way(importer: Importer, records: list[Record], options: IngestOptions) -> str:
    """Return "drawn" or "official". Raises UserError for --split official if the source has no split of its own."""
    has_split = any(record.split for record in records) and not importer.added_splits
    if options.split == "official" and not has_split:
        raise OptionError("split", f"official, but {importer.release} {importer.no_official_split}")
    return options.split or (importer.default_split if has_split and options.folds is None else "drawn")


def splits_of(
    records: list[Record],
    together: list[str],
    labels: list[str],
    way: str,
    options: IngestOptions,
    earlier: EarlierSplits | None = None,
) -> list[str]:
    """The split of each image.

    ``together`` names for each image the group that a drawn split keeps in one split: a patient, or several patients
    who share a film. Raises UserError if the images cannot be split.
    """
    if way == "official":
        patients = [record.patient for record in records]
        official = official_splits(records)
        return official_split(patients, labels, official, together, val=options.val, seed=options.seed)
    if options.folds is not None and options.fold is not None:
        return fold_split(together, labels, folds=options.folds, fold=options.fold, seed=options.seed)
    kept = earlier.kept(records, together) if earlier is not None else {}
    return split_patients(together, labels, val=options.val, test=options.test, seed=options.seed, kept=kept)
