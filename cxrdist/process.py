"""A command as a process: exit codes, signals, memory, and ending together with the process that started it."""

from __future__ import annotations

import atexit
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
# From malloc.h. The block is the largest that glibc allows.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEPT_BLOCK_BYTES, KEPT_BYTES = 32 * 2**20, 64 * 2**20
SILENT_RANK_WAITS_S = 3.0


def main(command: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit with its code (None: 0), with 2 and one line for a UserError, or 130 for ctrl-C.

    Call this before the heavy imports: from here on, a launched process ends with its launcher.
    """
    if was_launched():
        die_with_parent()
    # Another handler means that the process that started this one wants ctrl-C to be ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt_once)
    # A terminal whose encoding has no "±" shows a question mark.
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
        # The reader of our output has exited (`| head`). The command may be incomplete, so exit with the code that
        # shell commands have then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        code = _report(from_os(error))
    except MemoryError as error:
        detail = f" ({error})" if str(error) else ""
        code = _report(
            UserError(
                f"memory ran out{detail}: use fewer or smaller images, or a machine with more memory",
                every_rank=True,
            )
        )
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        print("stopped: another process of this job ended first; see its error", file=sys.stderr)
        code = 1
    if was_launched():
        _exit_at_once(code)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _exit_at_once(code: int) -> NoReturn:
    """Exit after the functions of atexit, without finalizing the interpreter.

    Threads of a process group (gloo) may still release tensors then, for which they need the interpreter: seldom, a
    rank whose work was done ended with SIGABRT ("terminate called without an active exception"; PyTorch pull request
    179291), and its launcher failed.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def interrupt_once(signum: int, frame: FrameType | None) -> NoReturn:
    """Handler of SIGINT: raise KeyboardInterrupt once. More of them, while the command cleans up, would leave workers
    waiting."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _is_lost_peer(error: RuntimeError) -> bool:
    """True for a collective that failed because another rank has exited: this rank's traceback would hide the
    cause."""
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
        # Rank 0 prints the same error. Wait for it: the launcher kills all ranks as soon as one has exited.
        time.sleep(SILENT_RANK_WAITS_S)
    return 2


def available_cores() -> int:
    """Cores that this process may use: fewer than the machine has inside a container or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_main_rank() -> bool:
    """True on rank 0, according to the launcher's environment, and without a launcher."""
    return os.environ.get("RANK", "0") == "0"


def was_launched() -> bool:
    """True under ``accelerate launch`` or ``torchrun``."""
    return any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"))


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Block ctrl-C for the ``with`` block; a process that is started in it never receives one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(parent: int | None = None) -> None:
    """Make the kernel kill this process when the process that started it ends (Linux; elsewhere a no-op).

    ``parent``: process ID of that process, if known. torchrun's workers have sessions of their own: a SIGKILL to the
    launcher's process group leaves them training, and a second launch would write to the same folder.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before prctl was called.
    if os.getppid() != parent if parent is not None else _is_orphan():
        os.write(2, b"stopped: the process that started this one has ended\n")
        os._exit(1)


def keep_freed_memory() -> None:
    """Make malloc keep and reuse freed memory (blocks of up to 32 MiB, 64 MiB in total) instead of returning it to
    the system (glibc; elsewhere a no-op).

    By default the memory of each large image is returned to the system and allocated again, and the kernel clears
    every page of it: a ninth of the time of an import of 1024 px radiographs.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def keep_all_freed_memory() -> None:
    """The same for memory of any size, until the process ends: for training on CPU, which allocates activations and
    gradients of tens of megabytes in each step. The process then keeps the memory of its largest step."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _is_orphan() -> bool:
    """True if the launcher has exited, so that init has adopted this process."""
    if os.getppid() != 1:
        return False
    # In a container the launcher may itself be process 1.
    init = Path("/proc/1/cmdline").read_bytes()
    return not any(word in init for word in (b"accelerate", b"torchrun", b"torch.distributed"))
