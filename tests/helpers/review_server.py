"""`cxrdist review serve` as a process, and its readers in Chromium."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from cxrdist.synth.review import readers
from cxrdist.synth.review.store import Store
from tests.helpers.chromium import Browser
from tests.helpers.launching import CLONE

PHRASE = "correct horse battery staple"


def with_readers(path: Path, *names: str) -> Path:
    """A store with these readers."""
    store = Store(path, create=True)
    for name in names:
        readers.add(store, name, PHRASE)
    store.close()
    return path


class ReviewServer:
    """A context manager; ``url`` is that of the page to sign in, at a port that stays the same after ``kill``."""

    def __init__(self, synthetic: Path, real: Path, store: Path, *options: str) -> None:
        self._words = [str(synthetic), "--shards", str(real), "--store", str(store), *options]
        self.port = 0
        self.start()

    def start(self) -> None:
        words = [sys.executable, "-m", "cxrdist", "review", "serve", *self._words, "--port", str(self.port)]
        self.process = subprocess.Popen(
            words,
            cwd=CLONE,
            env={**os.environ, "PYTHONPATH": str(CLONE)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self.said: list[str] = []
        while not self.said or not self.said[-1].startswith("open "):
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            self.said.append(line.rstrip())
        self.url = self.said[-1].split()[1]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    def kill(self) -> None:
        """As ``kill -9`` does."""
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> ReviewServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def sign_in(browser: Browser, url: str, name: str, scheme: str = "light") -> None:
    browser.visit(url, scheme=scheme)
    browser.evaluate("document.querySelector('[name=name]').focus()")
    browser.write(name)
    browser.evaluate("document.querySelector('[name=phrase]').focus()")
    browser.write(PHRASE)
    browser.press("Enter")
    browser.wait_for("document.readyState == 'complete' && !!document.querySelector('a.card')")


def begin(browser: Browser, url: str, task: str, scheme: str = "light") -> None:
    """Open a task, and wait for its first image."""
    browser.visit(f"{url}{task}", scheme=scheme)
    browser.wait_for("!!document.body.dataset.shown")
