"""What readers said of synthetic images: the JSON of ``cxrdist review report``, in the folder of the study.

<study>/review/report.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxrdist.errors import UserError, from_os

REVIEW = "review/report.json"

_Share = Annotated[float, Field(ge=0, le=1)]
_Kappa = Annotated[float, Field(ge=-1, le=1)]
_Count = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    """Fields that the report of a study does not show are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


class Share(_Part):
    """``count`` of ``n`` images; ``low`` and ``high`` are the ends of its 95 % interval."""

    n: _Count
    count: _Count
    value: _Share | None
    low: _Share | None
    high: _Share | None
    why: str | None
    """Why there is no value."""


class Kappa(_Part):
    n: _Count
    value: _Kappa | None
    low: _Kappa | None
    high: _Kappa | None
    why: str | None
    """Why there is no value, or no interval."""


class Blinded(_Part):
    """Right answers to "real or synthetic?": of all images, of the synthetic and of the real ones."""

    right: Share
    synthetic: Share
    real: Share
    always_one_answer: _Share
    """What the more frequent answer would reach, given to every image."""


class Curated(_Part):
    remove: Share


class Seconds(_Part):
    median: _Seconds | None


class TaskSeconds(_Part):
    blinded: Seconds
    curate: Seconds


class Reader(_Part):
    name: str
    seconds: TaskSeconds
    blinded: Blinded | None
    curate: Curated | None


class Everyone(_Part):
    readers: list[str]
    kappa: Kappa


class TaskAgreement(_Part):
    all: Everyone


class Agreement(_Part):
    blinded: TaskAgreement
    curate: TaskAgreement


class Store(_Part):
    synthetic_digest: str | None


class Readers(_Part):
    """One report on readers."""

    format: Literal["cxrdist-review-report/1"]
    store: Store
    set_digests: list[str]
    """Of the set that was read: its present one, and those before images were removed from it or filled up."""
    readers: list[Reader]
    agreement: Agreement


def read_readers(study: Path) -> tuple[Readers, bytes] | None:
    """The report on readers in a study's folder, and its bytes; None if there is none.

    Raises UserError, naming file and field, if it is not one.
    """
    path = study / REVIEW
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os(error) from error
    try:
        return Readers.model_validate_json(data), data
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"{path}: {where}: {first['msg']}; write it again with `cxrdist review report --out {path.parent}`, or "
            "remove it"
        ) from None
