"""The decisions of readers, from the store that ``cxrdist review serve`` fills: read only, every value checked.

meta(name, value)
decision(id, reader, task, key, origin, class, answer, reason, guessed_class, confidence, seconds, time, position,
         undone_at)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, ValidationError

from cxrdist.errors import UserError

Task = Literal["curate", "blinded"]
TASKS: tuple[Task, ...] = get_args(Task)
ANSWERS = {"curate": ("keep", "remove", "unsure"), "blinded": ("real", "synthetic")}
"""The answers of each task."""
CONFIDENCES = (1, 2, 3, 4, 5)
META = ("synthetic_digest", "real_digest", "seed", "share_real", "overlap", "created")
"""What a store says of itself; it may say more."""

_COLUMNS = (
    *("id", "reader", "task", "key", "origin", "class", "answer", "reason", "guessed_class", "confidence"),
    *("seconds", "time", "undone_at"),
)
_Name = Annotated[str, Field(min_length=1)]


class Decision(BaseModel):
    """What one reader said of one image."""

    model_config = ConfigDict(strict=True, frozen=True)

    id: int
    reader: _Name
    task: Task
    key: _Name
    origin: Literal["real", "synthetic"]
    class_name: Annotated[_Name, Field(alias="class")]
    answer: str
    """One of ``ANSWERS`` of the task."""
    reason: str | None
    guessed_class: str | None
    """In blinded readings, the class that the reader sees in the image."""
    confidence: Annotated[int, Field(ge=CONFIDENCES[0], le=CONFIDENCES[-1])] | None
    seconds: Annotated[float, Field(ge=0), AllowInfNan(False)] | None
    time: str
    """ISO 8601, UTC."""
    undone_at: str | None
    """When the decision was taken back; None for one that stands."""

    @property
    def moment(self) -> datetime:
        """``time``, in UTC. Raises ValueError if it is not in ISO 8601."""
        found = datetime.fromisoformat(self.time)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All decisions of a store."""

    meta: dict[str, str | None]
    """What the store says of itself, with None for a name of ``META`` that it does not have."""
    decisions: tuple[Decision, ...]
    """Those that stand: at most one of a reader, task and image. By reader, then in the order of the reading."""
    taken_back: tuple[Decision, ...]

    @property
    def readers(self) -> tuple[str, ...]:
        """All readers with a decision that stands, sorted."""
        return tuple(sorted({decision.reader for decision in self.decisions}))

    def of(self, task: Task, reader: str | None = None) -> tuple[Decision, ...]:
        """The decisions of a task that stand, of one reader or of all."""
        return tuple(d for d in self.decisions if d.task == task and reader in (None, d.reader))


def read_decisions(store: Path) -> Reading:
    """Raises UserError, naming store and row, if the file is no store of decisions, has a value that cannot be, or
    has no decision that stands."""
    if not store.is_file():
        raise UserError(f"{store}: no such file; name the store that `cxrdist review serve` fills (--store)")
    try:
        meta, rows = _read(store.resolve())
    except sqlite3.Error as error:
        raise UserError(
            f"{store}: cannot be read as a store of decisions ({error}); name the file that `cxrdist review serve` "
            "fills, in a folder that you may write to"
        ) from None
    found = [_decision(store, dict(zip(_COLUMNS, row, strict=True))) for row in rows]
    standing = tuple(decision for decision in found if decision.undone_at is None)
    if not standing:
        undone = f" ({len(found)} were taken back)" if found else ""
        raise UserError(
            f"{store}: no decision yet{undone}; let readers read with `cxrdist review serve` first"
        )
    _check_once(store, standing)
    return Reading(
        meta=dict.fromkeys(META)
        | {str(name): str(value) for name, value in meta.items() if value is not None},
        decisions=standing,
        taken_back=tuple(decision for decision in found if decision.undone_at is not None),
    )


def _read(store: Path) -> tuple[dict[str, object], list[tuple[object, ...]]]:
    """The rows of meta, and of decision in ``_COLUMNS``, at one moment."""
    # Without a server at work there is nothing beside the file, and a reader need not leave anything there either:
    # a folder may be read only.
    beside = [store.with_name(store.name + ending) for ending in ("-wal", "-journal")]
    if not any(path.exists() for path in beside):
        found = _select(store, "mode=ro&immutable=1")
        if not any(path.exists() for path in beside):
            return found
    return _select(store, "mode=ro")


def _select(store: Path, mode: str) -> tuple[dict[str, object], list[tuple[object, ...]]]:
    with closing(sqlite3.connect(f"{store.as_uri()}?{mode}", uri=True)) as connection:
        connection.execute("BEGIN")
        _check_tables(connection, store)
        meta = dict(connection.execute("SELECT name, value FROM meta"))
        order = f"SELECT {', '.join(_COLUMNS)} FROM decision ORDER BY reader, position, id"
        return meta, connection.execute(order).fetchall()


def _check_tables(connection: sqlite3.Connection, store: Path) -> None:
    needed = {"meta": ("name", "value"), "decision": (*_COLUMNS, "position")}
    for table, columns in needed.items():
        found = {str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")}
        if missing := [column for column in columns if column not in found]:
            what = f"no {', '.join(missing)} in its table {table}" if found else f"no table {table}"
            raise UserError(f"{store}: {what}; name the store that `cxrdist review serve` fills")


def _decision(store: Path, row: dict[str, object]) -> Decision:
    where = f"{store}: decision {row['id']}"
    try:
        # An empty field of the page is no reason and no class.
        decision = Decision.model_validate(
            {**row, **{name: row[name] or None for name in ("reason", "guessed_class")}}
        )
        _ = decision.moment
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}: {first['loc'][0]} is {first['input']!r}: {first['msg']}") from None
    except ValueError:
        raise UserError(f"{where}: time is {row['time']!r}: not a time in ISO 8601") from None
    if decision.answer not in ANSWERS[decision.task]:
        expected = ", ".join(ANSWERS[decision.task])
        raise UserError(
            f"{where}: answer is {decision.answer!r}; the answers of {decision.task} are {expected}"
        )
    if decision.task == "curate" and decision.origin != "synthetic":
        raise UserError(f"{where}: a real image in the task curate, which is about synthetic ones")
    return decision


def _check_once(store: Path, decisions: Sequence[Decision]) -> None:
    """Raises UserError for an image that a reader decided twice, or whose origin or class differs between rows."""
    seen: dict[tuple[str, str, str], int] = {}
    known: dict[str, Decision] = {}
    for decision in decisions:
        first = seen.setdefault((decision.reader, decision.task, decision.key), decision.id)
        if first != decision.id:
            raise UserError(
                f"{store}: decisions {first} and {decision.id} are of one reader, task and image, and none of them "
                "was taken back"
            )
        same = known.setdefault(decision.key, decision)
        if (same.origin, same.class_name) != (decision.origin, decision.class_name):
            raise UserError(
                f"{store}: decisions {same.id} and {decision.id} are of one image, but of another origin or class"
            )
