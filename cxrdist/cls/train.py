"""Train the classifier (paper 2.2) on a mix: open the sets, check them, run the trainer."""

from __future__ import annotations

from pathlib import Path

from cxrdist.cls.config import ClsConfig
from cxrdist.cls.sources import digests_of, synthetic_path
from cxrdist.cls.trainer import Trainer
from cxrdist.config.parser import to_dict
from cxrdist.config.yaml_files import find_named, load_yaml
from cxrdist.console import say
from cxrdist.data.ingest.default_set import open_real
from cxrdist.data.mix.order import check_divides
from cxrdist.data.mix.rules import rule_from
from cxrdist.data.shards.open import open_synthetic
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.distributed.dist import Dist
from cxrdist.run.folder import finished_summary, locked_run


def train(config: ClsConfig) -> None:
    """Train, keep the weights with the best balanced accuracy on ``val``, and test those on ``test``."""
    dist = Dist(config.precision)
    folder = Path(config.run_folder)
    rule = rule_from(load_yaml(find_named("mix", config.mix)))
    synthetic_folder = synthetic_path(config, rule)
    dist.on_main(lambda: open_real(config.shards).close())
    real = ShardSet(config.shards)
    synthetic = None
    if synthetic_folder is not None:
        synthetic = open_synthetic(synthetic_folder, real, allow_other_lineage=config.allow_other_lineage)
    config.network(real.image_size, len(real.classes))
    check_divides(config.batch, dist.world_size)
    with locked_run(folder, "cls", to_dict(config), dist):
        if dist.on_main(lambda: finished_summary(folder, digests_of(real, synthetic))) is not None:
            say(f"{folder}: already finished; nothing to do (name another --run to start a new one)")
        else:
            say(f"classifier on {rule.name} of {real}, {real.image_size} px; {dist.describe()}")
            Trainer(config, rule, real, synthetic, dist).train()
    dist.close()
