"""Before anything is written: the first 256 images of each generator and class, judged.

A generator of which too few pass, or that draws a few images over and over, would keep the job busy without end, or
fill the set with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cxrdist.config.yaml_files import find
from cxrdist.console import Progress
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.gates.judge import Judge
from cxrdist.synth.generators.sources import BLOCK, ImageSource

BLOCKS = 4
SHOWN = 8
"""Images of each class and gate that are kept to be looked at."""


@dataclass(frozen=True)
class Probed:
    """One block of one generator."""

    class_name: str
    source: str
    """Digest of the generator."""
    tried: int
    admitted: int
    passed: dict[str, int]
    features: np.ndarray | None
    """[n, D] for the coverage."""
    shown: dict[str, list[np.ndarray]]
    """By the gate that refuses them first, or ``admitted``: images [H, W] uint8."""


@dataclass(frozen=True)
class Probe:
    """All blocks."""

    blocks: Sequence[Probed]
    coverage: dict[str, dict[str, float]]
    """``{class: {digest of the generator: coverage}}``."""

    def shown(self, gate: str) -> dict[str, list[np.ndarray]]:
        """``{class: images}`` that a gate refuses first, or that are ``admitted``."""
        found: dict[str, list[np.ndarray]] = {}
        for block in self.blocks:
            found.setdefault(block.class_name, []).extend(block.shown.get(gate, []))
        return {name: images[:SHOWN] for name, images in found.items()}


def probe(
    config: SynthConfig, sources: Mapping[str, Sequence[ImageSource]], judge: Judge, dist: Dist
) -> Probe:
    """All ranks call this, and judge a part of the blocks each. Raises UserError, on all of them, if a generator's
    pass rate or coverage is too low."""
    jobs = [(name, source, block) for name, of in sources.items() for source in of for block in range(BLOCKS)]
    if judge.config.is_off:
        return Probe([], {})
    mine = jobs[dist.rank :: dist.world_size]
    with Progress("gates: first images of each class", len(mine) * BLOCK) as progress:

        def each() -> list[Probed]:
            found = []
            for job in mine:
                found.append(_judged(*job, config.seed, judge))
                progress.advance(BLOCK)
            return found

        blocks = dist.gather_objects(dist.agree(each))
    blocks.sort(key=lambda block: (block.class_name, block.source))
    coverage = {name: {} for name in sources}  # type: dict[str, dict[str, float]]
    for name, of in sources.items():
        for source in of:
            here = [b for b in blocks if (b.class_name, b.source) == (name, source.digest)]
            check_pass_rate(name, here, config)
            if here[0].features is not None:
                covered = judge.coverage(
                    name, np.concatenate([b.features for b in here if b.features is not None])
                )
                check_coverage(name, covered, judge)
                if covered is not None:
                    coverage[name][source.digest] = round(covered, 4)
    return Probe(blocks, coverage)


def _judged(class_name: str, source: ImageSource, block: int, seed: int, judge: Judge) -> Probed:
    images = source.block(class_name, seed, block)
    judged = judge.judge(class_name, images)
    shown: dict[str, list[np.ndarray]] = {}
    for place, image in enumerate(images):
        gate = next(iter(judged.refused_by(place)), "admitted")
        if len(shown.setdefault(gate, [])) < SHOWN:
            shown[gate].append(image)
    return Probed(
        class_name,
        source.digest,
        len(images),
        int(judged.admitted.sum()),
        {name: int(passed.sum()) for name, passed in judged.passed.items()},
        judged.features,
        shown,
    )


def check_pass_rate(class_name: str, blocks: Sequence[Probed], config: SynthConfig) -> None:
    """Raises UserError if too few of a generator's images pass, and names the gate that refuses most."""
    tried, admitted = sum(b.tried for b in blocks), sum(b.admitted for b in blocks)
    if admitted >= config.least_pass_rate * tried:
        return
    passed = {gate: sum(b.passed[gate] for b in blocks) for gate in blocks[0].passed}
    strictest = min(passed, key=lambda gate: passed[gate])
    rates = ", ".join(f"{gate} {count / tried:.0%}" for gate, count in passed.items())
    raise UserError(
        f"{class_name}: only {admitted} of {tried} generated images pass the gates, under --least-pass-rate "
        f"{config.least_pass_rate:g} (each gate alone lets pass: {rates}). Train the generator longer (--budget) or "
        f"with another preset, or loosen the gate '{strictest}' in a copy of {find('configs/gates/default.yaml')} "
        "that you name with --gates"
    )


def check_coverage(class_name: str, covered: float | None, judge: Judge) -> None:
    """Raises UserError for a generator near whose images lie too few real ones."""
    least = judge.config.coverage
    if least is None or covered is None or covered >= least:
        return
    raise UserError(
        f"{class_name}: the generator covers {covered:.0%} of the real training images, under the least coverage of "
        f"{least:.0%}: it draws few different images. Train it longer, or with another preset; a lower 'coverage' in "
        "a file for --gates uses it all the same"
    )
