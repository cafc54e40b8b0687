"""A command as a process: how it ends, and that it does not outlive the one that started it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cxrdist.errors import UserError, from_os

PR_SET_PDEATHSIG = 1
# From malloc.h; the block is the largest that glibc takes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEPT_BLOCK_BYTES, KEPT_BYTES = 32 * 2**20, 64 * 2**20
SILENT_RANK_WAITS_S = 3.0


def main(command: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit: 0 or its own code; 2 and one line for a user's mistake; 130 for ctrl-C.

    Call this before the heavy imports: from here on, a launched process ends with its launcher.
    """
    if was_launched():
        die_with_parent()
    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # else who started this wants it ignored
        signal.signal(signal.SIGINT, interrupt_once)
    # A terminal that has no "±" shows a question mark.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = command() or 0
    except UserError as error:
        code = _report(error)
    except KeyboardInterrupt:
        if is_main_rank():
            print("stopped; the same command resumes", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`). What was to be done may not be done: say so, as a
        # shell's own commands do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        code = _report(from_os(error))
    except MemoryError as error:
        told = f" ({error})" if str(error) else ""
        code = _report(
            UserError(
                f"memory ran out{told}: take fewer or smaller images, or a machine with more", every_rank=True
            )
        )
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        print(
            "stopped: another process of this job ended first; its error is the one to read", file=sys.stderr
        )
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def interrupt_once(signum: int, frame: FrameType | None) -> NoReturn:
    """The first ctrl-C ends the command; those after it, on its short way out, would leave workers waiting."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _is_lost_peer(error: RuntimeError) -> bool:
    """A collective that failed because another rank is gone: this rank's traceback would hide the cause."""
    words = (
        "Connection closed by peer",
        "Connection reset by peer",
        "Socket Timeout",
        "remote process exited",
    )
    return any(word in str(error) for word in words)


def _report(error: UserError) -> int:
    if is_main_rank() or error.every_rank:
        print(f"error: {error}", file=sys.stderr, flush=True)
    else:
        # Rank 0 has the same error to tell, and the launcher ends all ranks as soon as one has ended.
        time.sleep(SILENT_RANK_WAITS_S)
    return 2


def available_cores() -> int:
    """Cores that this process may use: fewer than the machine has inside a container or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_main_rank() -> bool:
    """Rank 0, as the launcher's environment says; also true without a launcher."""
    return os.environ.get("RANK", "0") == "0"


def was_launched() -> bool:
    """True under ``accelerate launch`` or ``torchrun``, whose death must be ours too."""
    return any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"))


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Hold ctrl-C back for the time of the block; a process started in it never gets one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when the process that started it ends (Linux; elsewhere a no-op).

    torchrun's workers start sessions of their own: a SIGKILL to the launcher's process group leaves them
    training, and a second launch then writes beside them.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before it was asked to take this process along.
    if os.getppid() != parent if parent is not None else _is_orphan():
        os.write(2, b"stopped: the process that started this one has ended\n")
        os._exit(1)


def keep_freed_memory() -> None:
    """Have this process keep what it frees for what it allocates next (glibc; elsewhere a no-op).

    By default each large image is given back to the system and taken anew, and the system clears every page of it:
    a ninth of the time to import radiographs of 1024 px.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def keep_all_freed_memory() -> None:
    """The same for blocks of any size, for as long as the process lives: for training on CPU, whose activations and
    gradients of tens of megabytes are asked for anew each step. It then holds what its largest step took."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _is_orphan() -> bool:
    """Init has adopted this process: the launcher, whose number nobody told us, is gone."""
    if os.getppid() != 1:
        return False
    # In a container the launcher may itself be process 1.
    init = Path("/proc/1/cmdline").read_bytes()
    return not any(word in init for word in (b"accelerate", b"torchrun", b"torch.distributed"))
