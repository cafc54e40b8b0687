"""Mixes by their names: files of configs/mix, or paths of a user's own."""

from __future__ import annotations

from cxrdist.config.yaml_files import find_named, load_yaml
from cxrdist.data.mix.rules import MixRule, rule_from

DEFAULT_MIX = "DS1"
"""The mix of a classifier that is given none."""


def named_rule(mix: str) -> MixRule:
    """``DS3`` is the rule of configs/mix/DS3.yaml. Raises UserError for a mix that does not exist or is not valid."""
    return rule_from(load_yaml(find_named("mix", mix)))
