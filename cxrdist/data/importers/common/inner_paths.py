"""Names and paths of files in tables: checked to stay in their folder, and found as the disk writes them."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from cxrdist.data.importers.common.texts import plain_text
from cxrdist.errors import UserError


def plain_name(text: str, column: str, where: str) -> str:
    """Check a file name without a folder, and return it. Raises UserError for anything else."""
    if Path(text).name != text or text in ("", ".", "..") or "\\" in text or "\0" in text:
        raise UserError(f"{where}: the {column} {text!r} is not a plain file name; remove the line")
    return text


def inner_path(text: str, column: str, where: str, root: str = "") -> str:
    """A path relative to a folder, with / between its parts. Backslashes, an absolute path below ``root``, and
    letters that the disk writes in another way, are read as what they mean.

    Raises UserError if the path is absolute otherwise, or leads out of the folder.
    """
    is_plain = "\\" not in text or (root and _is_there(root, text))
    path = Path(text if is_plain else text.replace("\\", "/"))
    if path.is_absolute() and root and path.is_relative_to(Path(root).absolute()):
        path = path.relative_to(Path(root).absolute())
    _check(path, text, column, where, root)
    if root and not text.isascii() and not _is_there(root, path):
        path = _as_on_disk(root, path)
        _check(path, text, column, where, root)
    return path.as_posix()


def _check(path: Path, text: str, column: str, where: str, root: str) -> None:
    if path.is_absolute() or re.match("[A-Za-z]:", path.parts[0] if path.parts else ""):
        raise UserError(
            f"{where}: the {column} {text!r} is absolute; write paths relative to {root or 'the folder'}, with /"
        )
    if not text or not path.parts or ".." in path.parts or "\0" in text:
        raise UserError(f"{where}: the {column} {text!r} leads out of the folder; remove the line")


def _as_on_disk(root: str, path: Path) -> Path:
    """The one path whose parts are those of ``path``, or their like: macOS writes é of a file name as two code
    points, tables mostly as one."""
    found = Path()
    for part in path.parts:
        if _is_there(root, found / part):
            found /= part
            continue
        alike = _alike(os.path.join(root, found), plain_text(part))  # noqa: PTH118
        if len(alike) != 1:
            return Path(plain_text(path.as_posix()))
        found /= alike[0]
    return found


def _is_there(root: str, path: str | Path) -> bool:
    return os.path.exists(os.path.join(root, path))  # noqa: PTH110, PTH118  # False for a name that is too long


def _alike(folder: str, plain: str) -> tuple[str, ...]:
    try:
        return _names_in(folder, os.stat(folder).st_mtime_ns).get(plain, ())  # noqa: PTH116
    except OSError:
        return ()


@lru_cache(maxsize=64)
def _names_in(folder: str, changed_ns: int) -> dict[str, tuple[str, ...]]:
    """Plain text -> names of ``folder``."""
    names: dict[str, tuple[str, ...]] = {}
    for name in sorted(path.name for path in Path(folder).iterdir()):
        names[plain_text(name)] = (*names.get(plain_text(name), ()), name)
    return names
