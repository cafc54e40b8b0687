"""The ``cxrdist`` command: everything that needs no GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from cxrdist import __version__
from cxrdist.cli import advise, compare, doctor, imports, mix, predict, review, shards, study, synth
from cxrdist.config.parser import reported_where_written
from cxrdist.errors import UserError, nearest
from cxrdist.process import main as process_main

Commands = dict[str, "Callable[[Sequence[str]], int | None] | Commands"]

COMMANDS: Commands = {
    "import": {**imports.COMMANDS},
    "shards": {**shards.COMMANDS},
    "mix": {**mix.COMMANDS},
    "synth": {**synth.COMMANDS},
    "review": {**review.COMMANDS},
    "advise": advise.advise,
    "doctor": doctor.doctor,
    "predict": predict.predict,
    "export": predict.export,
    "study": study.study,
    "report": study.report,
    "compare": compare.compare,
}

USAGE = f"""cxrdist: GAN-balanced chest radiographs, from shards to a report

  cxrdist import NAME                   import radiographs into a shard set; NAME is one of
                                        {", ".join(imports.COMMANDS)}
  cxrdist shards info|stats|preview SET show counts and provenance; grey values, views, patients; images
  cxrdist shards verify|index SET       check that a set is intact; rebuild its indexes
  cxrdist shards convert SET            convert a set to another encoding or a smaller size
  cxrdist shards merge SET SET...       merge real sets: keys and splits are kept, a patient in two splits is refused
  cxrdist mix show|order DS3            show what an epoch of a mix takes; which images each process reads, by step
  cxrdist synth show KEY --set SET      make a synthetic image again, and compare it with the stored one
  cxrdist synth audit SET --shards REAL look again at a synthetic set: near copies, duplicates, coverage, gates
  cxrdist synth card SET                write the card of a set: README.md and croissant.json
  cxrdist review serve SET              show synthetic images to readers, who remove some, or tell them from real ones
  cxrdist review readers add|list|remove  who may sign in to that page
  cxrdist review apply SET FILE         remove the synthetic images that reviewers decided to remove
  cxrdist review report STORE           show how readers judged synthetic images, and how far they agree
  cxrdist advise SET                    show how to train a GAN on a set on this machine, with reasons
  cxrdist doctor                        check versions, GPUs, network, disks and limits before a job
  cxrdist predict --run RUN PATH...     classify files, folders, DICOM files or shard sets
  cxrdist export RUN --out DIR          write a trained classifier for use elsewhere, also as ONNX
  cxrdist study configs/study/demo.yaml run the whole experiment
  cxrdist report runs/... --out report  write a page about finished runs
  cxrdist compare RUN RUN ...           show how finished runs differ: options, final metrics, curves

Each has --help. Training, evaluation and synthesis run under accelerate:
  accelerate launch launch/train_gan.py | evaluate_gan.py | synthesize.py | train_cls.py

Example:
  cxrdist import phantom --out shards/phantom --size 64 --seed 0"""


def dispatch(argv: Sequence[str]) -> int | None:
    words, commands = list(argv), COMMANDS
    path = ["cxrdist"]
    while True:
        if not words or words[0] in ("-h", "--help"):
            print(USAGE)
            return 0
        if words[0] == "--version":
            print(f"cxrdist {__version__}")
            return 0
        word = words.pop(0)
        if word not in commands:
            raise UserError(f"{' '.join(path)} {word}: unknown command{nearest(word, commands)}")
        path.append(word)
        chosen = commands[word]
        if callable(chosen):
            with reported_where_written():
                return chosen(words)
        commands = chosen


def main() -> None:
    process_main(lambda: dispatch(sys.argv[1:]))
