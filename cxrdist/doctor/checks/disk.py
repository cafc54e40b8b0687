"""Free disk space against what a run, the cache of remote sets and temporary files need."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cxrdist.console import size_text
from cxrdist.data.storage.block_cache import DEFAULT_LIMIT_BYTES, default_cache
from cxrdist.doctor.findings import Finding, error, ok, warning
from cxrdist.doctor.options import DoctorOptions
from cxrdist.files import nearest_folder

GENERAL_BYTES = 20 * 2**30
"""What is asked for where no config is given: the paper's GANs of five classes keep checkpoints of 12.4 GiB."""
LEAST_INODES = 10_000
LEAST_TEMPORARY_BYTES = 2**30
PAPER_SIZE, PAPER_CLASSES = 256, 5
QUOTA_TIMEOUT_S = 5


def look(options: DoctorOptions) -> Iterator[Finding]:
    yield from _run(options)
    yield from _inodes(options)
    yield from _temporary()
    if options.shards is not None and "://" in options.shards:
        yield from _of_cache(options)
    yield from _quota()


def _run(options: DoctorOptions) -> Iterator[Finding]:
    folder = nearest_folder(options.run)
    free = shutil.disk_usage(folder).free
    if not options.gan and not options.cls:
        if free < GENERAL_BYTES:
            needed = size_text(GENERAL_BYTES)
            yield warning(
                f"{options.run}: {size_text(free)} free; runs of the paper's presets may need {needed}",
                "free some, or give the configs with --gan and --cls, from which the need is computed",
            )
        else:
            yield ok(f"{options.run}: {size_text(free)} free (--gan and --cls compute what a run needs)")
        return
    from cxrdist.doctor.needs import needs

    size, classes, basis = _shape(options)
    found = list(needs(options.gan, options.cls, image_size=size, classes=classes))
    there = _checkpoints_in(options.run)
    total = max(0, sum(need.total_bytes for need in found) - there)
    arithmetic = "; ".join([*map(str, found), *([f"{size_text(there)} of it are there"] if there else [])])
    if free < total:
        yield error(
            f"{options.run}: {size_text(free)} free, and {size_text(total)} needed for {basis}: {arithmetic}",
            "free some, give a --run on another disk, or a smaller --keep",
        )
    else:
        yield ok(
            f"{options.run}: {size_text(free)} free, {size_text(total)} needed for {basis}: {arithmetic}"
        )


def _checkpoints_in(run: str) -> int:
    """Bytes of the checkpoints of a run that was begun; 0 for a folder of several runs, whose need is not known."""
    from cxrdist.run.folder import CONFIG

    if not Path(run, CONFIG).is_file():
        return 0
    return sum(file.stat().st_size for file in Path(run).glob("**/checkpoints/**/*") if file.is_file())


def _shape(options: DoctorOptions) -> tuple[int, int, str]:
    """Image size and number of classes, and where they are from."""
    if options.shards is None:
        return PAPER_SIZE, PAPER_CLASSES, f"{PAPER_SIZE} px and {PAPER_CLASSES} classes (no --shards)"
    from cxrdist.data.shards.shard_set import ShardSet

    shards = ShardSet(options.shards)
    count = len(shards.classes)
    return shards.image_size, count, f"{shards.image_size} px and {count} classes"


def _inodes(options: DoctorOptions) -> Iterator[Finding]:
    stat = os.statvfs(nearest_folder(options.run))
    # Some file systems, btrfs for one, have no fixed number, and say 0.
    if stat.f_files and stat.f_favail < LEAST_INODES:
        yield error(
            f"{options.run}: {stat.f_favail:,} files may still be made there (inodes), though there is space",
            "remove folders of many small files, or give a --run elsewhere",
        )


def _temporary() -> Iterator[Finding]:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < LEAST_TEMPORARY_BYTES:
        yield warning(
            f"{folder}: {size_text(free)} free for temporary files (torch.compile, DeepSpeed)",
            "free some, or set TMPDIR to a folder on another disk",
        )


def _of_cache(_: DoctorOptions) -> Iterator[Finding]:
    cache = default_cache()
    if cache is None:
        yield warning("CXRDIST_CACHE_GIB=0: every epoch fetches the set again", "unset it if there is space")
        return
    free = shutil.disk_usage(nearest_folder(cache.folder)).free
    asked = os.environ.get("CXRDIST_CACHE_GIB")
    limit = int(float(asked) * 2**30) if asked else min(DEFAULT_LIMIT_BYTES, free // 4)
    used = _bytes_in(cache.folder)
    what = f"cache {cache.folder}: up to {size_text(limit)}, {size_text(used)} in use, {size_text(free)} free"
    if limit > free + used:
        yield warning(what, "lower CXRDIST_CACHE_GIB, or set CXRDIST_CACHE to a folder on another disk")
    else:
        yield ok(what)


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*") if file.is_file()) if folder.is_dir() else 0


def _quota() -> Iterator[Finding]:
    """``quota -q`` prints file systems on which the user is over a limit, and nothing else."""
    if shutil.which("quota") is None:
        return
    try:
        done = subprocess.run(
            ["quota", "-q"], capture_output=True, text=True, timeout=QUOTA_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return
    if done.stdout.strip():
        yield error(f"over a disk quota: {' '.join(done.stdout.split())}", "free some, or ask for more")
