"""The ``cxrdist`` command, also as ``python -m cxrdist``.

Worker processes import this module, too, and none of what it imports when it runs: they start twice as fast.
"""

from __future__ import annotations


def main() -> None:
    from cxrdist.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
