"""The launch of a config: what is wrong with it, and what its processes find when they are started."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from cxrdist.distributed.launch_config import read
from cxrdist.doctor.findings import Finding, error, ok
from cxrdist.doctor.launch.config import Launch, problems
from cxrdist.doctor.launch.reports import Report
from cxrdist.doctor.launch.start import Outcome, launch
from cxrdist.doctor.launch.verdict import findings
from cxrdist.doctor.options import DoctorOptions
from cxrdist.process import available_cores

OVERRIDES = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")
TCP_TIMEOUT_S = 5.0
OTHER_PORTS = (
    "open all ports between the machines: ranks connect over others than main_process_port; on machines with several "
    "networks set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
)


def look(options: DoctorOptions) -> Iterator[Finding]:
    import torch

    if options.config_file is None:
        yield ok("not checked: give --config-file configs/accelerate/gpu.yaml or cpu2.yaml")
        return
    given = {name: getattr(options, name) for name in OVERRIDES if getattr(options, name) is not None}
    planned = Launch(options.config_file, {**read(options.config_file), **given})
    wrong = list(problems(planned, gpus=torch.cuda.device_count(), cores=available_cores()))
    yield from wrong
    if any(finding.level == "error" for finding in wrong):
        return
    began_s = time.monotonic()
    outcome = launch(
        _words(options, given), run=options.run, shards=options.shards, timeout_s=options.timeout
    )
    yield from _of_outcome(planned, outcome, options, time.monotonic() - began_s)


def _words(options: DoctorOptions, given: dict) -> list[str]:
    from cxrdist.config.yaml_files import find

    assert options.config_file is not None
    words = ["--config_file", str(find(options.config_file))]
    return words + [word for name, value in given.items() for word in (f"--{name}", str(value))]


def _of_outcome(
    planned: Launch, outcome: Outcome, options: DoctorOptions, seconds: float
) -> Iterator[Finding]:
    reports = outcome.reports
    if failed := [report for report in reports if report.error]:
        for message in dict.fromkeys(str(report.error) for report in failed):
            yield error(message)
        return
    numbers = [report.rank for report in reports]
    if len(set(numbers)) < len(numbers):
        yield error(
            f"{len(numbers)} processes were started, and each of them takes itself for rank {numbers[0]}: each would "
            "do the whole job",
            "on CPU launch with configs/accelerate/cpu2.yaml, on GPUs with gpu.yaml",
        )
        return
    if results := [report.result for report in reports if report.result is not None]:
        yield from findings(results[0], planned=planned.processes, run=options.run, shards=options.shards)
        return
    if not outcome.timed_out:
        said = f": {outcome.last_words}" if outcome.last_words else ""
        yield error(
            f"accelerate launch ended with exit code {outcome.code}{said}",
            "run the same `accelerate launch` with a script of one print to see all of it",
        )
    elif not reports:
        yield _no_ranks(planned, seconds)
    else:
        yield _stuck(planned, reports, seconds)


def _no_ranks(planned: Launch, seconds: float) -> Finding:
    """The launchers of the machines have not met, since ranks are started only then."""
    if planned.machines == 1:
        return error(
            f"no process was started within {seconds:.0f} s",
            "this machine is busy: try again with --timeout 300",
        )
    where = f"{planned.address}:{planned.port}"
    what = f"the launchers of {planned.machines} machines did not meet at {where} within {seconds:.0f} s"
    if planned.machine == 0:
        others = ", ".join(map(str, range(1, planned.machines)))
        return error(
            f"{what}: the others did not come",
            f"run the same command on them with --machine_rank {others} at the same time; if you did, a firewall "
            f"keeps them from port {planned.port} of this machine, or {planned.address} is not its address",
        )
    why = _unreachable(planned.address, planned.port)
    if why == "refused":
        return error(
            f"{what}: nothing listens there",
            "run the same command on machine 0 (--machine_rank 0) at the same time; check main_process_ip and port",
        )
    if why:
        return error(
            f"{what}: it can't be reached ({why})",
            f"check main_process_ip, the cable, and the firewall of machine 0 for port {planned.port}",
        )
    return error(
        f"{what}, though it can be reached",
        "are all machines started, with different --machine_rank and the same --num_machines and --num_processes?",
    )


def _unreachable(address: str, port: int) -> str:
    """Why a TCP connection fails; empty if it does not."""
    try:
        with socket.create_connection((address, port), TCP_TIMEOUT_S):
            return ""
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "no answer"
    except OSError as failure:
        return failure.strerror or str(failure)


def _stuck(planned: Launch, reports: tuple[Report, ...], seconds: float) -> Finding:
    here = socket.gethostname()
    stages = ", ".join(f"rank {report.rank} on {here} in {report.stage!r}" for report in reports)
    if all(report.stage in ("start", "connect") for report in reports):
        what = f"the processes did not connect to each other within {seconds:.0f} s ({stages})"
        cure = OTHER_PORTS if planned.machines > 1 else "end other jobs on this machine, or try --timeout 300"
        return error(what, cure)
    return error(
        f"the processes were connected, and stopped in the middle, after {seconds:.0f} s ({stages})",
        "a machine or its network was lost, or is very slow: try --timeout 300, on GPUs with NCCL_DEBUG=INFO",
    )
