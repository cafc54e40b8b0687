"""The user's own functions, named in an option as ``package.module:function``."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cxrdist.errors import UserError, nearest


def find_function(name: str) -> Callable[..., Any]:
    """Import ``package.module:function``, which may lie in the current folder.

    Raises UserError that begins with the name if it names no module and function, if there is none of these names, if
    it is not callable, or if the import fails.
    """
    if not all(name.partition(":")):
        raise UserError(f"{name}: must be package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # a launcher puts launch/ first; kept, since the function may import later
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{name}: {error}; searched in {Path.cwd()} and the installed packages") from None
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"{name}: {described(error)}") from error
    if not hasattr(module, function_name):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(
            f"{name}: {module_name} has no function {function_name}{nearest(function_name, known)}"
        )
    function = getattr(module, function_name)
    if not callable(function):
        raise UserError(f"{name}: {function_name} is a {type(function).__name__}, not a function")
    return function


def described(error: BaseException) -> str:
    """Type, message and location of an exception, in one line."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({where.filename}, line {where.lineno})"
