"""``cxrdist review``: people judge the images of a synthetic set."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cxrdist.config.parser import parse
from cxrdist.errors import OptionError, UserError


@dataclass(frozen=True, kw_only=True)
class Apply:
    """Remove the images of a synthetic set that reviewers decided to remove.

    The tars stay as they are: the set names the removed images, and its readers leave them out. Running the command
    again changes nothing.
    """

    set: str
    """Folder of the synthetic set, or its URL."""
    decisions: str | None = None
    """CSV file with the columns key, decision (keep, remove or unsure), reviewer, reason and time."""
    from_: str | None = None
    """Database of `cxrdist review serve` with the decisions, instead of a CSV file."""
    remove_if: Literal["any", "majority", "all"] = "any"
    """Of several reviewers of an image: whether any of them removes it, more than half of them, or all."""
    unsure: Literal["keep", "remove"] = "keep"
    """What a reviewer who is unsure counts as."""

    def __post_init__(self) -> None:
        if (self.decisions is None) == (self.from_ is None):
            raise OptionError(
                "decisions", "give a CSV file of decisions, or a database with --from, and not both"
            )


def apply(argv: Sequence[str]) -> None:
    options = parse(
        Apply,
        argv,
        prog="cxrdist review apply",
        example="cxrdist review apply shards/phantom-synthetic decisions.csv --remove-if majority",
        positional=("set", "decisions"),
    )
    from cxrdist.synth.review.apply import WrongDecisions, apply, report
    from cxrdist.synth.review.decision import Given
    from cxrdist.synth.review.decisions_csv import read_csv
    from cxrdist.synth.review.stored import read_stored

    source = Path(str(options.decisions or options.from_))

    def read(digests: Sequence[str]) -> list[Given]:
        return read_csv(source) if options.decisions is not None else read_stored(source, digests)

    try:
        applied = apply(options.set, source, read, remove_if=options.remove_if, unsure=options.unsure)
    except WrongDecisions as error:
        for problem in error.problems:
            print(f"{source}: {problem}", file=sys.stderr)
        raise
    for line in report(applied, options.set):
        print(line)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write what readers said: how often they were right, how far they agree, what they removed."""

    store: str = "review.sqlite"
    """Store that `cxrdist review serve` has filled. It is not changed."""
    set: str | None = None
    """Synthetic set that was read, to compare the scores of its gates between kept and removed images; null: they are
    not compared."""
    out: str = "review-report"
    """Folder of the report. A study shows what is in its folder review, such as runs/demo/review."""


def report(argv: Sequence[str]) -> None:
    options = parse(
        Report,
        argv,
        prog="cxrdist review report",
        example="cxrdist review report review.sqlite --set shards/phantom-synthetic --out review-report",
        positional=("store",),
    )
    from cxrdist.errors import shown
    from cxrdist.synth.review.report.write import write_report

    out = Path(options.out)
    found = write_report(Path(options.store), out, options.set)
    for reader in found["readers"]:
        counts = reader["decisions"]
        print(
            f"{shown(reader['name'])}: {counts['curate']:,} curated, {counts['blinded']:,} real or synthetic"
        )
    if found["taken_back"]:
        print(f"not counted: {found['taken_back']:,} taken back")
    print(f"report: {out / 'report.md'}")


def serve(argv: Sequence[str]) -> None:
    from cxrdist.synth.review.serving.options import ServeOptions

    example = "cxrdist review serve shards/phantom-synthetic --shards shards/phantom"
    options = parse(ServeOptions, argv, prog="cxrdist review serve", example=example, positional=("set",))
    try:
        from cxrdist.synth.review.serving.serve import serve
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("anyio", "starlette", "uvicorn"):
            raise
        raise UserError(f"{package} is not installed: pip install 'cxrdist[review]'") from None
    serve(options)


@dataclass(frozen=True, kw_only=True)
class Add:
    """Add a reader, with a pass phrase that is asked for twice (or is the first line of stdin)."""

    name: str
    """Name to sign in with; reports name readers by it."""
    store: str = "review.sqlite"
    """SQLite file of the readers and their decisions; made if it does not exist."""


def add(argv: Sequence[str]) -> None:
    prog = "cxrdist review readers add"
    options = parse(Add, argv, prog=prog, example=f"{prog} 'Reader 1'", positional=("name",))
    from cxrdist.synth.review import readers
    from cxrdist.synth.review.store import Store

    store = Store(Path(options.store), create=True)
    readers.add(store, options.name, readers.asked_phrase())
    print(f"{options.store}: {options.name} can sign in")


@dataclass(frozen=True, kw_only=True)
class List:
    """List the readers, and how many images each has judged."""

    store: str = "review.sqlite"
    """SQLite file of the readers and their decisions."""


def list_(argv: Sequence[str]) -> None:
    prog = "cxrdist review readers list"
    options = parse(List, argv, prog=prog, example=f"{prog} --store review.sqlite")
    from cxrdist.synth.review.readers import readers
    from cxrdist.synth.review.recording import TASKS, judged
    from cxrdist.synth.review.store import Store

    store = Store(Path(options.store))
    for reader in readers(store):
        counts = [f"{len(judged(store, reader.name, task)):,} {task}" for task in TASKS]
        print(f"{reader.name}: {', '.join(counts)}")
    if not readers(store):
        print(f"{options.store}: no readers")


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Remove a reader, who can then no longer sign in; the decisions stay."""

    name: str
    """Name of the reader."""
    store: str = "review.sqlite"
    """SQLite file of the readers and their decisions."""


def remove(argv: Sequence[str]) -> None:
    prog = "cxrdist review readers remove"
    options = parse(Remove, argv, prog=prog, example=f"{prog} 'Reader 1'", positional=("name",))
    from cxrdist.synth.review import readers
    from cxrdist.synth.review.store import Store

    readers.remove(Store(Path(options.store)), options.name)
    print(f"{options.store}: {options.name} can no longer sign in; decisions are kept")


COMMANDS: dict[str, Any] = {
    "serve": serve,
    "readers": {"add": add, "list": list_, "remove": remove},
    "apply": apply,
    "report": report,
}
