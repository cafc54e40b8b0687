"""Train a classifier (paper 2.2) on mixes: open the sets, check them, run the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cxrdist.cls.config import ClsConfig
from cxrdist.cls.training.networks import config_for
from cxrdist.cls.training.sources import digests_of, synthetic_path
from cxrdist.cls.training.stages import plan_stages
from cxrdist.cls.training.trainer import ENGINE, Trainer
from cxrdist.config.parser import to_dict
from cxrdist.console import say
from cxrdist.data.ingest.default_set import open_real
from cxrdist.data.mix.named import named_rule
from cxrdist.data.mix.order import check_parts
from cxrdist.data.mix.rules import MixRule
from cxrdist.data.shards.open import open_synthetic
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.errors import OptionError
from cxrdist.run.folder import finished_summary, locked_run
from cxrdist.run.hosts import check_data, check_left_behind, check_options

ZERO_STAGES = (1, 2, 3)


def train(config: ClsConfig) -> None:
    """Train, keep the weights that ``keep_weights`` says, and test those on ``test``."""
    with Dist(config.precision, (ENGINE,), ZERO_STAGES, config.threads, config.collective_timeout) as dist:
        resolved = {**to_dict(config), "precision": dist.precision}
        check_options(dist, "cls", resolved)
        rules = [named_rule(mix) for mix in config.mixes]
        dist.on_main(lambda: open_real(config.shards).close())
        real, synthetic = dist.agree(lambda: open_sets(config, rules))
        check_data(dist, dist.agree(lambda: digests_of(config, real, synthetic)))
        config_for(config, real)
        if config.compile and dist.device.type == "cpu":
            raise OptionError(
                "compile",
                "only on GPUs: on CPU, torch 2.13 compiles max-pooled convolutions of some sizes to code whose "
                "gradients are 0, without an error",
            )
        check_parts(config.batch, dist.world_size, config.accumulate)
        folder = Path(config.run_folder)
        check_left_behind(dist, folder)
        with locked_run(folder, "cls", resolved, dist):
            digests = dist.on_main(lambda: digests_of(config, real, synthetic))
            if dist.on_main(lambda: finished_summary(folder, digests)) is not None:
                say(f"{folder}: already finished; nothing to do (name another --run to start a new one)")
                return
            mixes = ", then ".join(rule.name for rule in rules)
            say(f"classifier on {mixes} of {real}, {real.image_size} px; {dist.describe()}")
            stages = plan_stages(config, rules, real, synthetic, dist)
            Trainer(config, stages, real, synthetic, dist).train()


def open_sets(config: ClsConfig, rules: Sequence[MixRule]) -> tuple[ShardSet, ShardSet | None]:
    """The real set, and the synthetic one if a rule needs it."""
    place = synthetic_path(config, rules)
    real = ShardSet(config.shards)
    if place is None:
        return real, None
    return real, open_synthetic(place, real, allow_other_lineage=config.allow_other_lineage)
