"""What an image file may not be: the error for it, and the largest size that is read."""

from __future__ import annotations

MAX_PIXELS = 100_000_000
"""The largest image that is read: a file that declares more is a decompression bomb or damaged."""
LEADS_OUT = "a link that leads out of the folder"
"""The reason for a file that is not read, since such links are never followed."""


class UndecodableImage(Exception):
    """A file, or the bytes of a sample, cannot be decoded as the expected image.

    ``reason`` is a short phrase that depends only on the data; ``file`` is "" if the bytes were not read from a file.
    """

    def __init__(self, reason: str, file: str = "") -> None:
        super().__init__(reason, file)
        self.reason = reason
        self.file = file

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}" if self.file else self.reason


TOO_LARGE = f"more than {MAX_PIXELS // 1_000_000} megapixels"
