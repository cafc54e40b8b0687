"""Generate synthetic images and write them to a shard set: `accelerate launch launch/synthesize.py --help`."""

from __future__ import annotations


def main() -> None:
    from cxrdist.config.parser import parse, reported_where_written
    from cxrdist.synth.config import SynthConfig
    from cxrdist.synth.synthesize import synthesize

    example = "accelerate launch launch/synthesize.py --gan runs/gan --shards shards/phantom --mix DS3"
    with reported_where_written():
        synthesize(parse(SynthConfig, prog="synthesize.py", example=example))


if __name__ == "__main__":
    from cxrdist import process

    process.main(main)
