"""Whether W&B could take a run: the mode, a key, its server. No key is sent or shown."""

from __future__ import annotations

import http.client
import os
import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass

from cxrdist.errors import UserError
from cxrdist.run.tracking.config import has_stored_key, mode_of_environment, resolve_mode


@dataclass(frozen=True)
class Login:
    """``mode``: online, offline or disabled; ``key``: where one was found, or empty; ``server``: its URL."""

    mode: str
    key: str
    server: str


def login() -> Login:
    """What a job with --tracking.mode auto would do. Raises UserError for a WANDB_MODE that is none, and for settings
    with which wandb fails."""
    mode = mode_of_environment()
    if mode == "disabled":
        return Login(mode, "", "")
    try:
        return _login()
    except Exception as error:
        raise UserError(
            f"wandb fails: {without_password(' '.join(str(error).split()))[:200]}; look at the WANDB_ variables"
        ) from None


def _login() -> Login:
    from wandb.sdk import wandb_setup

    mode = resolve_mode("auto")
    key = "WANDB_API_KEY" if os.environ.get("WANDB_API_KEY") else "`wandb login`" if has_stored_key() else ""
    return Login(mode, key, without_password(str(wandb_setup.singleton().settings.base_url)))


def without_password(url: str) -> str:
    """A URL without the user and password before its server."""
    return re.sub(r"(?<=://)[^/\s]*@", "", url)


def why_unreachable(server: str, timeout_s: float) -> str:
    """Why a server gives no HTTP answer within ``timeout_s``; empty if it gives any. Proxies of the environment are
    used, and nothing but the address is sent."""
    reason = [f"no answer within {timeout_s:g} s"]
    thread = threading.Thread(target=_ask, args=(server, timeout_s, reason), daemon=True)
    thread.start()  # the resolver of names has no timeout of its own
    thread.join(timeout_s)
    return reason[-1]


def _ask(server: str, timeout_s: float, reason: list[str]) -> None:
    try:
        with urllib.request.urlopen(urllib.request.Request(server, method="HEAD"), timeout=timeout_s):
            reason.append("")
    except urllib.error.HTTPError:
        reason.append("")  # an answer
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason.append(str(getattr(error, "reason", error)))
