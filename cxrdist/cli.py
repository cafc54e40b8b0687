"""The ``cxrdist`` command: everything that needs no GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrdist import __version__
from cxrdist.config import find_named, load_yaml, parse
from cxrdist.data.importers import IMPORTERS
from cxrdist.data.ingest import IngestOptions, ingest
from cxrdist.data.open import DEFAULT_SET
from cxrdist.errors import UserError, nearest
from cxrdist.process import main as process_main


@dataclass(frozen=True, kw_only=True)
class ImportPhantom(IngestOptions):
    """Compute phantom radiographs of five classes into a shard set. They are no patients."""

    out: str = DEFAULT_SET
    """Folder of the new set."""
    images: int = 1128
    """Images in all, in the paper's proportions."""


@dataclass(frozen=True, kw_only=True)
class ImportNIH14(IngestOptions):
    """Import NIH ChestX-ray14: Data_Entry_2017(_v2020).csv and images/ in its original layout."""

    root: str
    """Folder of the release."""


@dataclass(frozen=True, kw_only=True)
class ImportFolder(IngestOptions):
    """Import DIR/<class>/*.png|jpg|jpeg. Each image counts as a patient of its own."""

    root: str
    """Folder with a folder per class."""


def import_phantom(argv: Sequence[str]) -> None:
    example = "cxrdist import phantom --out shards/phantom --size 64 --seed 0"
    options = parse(ImportPhantom, argv, prog="cxrdist import phantom", example=example)
    source = IMPORTERS["phantom"](images=options.images, seed=options.seed, **chosen_classes(options))
    ingest(source, without(options, "images"))


def import_nih14(argv: Sequence[str]) -> None:
    example = "cxrdist import nih14 --root ~/NIH --out shards/nih --size 64 --label-rule one-target"
    options = parse(ImportNIH14, argv, prog="cxrdist import nih14", example=example)
    ingest(IMPORTERS["nih14"](root=options.root), without(options, "root"))


def import_folder(argv: Sequence[str]) -> None:
    example = "cxrdist import folder --root my_images --out shards/mine --size 64"
    options = parse(ImportFolder, argv, prog="cxrdist import folder", example=example)
    print(
        "warning: a folder names no patients, so each image counts as one: two images of one patient may land"
    )
    print("         in two splits")
    ingest(IMPORTERS["folder"](root=options.root), without(options, "root"))


def chosen_classes(options: IngestOptions) -> dict[str, Any]:
    return {"classes": options.classes} if options.classes else {}


def without(options: IngestOptions, *names: str) -> IngestOptions:
    """The options that every import has, without those of one source."""
    return IngestOptions(**{k: v for k, v in vars(options).items() if k not in names})


@dataclass(frozen=True, kw_only=True)
class ShardsInfo:
    """What a shard set holds and where it comes from."""

    set: str = DEFAULT_SET
    """Folder of the set."""
    json: bool = False
    """As JSON: digest, image_size, encoding, classes, counts."""


@dataclass(frozen=True, kw_only=True)
class ShardsVerify:
    """Read a whole shard set and list all that is wrong with it; exit code 1 if anything is."""

    set: str = DEFAULT_SET
    """Folder of the set."""


def shards_info(argv: Sequence[str]) -> None:
    options = parse(
        ShardsInfo,
        argv,
        prog="cxrdist shards info",
        example="cxrdist shards info shards/phantom",
        positional=("set",),
    )
    from cxrdist.data.info import as_json, print_info

    if options.json:
        print(json.dumps(as_json(Path(options.set)), indent=1))
    else:
        print_info(Path(options.set))


def shards_verify(argv: Sequence[str]) -> int:
    options = parse(
        ShardsVerify,
        argv,
        prog="cxrdist shards verify",
        example="cxrdist shards verify shards/phantom",
        positional=("set",),
    )
    from cxrdist.data.verify import verify

    found = verify(Path(options.set))
    for line in found:
        print(line)
    count = f"{len(found)} problem{'s' if len(found) > 1 else ''}" if found else "all is as it was written"
    print(f"{options.set}: {count}")
    return 1 if found else 0


@dataclass(frozen=True, kw_only=True)
class MixShow:
    """What one epoch of a mix takes of each class."""

    mix: str = "DS3"
    """DS1, DS2, DS3 or the path of a YAML rule."""
    shards: str = DEFAULT_SET
    """Set of real images."""
    synthetic: str | None = None
    """Set of synthetic images."""


def mix_show(argv: Sequence[str]) -> None:
    example = "cxrdist mix show DS3 --shards shards/phantom"
    options = parse(MixShow, argv, prog="cxrdist mix show", example=example, positional=("mix",))
    from cxrdist.data.info import print_mix
    from cxrdist.data.mix import rule_from

    rule = rule_from(load_yaml(find_named("mix", options.mix)))
    print_mix(rule, Path(options.shards), Path(options.synthetic) if options.synthetic else None)


@dataclass(frozen=True, kw_only=True)
class Report:
    """One HTML page and one Markdown file about finished runs."""

    runs: tuple[str, ...] = ("runs",)
    """Run folders, or folders that hold some."""
    out: str = "report"
    """Folder of the report."""


def report(argv: Sequence[str]) -> None:
    options = parse(
        Report,
        argv,
        prog="cxrdist report",
        example="cxrdist report runs/cls-* --out report",
        positional=("runs",),
    )
    from cxrdist.study.report import write_report

    page = write_report([Path(run) for run in options.runs], Path(options.out))
    print(f"report: {page}")


def study(argv: Sequence[str]) -> int:
    from cxrdist.study.runner import StudyConfig, run_study

    # `cxrdist study FILE` is `cxrdist study --config FILE`: a study is its YAML.
    words = [*(("--config",) if argv and not argv[0].startswith("-") else ()), *argv]
    default = None if "--config" in words or any(w.startswith("--config=") for w in words) else find_study()
    config = parse(
        StudyConfig,
        words,
        prog="cxrdist study",
        example="cxrdist study configs/study/demo.yaml",
        default_config=default,
    )
    return run_study(config)


def find_study() -> Path:
    return find_named("study", "demo")


Commands = dict[str, "Callable[[Sequence[str]], int | None] | Commands"]

COMMANDS: Commands = {
    "import": {"phantom": import_phantom, "nih14": import_nih14, "folder": import_folder},
    "shards": {"info": shards_info, "verify": shards_verify},
    "mix": {"show": mix_show},
    "study": study,
    "report": report,
}

USAGE = """cxrdist: GAN-balanced chest radiographs, from shards to a report

  cxrdist import phantom|nih14|folder   radiographs -> a shard set
  cxrdist shards info|verify SET        what a set holds; whether it is whole
  cxrdist mix show DS3                  what an epoch of a mix takes
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
