"""Names, limits and value types of the shard format, and the error for a set that breaks its rules.

A digest shows that a file is unchanged, not who wrote it: in a set from a third party every digest may match while
its manifest names a thousand billion samples, or an index names bytes outside its tar. Writers and readers check the
same rules, so a writer never accepts what a reader refuses.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cxrdist.errors import CONTROL_CHARACTERS, UserError, is_plain, shown
from cxrdist.files import SHA256

Split = Literal["train", "val", "test"]
Origin = Literal["real", "synthetic"]
SPLITS: tuple[str, ...] = get_args(Split)
ORIGINS: tuple[str, ...] = get_args(Origin)
FORMAT = "cxrdist-shards/1"
MANIFEST = "manifest.json"

# Beside a manifest, the command that makes a set finds it finished: it has to go first. A broken manifest does not
# say whether the tars are external, perhaps the only copy of the images: never advise what would delete those.
REMEDY = (
    "restore the set from a copy, or make it again: remove its folder first, or manifest.json alone if tars were "
    "indexed in place"
)
REMEDY_IN_PLACE = (
    f"restore the files from a copy; or, to index the tars as they are now, remove {MANIFEST} alone and run "
    "`cxrdist import webdataset --in-place` again; keep the tars"
)

MAX_IMAGE_BYTES = 2**30
MAX_TEXT_BYTES = 2**20
"""Of the ``.cls`` and the ``.json`` of a sample."""
MAX_CLASSES = 2**16 - 1
NORMAL = "Normal"
CLASSES = ("Cardiomegaly", NORMAL, "Pleural Effusion", "Pulmonary Edema", "Pneumothorax")
"""The five classes in the paper's order."""
UNLABELLED = "unlabelled"
"""Reserved: the class, in strata and file names, of images without a class. They are real, of the train split, and in
neither ``classes`` nor ``counts`` of the manifest."""
UNLABELLED_INDEX = MAX_CLASSES
"""Their class index in indexes (-1 as an unsigned 16-bit number)."""
UNLABELLED_CLS = "-1"
"""Their class index in ``.cls`` members."""
MAX_SLUG_CHARACTERS = 200
"""Of a class in file names: with split, origin, number and suffix a name stays within 255 bytes, also the temporary
name of a file that is being written."""
MAX_COUNT = 2**53
"""Larger whole numbers are not exact in every reader of JSON."""
MAX_NAME_BYTES = 255
MIN_SAMPLE_BYTES = 4 * 512
"""Two members of a tar, an image and its label or metadata, each a header and at least one block."""

_KEY = re.compile(r"[A-Za-z0-9_-]{1,40}")
PATIENT_HASH = re.compile(r"[A-Za-z0-9_-]{0,24}")

# What was wrong with a file of a set; see Problem.
Kind = Literal[
    "missing",  # a file that a table or the manifest names
    "unreadable",  # a pipe, say, or a place that does not answer
    "size",  # not the bytes that the table states
    "changed",  # a digest that does not match
    "format",  # not a file of this format
    "version",  # a file of another version of the format
    "value",  # a value that no set can have
    "count",  # sums that do not agree
    "member",  # a tar member that does not belong there
    "image",  # an image that does not match its hash, or does not decode
    "key",  # a key that occurs several times
    "patient",  # a patient in several splits
    "unlisted",  # a file that is not part of the set
    "truncated keys",  # keys cut to 40 characters by an earlier version
]


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong with a shard set."""

    kind: Kind
    file: str
    """Name of the file within the set; "" for the set as a whole."""
    detail: str

    def __str__(self) -> str:
        return shown(f"{self.file}: {self.detail}" if self.file else self.detail)


class ShardSetError(UserError):
    """A file of a shard set is not what it should be. ``problem`` says what is wrong; the message adds the place of
    the set and what to do."""

    def __init__(self, place: object, problem: Problem, remedy: str) -> None:
        where = f"{place}/" if problem.file else f"{place}: "
        super().__init__(f"{where}{problem}{f'; {remedy}' if remedy else ''}")
        self.problem = problem


DO_NOT_USE = "its digest matches, so another program wrote it: do not use this set"

OTHER_VERSION = "read it with the version of cxrdist that wrote it"


def impossible(place: object, file: str, detail: str) -> ShardSetError:
    """The error for a value that no shard set can have, in a file whose digest matches."""
    return ShardSetError(place, Problem("value", file, detail), DO_NOT_USE)


def is_text(value: Any) -> bool:
    """Text that a terminal can show."""
    return isinstance(value, str) and is_plain(value)


def is_name(value: Any) -> bool:
    """The name of a file in the set itself: not hidden, and no path."""
    is_one = is_text(value) and not value.startswith(".") and not set(value) & {"/", "\\"}
    return is_one and 0 < len(value.encode()) <= MAX_NAME_BYTES


def is_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


def holds_control_characters(value: Any) -> bool:
    """True if any text in a JSON value holds a character that a terminal can't show."""
    words = json.dumps(value, ensure_ascii=False).replace("\\\\", "")
    return re.search(rf"\\[bfnrtu]|{CONTROL_CHARACTERS.pattern}", words) is not None


def must(is_right: Callable[[Any], bool], expected: str) -> AfterValidator:
    def check(value: Any) -> Any:
        if not is_right(value):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


Text = Annotated[str, must(is_text, "text without control characters")]
FileName = Annotated[str, must(is_name, "the name of a file in the set")]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
PositiveCount = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Digest = Annotated[str, Field(pattern=f"^{SHA256.pattern}$")]
PatientHash = Annotated[str, Field(pattern=f"^{PATIENT_HASH.pattern}$")]
Age = Annotated[Any, must(lambda age: _is_years(age) or is_text(age), "years, or text")]


def _is_years(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= MAX_COUNT  # which NaN and infinity are not


class Model(BaseModel):
    """A part of the format: unknown fields are refused, and no value is converted to another type."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False
    )

    def json_value(self) -> dict[str, Any]:
        """As JSON: the fields that were given, under their names in the file."""
        return self.model_dump(by_alias=True, exclude_unset=True)


def canonical_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names without repetition: the paper's classes in the paper's order, then all others sorted."""
    return tuple(sorted(set(names), key=class_rank))


def class_rank(name: str) -> tuple[int, str]:
    return (CLASSES.index(name) if name in CLASSES else len(CLASSES), name)


def class_in_metadata(class_name: str) -> str | None:
    """The class as the metadata of a sample names it; null for an unlabelled image."""
    return None if class_name == UNLABELLED else class_name


class SampleMetadata(Model):
    """What readers use of a sample's ``.json``; other fields may be there."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    patient: PatientHash | None = None
    view: Text | None = None
    sex: Text | None = None
    age: Age | None = None
    findings: list[Text] = []


def wrong_in_metadata(meta: Any) -> str | None:
    """What is wrong with a sample's metadata, ``age is -inf: ...``; None if nothing is."""
    try:
        SampleMetadata.model_validate(meta)
    except ValidationError as error:
        return first_error(error)
    return None


def first_error(error: ValidationError) -> str:
    """``strata[3].samples is -1: Input should be greater than or equal to 0``: field, value and reason."""
    first = error.errors(include_url=False)[0]
    path = ""
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    if first["type"] == "model_type":
        reason = "expected a mapping"
    if first["type"] == "missing":
        return f"{path} is missing"
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown field"
    if first["type"] == "value_error" and isinstance(
        first["input"], dict
    ):  # of fields that do not fit together
        return f"{path}: {reason}" if path else reason
    return f"{path or 'the value'} is {excerpt(first['input'])}: {reason}"


def excerpt(value: Any) -> str:
    """A value of any size and depth as at most 60 ASCII characters."""
    return reprlib.repr(value).encode("ascii", "backslashreplace").decode()[:60]
