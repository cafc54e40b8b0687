"""A job of launch/ that reads a small set at a URL in many requests: `small_blocks.py train_cls.py --shards ...`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from cxrdist.data.storage import block_reader, blocks

BLOCK_BYTES, AHEAD_BLOCKS = 48 * 1024, 4

if __name__ == "__main__":
    blocks.BLOCK_BYTES, block_reader.AHEAD_BLOCKS = BLOCK_BYTES, AHEAD_BLOCKS
    sys.argv = sys.argv[1:]
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "launch" / sys.argv[0]), run_name="__main__")
