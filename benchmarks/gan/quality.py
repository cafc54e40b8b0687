"""Compare generators, several seeds each, in one table and one picture.

python -m benchmarks.gan.quality phantom --help    presets on phantoms, judged by an oracle
python -m benchmarks.gan.quality real --help       a preset on real radiographs, beside the paper's
"""

from __future__ import annotations

import sys

from benchmarks.gan import quality_phantom, quality_real

COMMANDS = {"phantom": quality_phantom.main, "real": quality_real.main}


def main() -> None:
    command, *words = sys.argv[1:] or [""]
    if command not in COMMANDS:
        sys.exit((__doc__ or "").strip())
    sys.argv[0] = f"quality {command}"  # named in --help
    COMMANDS[command](words)


if __name__ == "__main__":
    main()
