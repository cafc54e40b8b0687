"""The manifest of a shard set: which strata it has, where they come from, and the digest of all of it.

    SET/
      manifest.json                               written last: without it there is no set
      train-normal-real.<sha256, 12 digits>.json  shard table of one stratum, named by its digest
      train-normal-real-000000.tar                a plain WebDataset shard
      train-normal-real-000000.index.npy          where each image lies in it

A stratum is one class of one origin of one split. The manifest is byte-canonical and carries its own digest, so that
a changed byte anywhere in a set shows: the manifest hashes the tables, a table the tars and indexes. It holds no
path, host, time or process count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, ValidationError, model_validator

from cxrdist.data.imaging.codecs import ENCODINGS
from cxrdist.data.imaging.errors import MAX_PIXELS
from cxrdist.data.imaging.radiograph import EXTERNAL_ENCODINGS, is_external
from cxrdist.data.shards.schema import (
    FORMAT,
    MANIFEST,
    MAX_CLASSES,
    MAX_SLUG_CHARACTERS,
    MIN_SAMPLE_BYTES,
    OTHER_VERSION,
    REMEDY,
    SPLITS,
    UNLABELLED,
    UNLABELLED_INDEX,
    Count,
    Digest,
    FileName,
    Model,
    Origin,
    PositiveCount,
    Problem,
    ShardSetError,
    Split,
    Text,
    first_error,
    holds_control_characters,
    impossible,
    is_text,
    must,
)
from cxrdist.data.storage.store import LocalStore, Store, store_of, write_to
from cxrdist.errors import UserError
from cxrdist.files import SHA256, canonical_json, sha256_bytes, slug


@dataclass(frozen=True, order=True)
class Stratum:
    """One class of one origin of one split: what a tar holds."""

    split: str
    class_name: str
    origin: str

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return f"{self.split}-{slug(self.class_name)}-{self.origin}"


UNLABELLED_STRATUM = Stratum("train", UNLABELLED, "real")


def is_reserved(class_name: str) -> bool:
    """True for a class whose files would have the names of the unlabelled images' files."""
    return slug(class_name) == UNLABELLED


class StratumEntry(Model):
    """A stratum as the manifest lists it."""

    split: Split
    class_name: Text = Field(alias="class")
    origin: Origin
    samples: PositiveCount
    """Without those that were removed."""
    bytes: PositiveCount
    """Of its tars."""
    shards: PositiveCount
    table: FileName
    """The file of its shard table."""
    table_sha256: Digest
    removed: FileName | None = None
    """The file that names the removed samples, see removed.py; this field and the next two are there together, or
    none of them."""
    removed_sha256: Digest | None = None
    removed_samples: PositiveCount | None = None

    @property
    def stratum(self) -> Stratum:
        return Stratum(self.split, self.class_name, self.origin)

    @property
    def tar_samples(self) -> int:
        """Samples that its tars hold: those that are left, and those that were removed."""
        return self.samples + (self.removed_samples or 0)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.tar_samples * MIN_SAMPLE_BYTES > self.bytes:
            raise ValueError(f"{self.tar_samples} samples do not fit into {self.bytes} bytes")
        of_removed = ("removed", "removed_sha256", "removed_samples")
        is_given = not self.model_fields_set.isdisjoint(of_removed)
        if is_given and any(getattr(self, name) is None for name in of_removed):
            raise ValueError(f"expected all of {', '.join(of_removed)}, or none of them")
        return self


def _option(value: Any) -> Any:
    """An option as it is. Not a union of types: pydantic would name those that do not fit within the field's path,
    and might convert the value."""
    if isinstance(value, list):
        is_right = all(isinstance(item, str) for item in value)
    elif isinstance(value, dict):
        is_right = all(type(item) is int for item in value.values())
    else:
        is_right = value is None or isinstance(value, str | int)
        is_right = is_right or (isinstance(value, float) and math.isfinite(value))
    if not is_right:
        raise ValueError(
            "expected text, a number, true, false, null, a list of texts or a mapping to integers"
        )
    return value


KNOWN_ENCODINGS = (*ENCODINGS, *EXTERNAL_ENCODINGS.values())
Encoding = Annotated[str, must(lambda name: name in KNOWN_ENCODINGS, f"one of {', '.join(KNOWN_ENCODINGS)}")]
"""Of the images of a set; ``foreign-*`` for external tars that were indexed in place."""
Option = Annotated[str | int | float | bool | list[str] | dict[str, int] | None, PlainValidator(_option)]


def _number(value: Any) -> Any:
    """A number as it is: pydantic's float would turn 0 into 0.0, which is other JSON."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


Number = Annotated[float, PlainValidator(_number)]


def _are_digests(value: Any) -> bool:
    several = value if isinstance(value, list) else [value]
    return bool(several) and all(isinstance(one, str) and SHA256.fullmatch(one) for one in several)


Digests = Annotated[Any, must(_are_digests, "a SHA-256, or a list of them")]


class ClassGates(Model):
    """What the gates of a synthesis said of the candidates of one class."""

    tried: Count
    """Candidates that were generated."""
    admitted: Count
    """Of them, those that are or were in the set."""
    duplicates: Count = 0
    """Admitted by the gates, but too similar to an earlier image."""
    next_blocks: dict[str, Count] | None = None
    """By the digest of each generator: the first block of 64 images that has not been drawn."""
    coverage: dict[str, Number] | None = None
    """By the digest of each generator."""
    passed: dict[str, Count] | None = None
    """By gate: the candidates that it lets pass."""
    thresholds: dict[str, Number] | None = None
    scores: dict[str, dict[str, list[Number]]] | None = None
    """By gate: the 5th, 25th, 50th, 75th and 95th percentile of the scores of ``synthetic`` candidates and of
    ``real`` validation images."""
    copy_rate: Number | None = None
    """Share of the candidates that the copy gate refuses."""
    copy_null_rate: Number | None = None
    """The same of real validation images."""


class Gates(Model):
    """The gates of a synthesis: how they were set, and what they said."""

    name: Text
    fitted_on: Split | None = None
    """The split of the real set that they compare images with."""
    calibrated_on: Split | None = None
    """The split that their thresholds come from."""
    classifiers: list[Digest] | None = None
    """SHA-256 of the weights of the classifiers that they use."""
    percent: dict[str, Number] | None = None
    """By gate: the percentage of real validation images that it refuses."""
    pooled: list[Text] | None = None
    """Classes with too few validation images for thresholds of their own, which take those of all classes."""
    classes: dict[str, ClassGates]


class Conversion(Model):
    """One run of ``cxrdist shards convert``."""

    source: Text = Field(alias="from")
    """Digest of the set that was converted."""
    size: PositiveCount | None = None
    encoding: Text | None = None
    min_shards: PositiveCount | None = None


class MergedSet(Model):
    """One of the sets that were merged."""

    digest: Digest
    samples: PositiveCount
    release: Text | None


class Edit(Model):
    """One change of a finished set: samples were removed, and its tars stayed as they are."""

    source: Digest = Field(alias="from")
    """Digest that the set had before."""
    removed: Count
    by: Text
    """What removed them: ``review`` ..."""


class Faults(Model):
    """Images of a source with one kind of fault."""

    images: PositiveCount
    example: Text
    """Key of one of them."""


class Provenance(Model):
    """Where a set comes from; any of it may be unknown."""

    importer: Text | None = None
    release: Text | None = None
    is_phantom: bool | None = None
    options: dict[str, Option] | None = None
    source_options: dict[str, Option] | None = None
    salt_fingerprint: Text | None = None
    records_sha256: Digest | None = None
    """Over key, label, split and metadata of all records of the source."""
    left_out: dict[str, Count] | None = None
    """Images by the reason why they were left out."""
    left_out_examples: dict[str, Text] | None = None
    """The key that one of them would have."""
    notes: dict[str, Count] | None = None
    """Images by what there is to know of them."""
    unlabelled: dict[str, Count] | None = None
    """With ``--keep-unlabelled``: the ``candidates`` (images without a class) and, of them, those that are left out
    because their patients have images in val or test (``held_out``)."""
    undecodable: Count | None = None
    undecodable_reasons: dict[str, Faults] | None = None
    """The same by the reason why they do not decode."""
    repairs: dict[str, Faults] | None = None
    """Images of the set by what was repaired to read them; one may count several times."""
    near_duplicates: dict[str, Count] | None = None
    unused_tars: list[FileName] | None = None
    generators: dict[str, Digests] | None = None
    """Synthetic sets: SHA-256 of the weights of each class's generator, or generators."""
    training_data: Text | None = None
    """What the generators learned from: ``train split`` of the real set, or ``unknown``."""
    gates: Gates | None = None
    merged: list[MergedSet] | None = None
    """The sets that ``cxrdist shards merge`` made it of, by digest."""
    converted: list[Conversion] | None = None
    """Oldest first."""
    edited: list[Edit] | None = None
    """Oldest first."""

    def updated(self, fields: Mapping[str, Any]) -> Provenance:
        """A copy with these fields, given as JSON."""
        return Provenance.model_validate({**self.json_value(), **fields})

    def option(self, name: str, default: Any = None) -> Any:
        """An option of the import or the synthesis; ``default`` if it is not known."""
        return (self.options or {}).get(name, default)


class Lineage(Model):
    """What a set descends from; see lineage.py."""

    kind: Literal["real", "synthetic"]
    real_digest: Text | None = None
    """Synthetic sets: digest of the real set that the generators learned from."""
    split: Text | None = None
    """The split that they learned from."""
    real_ancestors: list[Text] | None = None
    """Digests of the sets that the real set was converted from, newest first."""
    generators: dict[str, Digests] | None = None
    ancestors: list[Text] | None = None
    """Digests of the sets that this one was converted from, newest first."""

    @model_validator(mode="after")
    def _synthetic_descends_from_something(self) -> Self:
        if self.kind == "synthetic" and (self.real_digest is None or self.split is None):
            raise ValueError("a synthetic set needs real_digest and split")
        return self


class Manifest(Model):
    """The manifest of a set."""

    format: Literal["cxrdist-shards/1"]
    classes: Annotated[list[Text], Field(min_length=1, max_length=MAX_CLASSES)]
    image_size: Annotated[int, Field(ge=1, le=math.isqrt(MAX_PIXELS))]
    """Side of the square images, in pixels."""
    encoding: Encoding
    strata: list[StratumEntry]
    counts: dict[str, dict[str, dict[str, Count]]]
    """``{split: {class: {origin: samples}}}``."""
    provenance: Provenance
    lineage: Lineage
    digest: Digest
    """SHA-256 of the canonical JSON of all other fields: the digest of the set."""

    @property
    def samples(self) -> int:
        """Without those that were removed."""
        return sum(entry.samples for entry in self.strata)

    @property
    def removed_samples(self) -> int:
        """Samples that the tars hold, and readers leave out."""
        return sum(entry.removed_samples or 0 for entry in self.strata)

    @property
    def earlier_digests(self) -> list[str]:
        """Digests that the set had before samples were removed, newest first."""
        return [edit.source for edit in reversed(self.provenance.edited or [])]

    @property
    def unlabelled(self) -> StratumEntry | None:
        """The stratum of the images without a class, if there is one."""
        return next((entry for entry in self.strata if entry.class_name == UNLABELLED), None)

    def class_index(self, class_name: str) -> int:
        """The class index of a stratum's class."""
        return UNLABELLED_INDEX if class_name == UNLABELLED else self.classes.index(class_name)

    @property
    def is_external(self) -> bool:
        """True if the tars are external ones, indexed where they lie."""
        return is_external(self.encoding)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        strata = [entry.stratum for entry in self.strata]
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a class occurs twice")
        if reserved := next((name for name in self.classes if is_reserved(name)), None):
            raise ValueError(f"classes: {reserved!r} is a reserved name")
        if len(set(strata)) != len(strata):
            raise ValueError("strata: a stratum occurs twice")
        if any(s.class_name == UNLABELLED and s != UNLABELLED_STRATUM for s in strata):
            raise ValueError("strata: unlabelled images must be real and in the train split")
        if unknown := {stratum.class_name for stratum in strata} - {*self.classes, UNLABELLED}:
            raise ValueError(f"strata: {min(unknown)!r} is no class of the set")
        if self.is_external and any(entry.removed for entry in self.strata):
            raise ValueError("strata: no sample of a set indexed in place can be removed")
        return self


def digest_of(manifest: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a manifest without its own ``digest``: the digest of the set."""
    return sha256_bytes(canonical_json({k: v for k, v in manifest.items() if k != "digest"}))


def counts_of(strata: Sequence[StratumEntry], classes: Sequence[str]) -> dict[str, dict[str, dict[str, int]]]:
    """``{split: {class: {origin: samples}}}`` from the strata, in the order of splits and classes; unlabelled images
    are not counted."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for split in SPLITS:
        for name in classes:
            of_class: dict[str, int] = {
                s.origin: s.samples for s in strata if (s.split, s.class_name) == (split, name)
            }
            if of_class:
                counts.setdefault(split, {})[name] = of_class
    return counts


def write_manifest(
    store: Store,
    *,
    classes: Sequence[str],
    image_size: int,
    encoding: str,
    strata: Sequence[StratumEntry],
    provenance: Provenance,
    lineage: Lineage,
) -> Manifest:
    """Write the manifest, which makes the set exist; returns it, digest included. Raises UserError for values that
    readers refuse."""
    strata = sorted(strata, key=lambda s: (SPLITS.index(s.split), s.class_name, s.origin))
    value = {
        "format": FORMAT,
        "classes": [*classes],
        "image_size": image_size,
        "encoding": encoding,
        "strata": [entry.json_value() for entry in strata],
        "counts": counts_of(strata, classes),
        "provenance": provenance.json_value(),
        "lineage": lineage.json_value(),
    }
    value["digest"] = digest_of(value)
    try:
        manifest = checked_manifest(value)
    except ValueError as error:
        raise UserError(f"{store}/{MANIFEST}: not written, since {error}") from None
    write_to(store, MANIFEST, canonical_json(value))
    return manifest


def check_classes(classes: Sequence[str]) -> None:
    """Raises UserError for classes that no set can hold: a name that is no text, too long for a file name or
    reserved, two names that would share files, or too many."""
    if len(classes) > MAX_CLASSES:
        raise UserError(
            f"{len(classes):,} classes: a set holds at most {MAX_CLASSES:,}; choose with --classes"
        )
    seen: dict[str, str] = {}
    for name in classes:
        if not is_text(name):
            raise UserError(f"class {name!a}: a class needs a name without control characters; rename it")
        if is_reserved(name):
            raise UserError(
                f"class {name!r}: the name is reserved for images without a class; rename it, or leave it out with "
                "--classes"
            )
        if len(slug(name)) > MAX_SLUG_CHARACTERS:
            raise UserError(
                f"class {name[:40]!r}...: its name in file names would have {len(slug(name))} characters, of which "
                f"{MAX_SLUG_CHARACTERS} fit; rename it"
            )
        if other := seen.get(slug(name)):
            raise UserError(
                f"classes {other!r} and {name!r} would have the same file names; rename one, or give it another name "
                "in Latin letters with --class-map of an import"
            )
        seen[slug(name)] = name


def checked_provenance(value: dict[str, Any], where: str) -> Provenance:
    """Provenance from its JSON. Raises UserError, naming the field, for values that readers refuse: an option with a
    control character, say."""
    try:
        provenance = Provenance.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{where}: {first_error(error)}") from None
    for name, item in value.items():
        if holds_control_characters(item):
            raise UserError(f"{where}: {name} is {ascii(item)[:100]}, which holds control characters")
    return provenance


def checked_manifest(value: Any) -> Manifest:
    """A manifest from its JSON. Raises ValueError, naming the field, for one that no set has."""
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        raise ValueError(first_error(error)) from None
    # Whatever it holds may end on a terminal: also the names of options and reasons, which are keys.
    if holds_control_characters(value):
        raise ValueError("it holds control characters")
    if counts_of(manifest.strata, manifest.classes) != manifest.counts:
        raise ValueError("its counts are not those of its strata")
    return manifest


def read_manifest(place: str | Path | Store) -> Manifest:
    """The manifest of a set. Raises UserError if there is none, or if a byte of it was changed."""
    store = store_of(place)
    try:
        data = store.read(MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        if isinstance(store, LocalStore) and store.folder.is_file():
            raise UserError(f"{store} is a file, not a folder") from None
        if not store.is_there():
            raise UserError(
                f"{store}: no such shard set; make one with `cxrdist import ... --out {store}`"
            ) from None
        raise UserError(
            f"{store}: no {MANIFEST}: not a shard set, or its import did not finish; in that case run the same "
            "command again"
        ) from None
    try:
        value = json.loads(data)
        is_whole = isinstance(value, dict) and data == canonical_json(value)
        is_whole = is_whole and digest_of(value) == value.get("digest")
    except (ValueError, RecursionError) as error:
        raise _changed(store, "format", f"not valid JSON ({error})") from None
    found = value.get("format") if isinstance(value, dict) else None
    if found != FORMAT:
        problem = Problem(
            "version", MANIFEST, f"format {found!r}, but this version of cxrdist reads {FORMAT!r}"
        )
        raise ShardSetError(store, problem, OTHER_VERSION)
    if not is_whole:
        raise _changed(store, "changed", "changed since it was written (its digest does not match)")
    try:
        return checked_manifest(value)
    except ValueError as error:
        raise impossible(store, MANIFEST, str(error)) from None
    except RecursionError:
        raise impossible(store, MANIFEST, "a value is nested too deeply") from None


def _changed(store: Store, kind: Literal["format", "changed"], detail: str) -> ShardSetError:
    return ShardSetError(store, Problem(kind, MANIFEST, detail), REMEDY)
