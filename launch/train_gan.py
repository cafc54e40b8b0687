"""Train GANs, one per class or one of all classes: `accelerate launch launch/train_gan.py --help`."""

from __future__ import annotations


def main() -> None:
    from cxrdist.cli.presets import parse_with_preset
    from cxrdist.config.parser import reported_where_written
    from cxrdist.gan.config import GANConfig
    from cxrdist.gan.train import train

    example = "accelerate launch launch/train_gan.py --shards shards/phantom --classes all --run runs/gan"
    with reported_where_written():
        train(parse_with_preset(GANConfig, "gan", prog="train_gan.py", example=example))


if __name__ == "__main__":
    from cxrdist import process

    process.main(main)
