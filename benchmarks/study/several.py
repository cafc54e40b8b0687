"""One synthetic set from those of several generators: in each class as many images of one as of another.

For the study of benchmarks/study/several.yaml, after that of benchmarks/study/uses.yaml, whose three GANs it takes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.study.planted import planted_set
from cxrdist.data.shards.open import open_finished_real, open_synthetic


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python -m benchmarks.study.several shards/ph-synthetic-seed* --out shards/ph-several",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("sets", nargs="+", help="synthetic sets of the same real set")
    options.add_argument("--shards", default="shards/ph", help="the real set")
    options.add_argument("--out", type=Path, required=True, help="the new set")
    options.add_argument("--images", type=int, default=2000, help="of each class")
    chosen = options.parse_args()
    real = open_finished_real(chosen.shards)
    sets = [open_synthetic(place, real) for place in chosen.sets]
    share = -(-chosen.images // len(sets))
    images = {
        name: np.concatenate([each.images("train", name, "synthetic", share) for each in sets])[
            : chosen.images
        ]
        for name in real.classes
    }
    made = planted_set(
        chosen.out, real, images, f"{len(sets)} generators: {', '.join(s.digest for s in sets)}"
    )
    print(f"{chosen.out}: {made.samples:,} images of {len(sets)} generators")


if __name__ == "__main__":
    main()
