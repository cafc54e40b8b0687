"""A command as a process: exit codes, signals, memory, and ending together with the process that started it."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from cxrdist.error_report import say_error, say_unexpected
from cxrdist.errors import UserError, from_os
from cxrdist.ranks import place, was_launched
from cxrdist.stop_signals import (
    Stopped,
    ignore_stop_signals,
    interrupted_by_signals,
    is_stopping,
    signal_when_parent_ends,
)

# From malloc.h. The block is the largest that glibc allows.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEPT_BLOCK_BYTES, KEPT_BYTES = 32 * 2**20, 64 * 2**20
LOST_PEER = (
    "stopped: another process of this job ended first: see its error, or whether its host is lost; the same command "
    "resumes"
)

LATE_PEER = (
    "stopped: another process of this job did not come to the same step within --collective-timeout, though it runs: "
    "see what it waits for; the same command resumes"
)


def main(command: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit with its code (None: 0), with 2 and one line for a UserError, with 130 for Ctrl-C, with
    143 for another stop signal, or with 1 if another process of the job has ended or for an unexpected error.

    Call this before the heavy imports: from here on, a launched process ends with its launcher.
    """
    if was_launched():
        die_with_parent()
        # When a host is lost, c10d warns with C++ stack traces around the line that says so.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # A terminal whose encoding has no "±" shows a question mark.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with interrupted_by_signals():
        if not was_launched():
            code = _exit_code_of(command)
            _flush()
        else:
            try:
                code = _exit_code_of(command)
            except Exception as error:
                say_unexpected(error)
                code = 1
            _exit_at_once(code)
    sys.exit(code)


def _exit_code_of(command: Callable[[], int | None]) -> int:
    """Run the command, and say what ends it early."""
    try:
        try:
            return command() or 0
        finally:
            # The launcher sends SIGTERM to the ranks as soon as one has ended; each still says why it ends.
            ignore_stop_signals()
    except UserError as error:
        return _report(error)
    except Stopped as stopped:
        say_error(f"stopped; {stopped}")
        return stopped.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output has exited (`| head`). The command may be incomplete, so exit with the code that
        # shell commands have then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        return _report(from_os(error))
    except MemoryError as error:
        detail = f" ({error})" if str(error) else ""
        return _report(
            UserError(f"memory ran out{detail}: use fewer or smaller images, or a machine with more memory")
        )
    except RuntimeError as error:
        if "Timed out waiting" in str(error):  # gloo
            say_error(LATE_PEER)
        elif _is_lost_peer(error):
            say_error(LOST_PEER)
        else:
            raise
        return 1


def _exit_at_once(code: int) -> NoReturn:
    """Exit after the functions of atexit, without finalizing the interpreter.

    Threads of a process group (gloo) may still release tensors then, for which they need the interpreter: seldom, a
    rank whose work was done ended with SIGABRT ("terminate called without an active exception"; PyTorch pull request
    179291), and its launcher failed.
    """
    atexit._run_exitfuncs()
    _flush()
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            if not is_stopping():
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_lost_peer(error: RuntimeError) -> bool:
    """True for a collective that failed because another rank has exited: this rank's traceback would hide the
    cause."""
    words = (
        "Connection closed by peer",
        "Connection reset by peer",
        "Connection timed out",
        "No route to host",
        "Broken pipe",
        "Socket Timeout",
        "remote process exited",
        "wait timeout after",  # of the ranks' store, while they connect
    )
    return any(word in str(error) for word in words)


def _report(error: UserError) -> int:
    where = "" if error.is_named else place()
    say_error(str(error), before=f"error: {where}: " if where else "error: ")
    return 2


def available_cores() -> int:
    """Cores that this process may use: fewer than the machine has inside a container or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def without_interrupts(signals: Iterable[signal.Signals] = (signal.SIGINT,)) -> Iterator[None]:
    """Block Ctrl-C, or other ``signals``, for the ``with`` block; a process that is started in it never receives
    them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
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
    signal_when_parent_ends(signal.SIGKILL)
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
