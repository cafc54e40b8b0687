"""``python -m cxrdist`` is the ``cxrdist`` command."""

from cxrdist.cli import main

if __name__ == "__main__":
    main()
