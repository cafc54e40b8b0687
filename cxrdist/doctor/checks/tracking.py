"""W&B: what --tracking.mode auto would do here, a key, its server, and where runs wait if it is offline."""

from __future__ import annotations

import os
from collections.abc import Iterator

from cxrdist.doctor.findings import Finding, ok, warning
from cxrdist.doctor.options import DoctorOptions
from cxrdist.files import nearest_folder
from cxrdist.run.tracking.login import login, why_unreachable

TIMEOUT_S = 5.0
LOGIN = "run `wandb login`, or set WANDB_API_KEY"


def look(options: DoctorOptions) -> Iterator[Finding]:
    found = login()
    if found.mode == "disabled":
        yield ok("disabled by WANDB_MODE or WANDB_DISABLED: metrics are in metrics.jsonl")
        return
    if found.mode == "online" and not found.key:
        yield warning(
            f"WANDB_MODE is online, and there is no key for {found.server}", f"{LOGIN}, or set it to offline"
        )
    elif found.mode == "online":
        why = why_unreachable(found.server, TIMEOUT_S)
        if why:
            yield warning(
                f"online, with the key of {found.key}, but {found.server} does not answer ({why})",
                "jobs go on offline; check the network and HTTPS_PROXY, or set WANDB_MODE=offline",
            )
        else:
            yield ok(
                f"online: {found.server} answers, and {found.key} has a key (whether it is valid was not asked)"
            )
    else:
        why = "no key was found" if not found.key else "WANDB_MODE or WANDB_DISABLED says so"
        yield ok(
            f"offline, since {why}: `wandb sync` uploads runs later" + (f"; or {LOGIN}" * (not found.key))
        )
    folder = nearest_folder(os.environ.get("WANDB_DIR") or options.run)
    if not os.access(folder, os.W_OK | os.X_OK):
        yield warning(
            f"{folder}: not writable, and W&B keeps its files there", "set WANDB_DIR to a folder of yours"
        )
