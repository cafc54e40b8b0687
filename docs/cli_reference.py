"""Write docs/cli.md from the options of every command: `python docs/cli_reference.py`."""

from __future__ import annotations

import contextlib
import runpy
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from cxrdist.cli.main import COMMANDS, Commands

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Commands and options

Generated from the options' dataclasses by `python docs/cli_reference.py`; a test fails if this page is out of date.

Every command also takes `--config FILE.yaml` (several, later ones win, the command line wins over all),
`--print-config`, `--log-level debug|info|warning|error` and `--help`. A flag is switched off with `--no-FLAG`, a list
is written with commas, and `null` is a value of its own. Options with a dot belong to a group, in YAML a nested
mapping.
"""
COMMON = {"-h", "--config", "--print-config", "--log-level"}


def parsers() -> Iterator[ArgumentParser]:
    """The parser of each command, as its --help would show it."""
    for command in _commands(COMMANDS):
        yield _parser_of(partial(command, ["--help"]))
    for script in ("train_gan", "evaluate_gan", "synthesize", "train_cls"):
        main = runpy.run_path(str(ROOT / "launch" / f"{script}.py"))["main"]
        with mock.patch.object(sys, "argv", [f"{script}.py", "--help"]):
            yield _parser_of(main)


def _commands(commands: Commands) -> Iterator[Callable[..., Any]]:
    for command in commands.values():
        if callable(command):
            yield command
        else:
            yield from _commands(command)


def _parser_of(command: Callable[[], Any]) -> ArgumentParser:
    found: list[ArgumentParser] = []
    keep = lambda parser, file=None: found.append(parser)  # noqa: E731
    with mock.patch.object(ArgumentParser, "print_help", keep), contextlib.suppress(SystemExit):
        command()
    return found[0]


def section(parser: ArgumentParser) -> str:
    example = (parser.epilog or "").removeprefix("Example:\n  ")
    lines = [f"## {parser.prog}", "", parser.description or "", "", "```", example, "```", ""]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.option_strings and a.option_strings[0] not in COMMON]
        if not actions:
            continue
        if group.description and group.title not in ("options", "positional arguments"):
            lines += [f"**{group.title}**: {group.description}", ""]
        lines += ["| option | default | meaning |", "|---|---|---|"]
        for action in actions:
            meaning, _, default = (action.help or "").replace("%%", "%").rpartition(" (")
            default = default.removesuffix(")").removeprefix("default: ")
            name = action.option_strings[0] + (f" {action.metavar}" if action.metavar else "")
            lines.append(f"| `{_cell(name)}` | {_cell(default)} | {_cell(meaning)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page() -> str:
    return "\n".join([HEAD, *map(section, parsers())])


if __name__ == "__main__":
    (ROOT / "docs" / "cli.md").write_text(page(), encoding="utf-8")
