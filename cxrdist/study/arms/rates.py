"""The learning rate of each arm, chosen on validation images of the first fold with the same effort for every arm."""

from __future__ import annotations

from pathlib import Path

from cxrdist.errors import UserError
from cxrdist.files import read_json
from cxrdist.study.arms.arm import Arm
from cxrdist.study.arms.config import StudyConfig


def search_name(arm: Arm, rate: float) -> str:
    return f"search/{arm.slug}-lr{rate:g}"


def search_run(config: StudyConfig, arm: Arm, rate: float) -> Path:
    return config.folder / search_name(arm, rate)


def rate_words(config: StudyConfig, arm: Arm) -> list[str]:
    """The option of train_cls.py with the arm's learning rate; empty if none is given."""
    if not config.learning_rates:
        return []
    return ["--learning-rate", str(chosen_rate(config, arm))]


def chosen_rate(config: StudyConfig, arm: Arm) -> float:
    """The rate with the best balanced accuracy on ``val``; of equal ones the smaller. Raises UserError if a search
    has not finished."""
    if len(config.learning_rates) == 1:
        return config.learning_rates[0]
    scores = {}
    for rate in config.learning_rates:
        summary = search_run(config, arm, rate) / "summary.json"
        if not summary.is_file():
            raise UserError(f"{summary}: missing: the learning rate of {arm.name} is chosen when it is there")
        scores[rate] = read_json(summary)["metrics"]["val"]["balanced_accuracy"]
    return min(scores, key=lambda rate: (-scores[rate], rate))


def known_rate(config: StudyConfig, arm: Arm) -> float | None:
    """The arm's learning rate; None if the config gives none, or its search has not finished."""
    try:
        return chosen_rate(config, arm) if config.learning_rates else None
    except UserError:
        return None
