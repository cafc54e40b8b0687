"""``cxrdist import NAME``: one command per importer, its options the importer's own and every import's."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, make_dataclass
from typing import Any

from cxrdist.config.parser import parse
from cxrdist.data.importers.registry import IMPORTERS, Importer
from cxrdist.data.importers.webdataset import WebDataset
from cxrdist.data.ingest.ingest import IngestOptions, ingest
from cxrdist.data.ingest.plan import plan_import
from cxrdist.data.ingest.report import plan_as_json, print_table
from cxrdist.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    plan: bool = False
    """Print how many images each class and split would get, and write nothing. Near-duplicates are not looked for."""
    json: bool = False
    """With --plan: print JSON, also with the number of patients."""

    def __post_init__(self) -> None:
        if self.json and not self.plan:
            raise OptionError("json", "needs --plan")


def command_of(source: type[Importer]) -> Callable[[Sequence[str]], None]:
    """The command that imports from a source."""

    def command(argv: Sequence[str]) -> None:
        cls: Any = options_of(source)
        options = parse(cls, argv, prog=f"cxrdist import {source.name}", example=source.example)
        importer = importer_of(source, options)
        ingest_options = IngestOptions(**{f.name: getattr(options, f.name) for f in fields(IngestOptions)})
        if options.plan:
            show_plan(importer, ingest_options, as_json=options.json)
        else:
            ingest(importer, ingest_options)

    return command


def show_plan(importer: Importer, options: IngestOptions, *, as_json: bool) -> None:
    """Print what an import would write. Raises UserError for invalid tables or options, as the import does."""
    if isinstance(importer, WebDataset) and importer.in_place:
        raise OptionError(
            "plan", "tars that are indexed in place are not planned; remove one of the two options"
        )
    if not as_json:
        print_table(plan_import(importer, options))
        return
    with redirect_stdout(sys.stderr):
        plan = plan_import(importer, options)
    print(json.dumps(plan_as_json(plan), indent=2))


def importer_of(source: type[Importer], options: Any) -> Importer:
    """The importer with its own fields of the command's options."""
    given = {f.name: getattr(options, f.name) for f in fields(source)}
    if not given.get("classes", True):
        del given["classes"]  # none named: all that the source knows
    return source(**given)


def options_of(source: type[Importer]) -> type:
    """A dataclass with the source's fields, then those of every import."""

    def check(options: Any) -> None:
        IngestOptions.__post_init__(options)
        PlanOptions.__post_init__(options)
        importer_of(source, options)  # which checks the source's own fields

    out = [] if source.default_out is None else [("out", str, source.default_out)]
    options = make_dataclass(
        source.__name__,
        out,
        bases=(PlanOptions, IngestOptions, source),
        frozen=True,
        kw_only=True,
        namespace={"__post_init__": check},
    )
    options.__doc__ = source.__doc__
    return options


COMMANDS = {name: command_of(source) for name, source in IMPORTERS.items()}
