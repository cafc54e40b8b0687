"""What an import knows before it writes: classes, patients and splits of the images that are used.

records -> classes (labels.assign) -> patients -> splits
                                          ^
                    near-duplicate films as one patient, where asked
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cxrdist.console import say
from cxrdist.data.deidentify import PUBLIC_PHANTOM_SALT, Salt, load_salt
from cxrdist.data.importers.common.base import Importer, Record
from cxrdist.data.ingest.fingerprints import FingerprintTable, count_groups, one_patient_each, tell
from cxrdist.data.ingest.labels import Labelling, assign
from cxrdist.data.ingest.options import IngestOptions
from cxrdist.data.ingest.provenance import patient_of, provenance_of
from cxrdist.data.ingest.report import print_rules, print_table
from cxrdist.data.ingest.split import TRAIN_VAL, official_split, split_patients
from cxrdist.data.ingest.tasks import HashTask, hash_images
from cxrdist.data.shards.manifest import SPLITS, Stratum, check_classes
from cxrdist.data.shards.schema import check_provenance
from cxrdist.data.shards.write_pool import UndecodableSource, work
from cxrdist.errors import UserError

NO_OFFICIAL_SPLIT = "in none of the source's own splits"
IMAGES_PER_HASH_TASK = 256


@dataclass
class Prepared:
    """The images that are used, each with its class and split; lists of one length."""

    salt: Salt
    labelling: Labelling
    records_read: int
    records: list[Record]
    labels: list[str]
    splits: list[str]
    dedup: bool
    provenance: dict[str, Any]
    near_duplicates: dict[str, int] | None = None
    """What the manifest keeps of near-duplicate films; None while nobody has looked."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labelling.classes

    def check_still_covered(self, rows: Mapping[Stratum, list[dict[str, Any]]]) -> None:
        """Raises UndecodableSource where a class has no image left in a split."""
        for name in self.classes:
            for split in SPLITS:
                if not rows.get(Stratum(split, name, "real")):
                    raise UndecodableSource(
                        f"{name}: no image of its {split} split decodes; repair the download; nothing was written"
                    )


def prepare(importer: Importer, options: IngestOptions) -> Prepared:
    """All that the source's tables tell. Raises UserError for input that is not right; writes nothing."""
    if options.size > importer.largest_size:
        raise UserError(
            f"--size {options.size}: {importer.release} gives at most {importer.largest_size} pixels"
        )
    salt = Salt(PUBLIC_PHANTOM_SALT) if importer.is_phantom else load_salt(options.salt_file)
    say(f"reading {importer.release}")
    records = list(importer.records())
    way = split_way(importer, records, options)
    if way == "official":
        records = [r if r.split or r.left_out else replace(r, left_out=NO_OFFICIAL_SPLIT) for r in records]
    labelling = assign(
        records, options.label_rule, importer.targets, importer.normal, options.classes or None
    )
    check_classes(labelling.classes)
    chosen = [(record, label) for record, label in zip(records, labelling.label) if label is not None]
    used, labels = [record for record, _ in chosen], [label for _, label in chosen]
    is_unknown = not all(record.patient_id for record in used)
    is_drawn = way == "drawn" or TRAIN_VAL in said_splits(used)
    if options.dedup and not is_drawn:
        raise UserError(
            "--dedup: the source's own split is taken as it is; take --split drawn, or leave it away"
        )
    asked = is_unknown and options.find_duplicates if options.dedup is None else options.dedup
    dedup = is_drawn and asked and not importer.is_phantom  # whose patients are known
    # Also drawn before the images are looked at: what can't be split is told at once.
    splits = splits_of(used, [patient_of(record) for record in used], labels, way, options)
    provenance = provenance_of(importer, options, way, dedup, salt, labelling, used, labels)
    check_provenance(provenance, f"import {importer.name}")
    return Prepared(salt, labelling, len(records), used, labels, splits, dedup, provenance)


def settle_splits(
    prepared: Prepared, importer: Importer, options: IngestOptions, give_up: Callable[[], None]
) -> None:
    """Look for near-duplicate films where asked, draw the splits again so that they are not parted, and print what
    is to be imported. Raises UserError, after ``give_up``, where too few patients are left for the splits."""
    unknown = sum(not record.patient_id for record in prepared.records)
    if prepared.dedup:
        groups = looked_at(importer, options, prepared.records)
        prepared.records, together = one_patient_each(prepared.records, groups)
        way = prepared.provenance["options"]["split"]
        try:
            prepared.splits = splits_of(prepared.records, together, prepared.labels, way, options)
        except UserError as error:
            give_up()
            raise UserError(f"with near-duplicate films as one patient: {error}") from None
        prepared.near_duplicates = asdict(count_groups(groups, prepared.splits))
        tell(groups, prepared.records, prepared.splits, way)
    print_table(prepared.records_read, prepared.labelling, prepared.labels, prepared.splits)
    print_rules(prepared.provenance, unknown)


def looked_at(importer: Importer, options: IngestOptions, records: list[Record]) -> list[int]:
    """For each image the lowest index among those that show the same film."""
    table = FingerprintTable(len(records))
    starts = range(0, len(records), IMAGES_PER_HASH_TASK)
    tasks = [
        HashTask(start, options.size, options.fit, importer, records[start : start + IMAGES_PER_HASH_TASK])
        for start in starts
    ]
    title = "looking for near-duplicates"
    for task, hashes in work(hash_images, tasks, title, len(records), options.workers, in_process=False):
        table.put(task.start, hashes)
    return table.groups("comparing films")


def split_way(importer: Importer, records: list[Record], options: IngestOptions) -> str:
    """ "drawn" or "official". Raises UserError where an official split is asked for and the source has none."""
    is_said = any(record.split for record in records)
    if options.split == "official" and not is_said:
        raise UserError(f"--split official: {importer.release} {importer.no_official_split}")
    return options.split or (importer.default_split if is_said else "drawn")


def splits_of(
    records: list[Record], together: list[str], labels: list[str], way: str, options: IngestOptions
) -> list[str]:
    """``together``: whom a drawn split keeps on one side, a patient or all who share a film."""
    if way == "official":
        patients = [patient_of(record) for record in records]
        said = said_splits(records)
        return official_split(patients, labels, said, together, val=options.val, seed=options.seed)
    return split_patients(together, labels, val=options.val, test=options.test, seed=options.seed)


def said_splits(records: list[Record]) -> list[str]:
    """What the source says of each image; where it only tells test apart, the others are train-val."""
    said = [record.split or "" for record in records]
    if "val" in said:
        return said
    return [TRAIN_VAL if split == "train" else split for split in said]
