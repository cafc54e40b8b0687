"""The classifiers of real images that the gates use: named in an option, or trained before the processes meet.

Rank 0 trains them as processes of their own. The other ranks wait for their files, not in a collective: a training
may last longer than a collective waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cxrdist import ranks
from cxrdist.data.ingest.default_set import open_real
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import OptionError, UserError
from cxrdist.features.classifier import ensure_classifier, load_classifier
from cxrdist.models import TrainedClassifier
from cxrdist.run.folder import SUMMARY
from cxrdist.synth.config import ENSEMBLE, SynthConfig
from cxrdist.synth.gates.config import GatesConfig

POLL_S = 1.0


def folders_of(config: SynthConfig, gates: GatesConfig) -> list[Path]:
    """Of the classifiers' runs. The first one is that of the GAN's evaluation, too."""
    if not gates.needs_classifier:
        return []
    if config.classifiers:
        return [Path(folder) for folder in config.classifiers]
    # Beside the run of the job, whose folder does not exist yet; in that of a GAN its evaluation looks, too.
    base = f"{config.run_folder}-" if config.generator is not None else f"{config.gan_runs[0]}/"
    return [Path(base + ("classifier" if not seed else f"classifier-seed{seed}")) for seed in range(ENSEMBLE)]


def prepare(config: SynthConfig, gates: GatesConfig, check: Callable[[ShardSet], None]) -> None:
    """Train the classifiers that do not exist yet; before the process group is formed. ``check``: raises UserError,
    before they are trained, if the job cannot use them. Raises UserError if a training fails. On several machines,
    where other ranks may not see the files, nothing is trained."""
    folders = folders_of(config, gates)
    if config.classifiers or all((folder / SUMMARY).exists() for folder in folders):
        return
    if ranks.spans_hosts():
        return  # `load` says so: before the processes have met, those of other machines would wait for this one
    if not ranks.is_main_rank():
        while not all((folder / SUMMARY).exists() for folder in folders):
            time.sleep(POLL_S)  # if rank 0 fails, the launcher ends this process
        return
    real = open_real(config.shards)
    try:
        check(real)
        for seed, folder in enumerate(folders):
            ensure_classifier(folder, real, config.shards, seed=seed)
    finally:
        real.close()


def load(config: SynthConfig, gates: GatesConfig, real: ShardSet) -> list[TrainedClassifier]:
    """Raises UserError for a classifier that is not finished, or learned from anything but the train split of the
    real set, and on several machines for one that does not exist."""
    folders = folders_of(config, gates)
    missing = next((folder for folder in folders if not (folder / SUMMARY).exists()), None)
    if missing is not None and not config.classifiers and ranks.spans_hosts():
        raise UserError(
            f"{missing} does not exist, and on several machines no classifier is trained on the way: train it "
            "with this command on one machine (--count 1) or with train_cls.py, and name it with --classifiers"
        )
    instead = "remove this folder, and another one is trained"
    if config.classifiers:
        instead = "remove --classifiers to train some on the real train split alone"
    try:
        return [load_classifier(folder, real, instead=instead) for folder in folders]
    except UserError as error:
        if not config.classifiers:
            raise
        raise OptionError("classifiers", str(error)) from None
