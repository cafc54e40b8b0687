"""Errors for people: what was wrong, where, and what to do; one line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import errno
import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What a terminal takes for a command (the control characters C0, DEL and C1), and surrogates, which UTF-8 cannot
encode."""

MARKUP = re.compile(r"([\\`*_\[\]|~!$])")
"""Characters of markup in GitHub's Markdown, beside those of HTML."""


def is_plain(text: str) -> bool:
    """True for text without ``CONTROL_CHARACTERS``: a terminal can show it, and UTF-8 can encode it."""
    return CONTROL_CHARACTERS.search(text) is None


def shown(text: str) -> str:
    """Text from an untrusted file or file name, made safe to print: control characters are escaped as ``\\x1b``."""
    return CONTROL_CHARACTERS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shown_in_markdown(text: object) -> str:
    """Text of others on one line of Markdown, also in a cell of a table: no markup, picture or HTML. Not for code
    within backticks."""
    line = html.escape(shown(" ".join(str(text).split())), quote=False)
    return MARKUP.sub(r"\\\1", line)


class UserError(Exception):
    """An error that the user can fix. Commands print it as one line and exit with 2.

    ``is_named``: the message says already which rank has the error, if one alone has it.
    """

    def __init__(self, message: str, *, is_named: bool = False) -> None:
        super().__init__(shown(" ".join(message.split())))
        self.is_named = is_named

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions unpickle by calling the class with the message alone, which subclasses may not accept: an error
        # of a worker process would then break the pool.
        return _unpickled, (type(self), str(self), vars(self))


def _unpickled(kind: type[UserError], message: str, attributes: dict[str, Any]) -> UserError:
    error = kind.__new__(kind, message)
    vars(error).update(attributes)
    return error


class OptionError(UserError, ValueError):
    """A configuration field whose value cannot be used.

    `config.parser.parse`, and `reported_where_written` for errors that a command finds later, replace the field by
    the place where the value was written: ``--lr``, or a YAML file and its key. A field of an inner dataclass is
    dotted, as in ``loader.workers``.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


def check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    """Raises OptionError if the value of a field is none of its choices."""
    if value not in choices:
        raise OptionError(field, f"{value!r} is not a choice{nearest(value, choices)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'DS3'?"`` for the most similar known word, else the whole list of known words."""
    known = list(known)
    by_folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {by_folded[close[0]]!r}?"
    return f"; known: {', '.join(known)}" if known else ""


def from_os(error: OSError) -> UserError:
    """The UserError of a full disk, a missing permission, a read-only folder ..., with the file and the system's
    message."""
    where = error.filename or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"the disk is full while writing {where}: free some space and run the same command again"
        )
    return UserError(f"{where}: {error.strerror or error}")
