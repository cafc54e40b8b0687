"""Texts of tables and metadata, as they are meant: without what nobody sees, and each letter written in one way."""

from __future__ import annotations

import re
import unicodedata

from cxrdist.errors import CONTROL_CHARACTERS

LONGEST_NAME = 1000
"""Characters. Longer texts are reports, which are compared with nothing; the time of normalization may grow with the
square of their length."""
_MARKS = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
"""Without a width: that of a byte order, for example, stands between two tables that were joined."""
UNSEEN = _MARKS + "".join(filter(str.isspace, map(chr, range(0x3001))))
"""White space, which ends with the ideographic one, and marks."""


def plain_text(text: str) -> str:
    """Without control characters, and without spaces and marks that nobody sees around it. The same letters have the
    same code points, as ``composed``."""
    return composed(without_control(text).strip(UNSEEN))


def without_control(text: str) -> str:
    return CONTROL_CHARACTERS.sub(" ", text)


def composed(text: str) -> str:
    """The same letters with the same code points: é may be written in two ways (Unicode, normalization form C)."""
    return text if text.isascii() or len(text) > LONGEST_NAME else unicodedata.normalize("NFC", text)


def letters_of(name: str) -> str:
    """What is left of a column's name without spaces, hyphens, underscores and capitals."""
    return re.sub(r"[\W_]", "", name).lower()
