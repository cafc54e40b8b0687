"""Train the classifier on a mix: `accelerate launch launch/train_cls.py --help`."""

from __future__ import annotations


def main() -> None:
    from cxrdist.cli.presets import parse_with_preset
    from cxrdist.cls.config import ClsConfig
    from cxrdist.cls.train import train
    from cxrdist.config.parser import reported_where_written

    example = "accelerate launch launch/train_cls.py --mix DS3 --shards shards/phantom"
    with reported_where_written():
        train(parse_with_preset(ClsConfig, "cls", prog="train_cls.py", example=example))


if __name__ == "__main__":
    from cxrdist import process

    process.main(main)
