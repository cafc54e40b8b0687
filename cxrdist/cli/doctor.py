"""``cxrdist doctor``: what would end or slow a job, before it is started."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cxrdist.config.parser import parse
from cxrdist.doctor.options import DoctorOptions


def doctor(argv: Sequence[str]) -> int:
    options = parse(
        DoctorOptions,
        argv,
        prog="cxrdist doctor",
        example="cxrdist doctor --config_file configs/accelerate/gpu.yaml --run runs/gan --shards shards/phantom",
    )
    from cxrdist.console import print_line
    from cxrdist.doctor.checkup import checkup
    from cxrdist.doctor.findings import as_json, count
    from cxrdist.doctor.text import section_lines, verdict

    sections = []
    for section in checkup(options):
        sections.append(section)
        if not options.json:
            print_line("\n".join([*section_lines(section), ""]))
    print_line(json.dumps(as_json(sections), indent=1) if options.json else verdict(sections))
    return 1 if count(sections, "error") else 0
