"""``cxrdist import NAME``: one command per importer, its options the importer's own and every import's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, make_dataclass
from typing import Any

from cxrdist.config.parser import parse
from cxrdist.data.importers.registry import IMPORTERS, Importer
from cxrdist.data.ingest.ingest import IngestOptions, ingest


def command_of(source: type[Importer]) -> Callable[[Sequence[str]], None]:
    """The command that imports from a source."""

    def command(argv: Sequence[str]) -> None:
        cls: Any = options_of(source)
        options = parse(cls, argv, prog=f"cxrdist import {source.name}", example=source.example)
        ingest(
            importer_of(source, options),
            IngestOptions(**{f.name: getattr(options, f.name) for f in fields(IngestOptions)}),
        )

    return command


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
        importer_of(source, options)  # which checks the source's own fields

    out = [] if source.default_out is None else [("out", str, source.default_out)]
    options = make_dataclass(
        source.__name__,
        out,
        bases=(IngestOptions, source),
        frozen=True,
        kw_only=True,
        namespace={"__post_init__": check},
    )
    options.__doc__ = source.__doc__
    return options


COMMANDS = {name: command_of(source) for name, source in IMPORTERS.items()}
