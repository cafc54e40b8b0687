"""Studies whose answer is known, on phantoms: does a study say what is true?

perfect   fresh phantoms pass for synthetic images: DS3 must beat DS1 and duplicated real images, with intervals
          above 0; with augmentation, too, this is the ceiling of any generator
claims    small studies in which noise, or copies of the real images, pass for synthetic images: in at most 5 % of
          them may an arm be said to help
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.common import Row, device, load, parser, python_path, report, report_progress, versions
from benchmarks.study.planted import copies, fresh_phantoms, noise, phantom_set, planted_set
from cxrdist.data.loading.mix_sets import train_counts
from cxrdist.data.mix.named import named_rule
from cxrdist.data.mix.rules import quotas
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.process import available_cores

ARMS = ("DS1", "duplicated-real", "DS3", "balanced-augmented", "DS3-augmented")
PAIRS = (("DS3", "DS1"), ("DS3", "duplicated-real"), ("DS3-augmented", "balanced-augmented"))
FRESH_SEED = 77
"""Of the phantoms that pass for those of a perfect generator."""

CLAIM_ARMS = ("DS1", "duplicated-real", "DS3")
KINDS = ("noise", "copies of real images")
CLAIM_SEEDS = 3
MOST_FALSE = 0.05


def main() -> None:
    options = parser(__doc__ or "", "python -m benchmarks.study.truth perfect --folder truth --json FILE")
    options.add_argument("part", choices=("perfect", "claims"))
    options.add_argument("--folder", type=Path, default=Path("truth"), help="sets and runs; resumes there")
    options.add_argument("--seeds", type=int, default=5, help="classifiers per arm of `perfect`")
    options.add_argument("--repeats", type=int, default=40, help="small studies of each kind of `claims`")
    options.add_argument("--processes", type=int, default=available_cores(), help="jobs at a time")
    given = options.parse_args()
    given.folder = given.folder.resolve()
    given.folder.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    result = (perfect if given.part == "perfect" else claims)(given)
    result |= {
        "device": device(),
        "load": load(),
        "minutes": round((time.monotonic() - began_s) / 60, 1),
        "versions": versions("torch", "numpy", "scipy"),
    }
    report(result, tuple(result["rows"][0]), given.json)


def lacking(real: ShardSet, mix: str) -> dict[str, int]:
    """Synthetic images of each class that an epoch of the mix takes."""
    wanted = quotas(named_rule(mix), train_counts(real, None))
    return {name: count for name, origins in wanted.items() if (count := origins.get("synthetic", 0))}


# ---- a perfect generator


def perfect(given: argparse.Namespace) -> dict[str, Any]:
    """One study at 64 px: 790 real phantoms, 56 of the rarest class; 2,500 test phantoms of other patients."""
    folder = given.folder
    real = phantom_set(folder / "real", 64, seed=0, val=100, test=500)
    needs = lacking(real, "DS3")
    fresh = fresh_phantoms(folder / "fresh", 64, max(needs.values()), FRESH_SEED)
    images = {name: fresh[name][:count] for name, count in needs.items()}
    planted_set(folder / "perfect", real, images, "fresh phantoms")
    study = {
        "name": "truth",
        "shards": str(folder / "real"),
        "source": None,
        "synthetic": str(folder / "perfect"),
        "arms": list(ARMS),
        "seeds": list(range(given.seeds)),
        "budget": "32000 images",
        "cls_options": ["--evaluations=4"],
        "processes": 1,
        "parallel": given.processes,
        "tracking": {"mode": "disabled"},
    }
    file = folder / "perfect.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    subprocess.run(
        [sys.executable, "-m", "cxrdist", "study", str(file)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": python_path()},
        check=True,
    )
    from cxrdist.study.report.answer.answer import answer_of
    from cxrdist.study.report.answer.outcomes import BALANCED
    from cxrdist.study.report.answer.sentence import sentences
    from cxrdist.study.report.reading.search import collect

    found = collect([folder / "runs/truth"])
    answer = answer_of(found)
    scores = [score for score in answer.scores if score.outcome == BALANCED]
    differences = [difference(found, *pair) for pair in PAIRS]
    return {
        "rows": [
            {"arm": score.arm, "runs": score.runs, "mean": points(score.mean), "sd": points(score.sd)}
            for score in scores
        ],
        "ratios": {f"{each['arm']} - {each['reference']}, points": each["mean"] for each in differences},
        "differences": differences,
        "is_shown": all(each["low"] > 0 for each in differences[:2]),
        "answer": sentences(found, answer)[0],
        "real_images": {name: origins["real"] for name, origins in train_counts(real, None).items()},
        "synthetic_images": {name: len(of_class) for name, of_class in images.items()},
    }


def difference(study: Any, arm: str, reference: str) -> Row:
    """In balanced accuracy, in points, with the 95 % interval over seeds of this difference alone."""
    from cxrdist.study.report.answer.outcomes import BALANCED, values
    from cxrdist.study.stats.differences import compare

    arms = [arm, reference]
    (found,) = compare(BALANCED, values(study, arms, BALANCED), arms, [(arm, reference)])
    low, high = found.interval() or (float("nan"), float("nan"))
    return {
        "arm": arm,
        "reference": reference,
        "mean": points(found.mean),
        "low": points(low),
        "high": points(high),
        "pairs": len(found.pairs),
    }


def points(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


# ---- generators that do not help


def claims(given: argparse.Namespace) -> dict[str, Any]:
    """Small studies at 32 px, each on phantoms of its own: about 280 real ones, and 300 test phantoms."""
    repeats = range(given.repeats)
    # Spawned, so that each process has its core before it imports torch.
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        studies = []
        for said in pool.map(
            small_study, [given.folder] * given.repeats, repeats, [given.processes] * given.repeats
        ):
            studies.append(said)
            report_progress(f"study {len(studies)}/{given.repeats}: {json.dumps(said)}")
    rows: list[Row] = []
    for kind in KINDS:
        of_kind = [study[kind] for study in studies]
        answers = Counter(each["answer"] for each in of_kind)
        rows.append(
            {
                "synthetic images": kind,
                "studies": len(of_kind),
                "said to help": sum(bool(each["claims"]) for each in of_kind),
                **{word: answers[word] for word in ("yes", "no", "not shown")},
                "mean difference, points": round(float(np.mean([each["difference"] for each in of_kind])), 2),
            }
        )
    return {
        "rows": rows,
        "ratios": {
            f"said to help, {row['synthetic images']}": row["said to help"] / row["studies"] for row in rows
        },
        "is_honest": all(row["said to help"] <= MOST_FALSE * row["studies"] for row in rows),
        "studies": studies,
    }


def small_study(folder: Path, repeat: int, processes: int) -> dict[str, Any]:
    """What the studies of a repeat say, one for each kind of synthetic images; kept in answers.json."""
    place = folder / f"study{repeat}"
    kept = place / "answers.json"
    if not kept.is_file():
        place.mkdir(parents=True, exist_ok=True)
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[repeat % min(processes, len(cores))]} if len(cores) > 1 else cores)
        with output_to(place / "log.txt"):
            kept.write_text(json.dumps(said_of_small_study(place, repeat), indent=1))
    said: dict[str, Any] = json.loads(kept.read_text())
    return said


def said_of_small_study(place: Path, repeat: int) -> dict[str, Any]:
    real = phantom_set(place / "real", 32, seed=1000 + repeat, val=20, test=60, images=400)
    needs = lacking(real, "DS3")
    sets = {"noise": noise(needs, 32, seed=repeat), "copies of real images": copies(real, needs)}
    for arm in CLAIM_ARMS[:-1]:
        train_arm(place, arm, None, place / "of-real")
    said = {}
    for number, (kind, images) in enumerate(sets.items()):
        synthetic = place / f"synthetic{number}"
        planted_set(synthetic, real, images, kind)
        train_arm(place, CLAIM_ARMS[-1], synthetic, place / f"of-synthetic{number}")
        said[kind] = said_of([place / "of-real", place / f"of-synthetic{number}"])
    return said


def train_arm(place: Path, arm: str, synthetic: Path | None, runs: Path) -> None:
    from cxrdist.cls.config import ClsConfig
    from cxrdist.cls.train import train
    from cxrdist.run.tracking.config import TrackingConfig

    for seed in range(CLAIM_SEEDS):
        config = ClsConfig(
            mix=arm,
            arm=arm,
            shards=str(place / "real"),
            synthetic=None if synthetic is None else str(synthetic),
            run=str(runs / f"{arm}-seed{seed}"),
            seed=seed,
            budget="6400 images",
            evaluations=2,
            tracking=TrackingConfig(mode="disabled"),
            widths=(16, 64),  # those of configs/cls/px32.yaml
            hidden=256,
            batch=64,
        )
        train(config)


def said_of(folders: Sequence[Path]) -> dict[str, Any]:
    """The answer by balanced accuracy, all claims, and the difference of DS3 to the best arm of real images."""
    from cxrdist.study.report.answer.answer import answer_of
    from cxrdist.study.report.reading.search import collect

    answer = answer_of(collect(list(folders)))
    return {
        "answer": answer.verdicts[0].answer,
        "claims": [
            each.outcome.class_name or each.outcome.metric for each in answer.verdicts if answer.helps(each)
        ],
        "best_real": answer.best_real,
        "difference": points(answer.verdicts[0].difference),
    }


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """What this process prints goes to a file."""
    kept = [os.dup(1), os.dup(2)]
    with path.open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        for stream, saved in enumerate(kept, 1):
            os.dup2(saved, stream)
            os.close(saved)


if __name__ == "__main__":
    main()
