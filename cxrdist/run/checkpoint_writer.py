"""Writes the checkpoints of a training in a thread beside it, one at a time."""

from __future__ import annotations

import threading
from pathlib import Path

from cxrdist.run.checkpoint import Snapshot, write_checkpoint


class CheckpointWriter:
    """Writes to ``folder``, keeping the newest ``keep`` looks; see ``write_checkpoint``. Rank 0 has one.

    An error of writing is raised by the next call of ``write`` or ``wait``.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    def write(self, taken: Snapshot) -> None:
        """Start to write a checkpoint, once the one before is written."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(taken,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until everything is written. Raises UserError if it could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, taken: Snapshot) -> None:
        try:
            write_checkpoint(self.folder, taken, keep=self.keep)
        except BaseException as error:
            self._error = error
