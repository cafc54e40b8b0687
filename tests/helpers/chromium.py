"""Chromium through its DevTools protocol, over a pair of pipes: no package is needed.

https://chromedevtools.github.io/devtools-protocol/ ; messages are JSON, each followed by a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_S = 60


def chromium() -> str | None:
    """The path of a Chromium; None if there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of a headless Chromium; a context manager."""

    def __init__(self, command: str) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        words = [
            command,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile.name}",
            "about:blank",
        ]
        # Chromium reads from descriptor 3 and writes to 4.
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *words],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest, self._number, self._session = b"", 0, ""
        self.requested: list[str] = []
        """URLs that the page has asked for, with data: URLs cut off."""
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.send("Page.enable")
        self.send("Network.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait(ANSWER_S)
        self._profile.cleanup()

    def open(self, page: Path, width: int, height: int, scheme: str) -> None:
        """Show a file in a window of this size (CSS pixels), ``scheme``: light or dark."""
        self.visit(page.resolve().as_uri(), width, height, scheme)

    def visit(self, url: str, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
        """Show a page in a window of this size (CSS pixels)."""
        self.requested.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Page.navigate", url=url)
        self.wait_for("document.readyState == 'complete'")

    def wait_for(self, expression: str) -> None:
        """Until a JavaScript expression is true."""
        end_s = time.monotonic() + ANSWER_S
        while not self.evaluate(expression):
            assert time.monotonic() < end_s, f"not so in {ANSWER_S} s: {expression}"
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        """Press keys one after another: characters, or ``Enter``, ``Escape``, ``Backspace``."""
        for key in keys:
            text = key if len(key) == 1 else {"Enter": "\r"}.get(key, "")
            code = {"Enter": 13, "Escape": 27, "Backspace": 8}.get(key, 0)
            down: dict[str, Any] = {"type": "keyDown" if text else "rawKeyDown", "text": text}
            for event in (down, {"type": "keyUp"}):
                self.send("Input.dispatchKeyEvent", key=key, windowsVirtualKeyCode=code, **event)

    def write(self, text: str) -> None:
        """Type text into the field that has the focus."""
        self.send("Input.insertText", text=text)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the left button, in CSS pixels of the window."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, as JSON."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self, file: Path, *, is_whole: bool = True) -> None:
        """A PNG of the whole page, or of what the window shows."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        file.write_bytes(base64.b64decode(found["data"]))

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("method") == "Network.requestWillBeSent":
                self.requested.append(answer["params"]["request"]["url"][:200])
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], ANSWER_S)
            assert ready, f"Chromium has not answered for {ANSWER_S} s"
            part = os.read(self._in, 2**20)
            assert part, "Chromium has ended"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer
