"""Run a job of launch/, and leave the exit code of this rank in a file: a launcher that a signal ends tells none.

EXIT_CODES=folder recorded_job.py launch/train_gan.py ...
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import NoReturn

_exit = os._exit


def recorded(status: int) -> NoReturn:
    Path(os.environ["EXIT_CODES"], f"rank-{os.environ['RANK']}").write_text(str(status))
    _exit(status)


if __name__ == "__main__":
    os._exit = recorded
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
