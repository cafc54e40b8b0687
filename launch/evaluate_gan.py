"""Evaluate the generators of a GAN run: `accelerate launch launch/evaluate_gan.py --help`."""

from __future__ import annotations


def main() -> None:
    from cxrdist.config.parser import parse, reported_where_written
    from cxrdist.gan.evaluation.config import EvaluateConfig
    from cxrdist.gan.evaluation.evaluate import evaluate

    example = "accelerate launch launch/evaluate_gan.py --run runs/gan --shards shards/phantom"
    with reported_where_written():
        evaluate(parse(EvaluateConfig, prog="evaluate_gan.py", example=example))


if __name__ == "__main__":
    from cxrdist import process

    process.main(main)
