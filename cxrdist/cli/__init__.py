"""The ``cxrdist`` command: everything that needs no GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from cxrdist import __version__
from cxrdist.cli import imports, mix, shards, study
from cxrdist.errors import UserError, nearest
from cxrdist.process import main as process_main

Commands = dict[str, "Callable[[Sequence[str]], int | None] | Commands"]

COMMANDS: Commands = {
    "import": {**imports.COMMANDS},
    "shards": {**shards.COMMANDS},
    "mix": {**mix.COMMANDS},
    "study": study.study,
    "report": study.report,
}

USAGE = f"""cxrdist: GAN-balanced chest radiographs, from shards to a report

  cxrdist import NAME                   radiographs -> a shard set; NAME is one of
                                        {", ".join(imports.COMMANDS)}
  cxrdist shards info|stats|preview SET what a set holds: counts and origin; grey values, views, people; a picture
  cxrdist shards verify|index SET       whether it is whole; indexes made again
  cxrdist shards convert SET            the same set in another encoding or a smaller size
  cxrdist mix show|order DS3            what an epoch of a mix takes; which images each process sees, step by step
  cxrdist study configs/study/demo.yaml the whole experiment
  cxrdist report runs/... --out report  a page about finished runs

Each has --help. Training and synthesis run under accelerate:
  accelerate launch launch/train_gan.py | launch/synthesize.py | launch/train_cls.py

Example:
  cxrdist import phantom --out shards/phantom --size 64 --seed 0"""


def dispatch(argv: Sequence[str]) -> int | None:
    words, commands = list(argv), COMMANDS
    said = ["cxrdist"]
    while True:
        if not words or words[0] in ("-h", "--help"):
            print(USAGE)
            return 0
        if words[0] == "--version":
            print(f"cxrdist {__version__}")
            return 0
        word = words.pop(0)
        if word not in commands:
            raise UserError(f"{' '.join(said)} {word}: unknown command{nearest(word, commands)}")
        said.append(word)
        chosen = commands[word]
        if callable(chosen):
            return chosen(words)
        commands = chosen


def main() -> None:
    process_main(lambda: dispatch(sys.argv[1:]))
