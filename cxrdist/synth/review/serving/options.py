"""Options of ``cxrdist review serve``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from cxrdist.data.shards.open import DEFAULT_SET
from cxrdist.errors import OptionError, check_choice
from cxrdist.synth.review.recording import TASKS


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve the page on which readers judge the images of a synthetic set.

    In the task `curate` they keep or remove synthetic images; in the task `blinded` they tell synthetic images from
    real ones.
    """

    set: str
    """Synthetic set whose images are read, a folder or a URL."""
    shards: str = DEFAULT_SET
    """The real set that it descends from."""
    store: str = "review.sqlite"
    """SQLite file of the readers and their decisions; made if it does not exist."""
    tasks: tuple[str, ...] = ("blinded", "curate")
    """Which tasks the page offers, in this order."""
    share_real: float | None = None
    """Share of real images in the blinded task, between 0 and 1; null: that of the store, 0.5 in a new one."""
    overlap: float | None = None
    """Share of the images that all readers see, of a reader's --limit if there is one; the others are dealt out, each
    to one reader. null: that of the store, 0.2 in a new one."""
    seed: int | None = None
    """Of which images are dealt to whom, and of the order; null: that of the store, 0 in a new one."""
    split: Literal["train", "val", "test"] | None = None
    """Split of the real images; null: that of the store, val in a new one. A copy of a train image that a generator
    has memorised would look as real as the image itself."""
    limit: int | None = None
    """Images of one reader in each task; null: all that are dealt to the reader."""
    host: str = "127.0.0.1"
    """Address to listen at. Beyond this machine, a token is needed to sign in."""
    port: int = 8765
    """Port to listen at; 0: any that is free."""
    names: tuple[str, ...] = ()
    """Host names that browsers may use for this server, beside addresses and the machine's own: of a proxy, say."""
    token_file: str | None = None
    """File with the token, 16 characters or more, if --host is not this machine; null: one is drawn and printed."""
    allow_other_lineage: bool = False
    """Accept a synthetic set that does not descend from the real set's train split."""

    def __post_init__(self) -> None:
        if self.share_real is not None and not 0 < self.share_real < 1:
            raise OptionError("share_real", f"must be between 0 and 1, not {self.share_real}")
        if self.overlap is not None and not 0 <= self.overlap <= 1:
            raise OptionError("overlap", f"must be from 0 to 1, not {self.overlap}")
        if self.limit is not None and self.limit < 1:
            raise OptionError("limit", f"must be 1 or more, not {self.limit}")
        if not 0 <= self.port < 2**16:
            raise OptionError("port", f"must be from 0 to 65535, not {self.port}")
        for task in self.tasks:
            check_choice("tasks", task, TASKS)
        if not self.tasks or len({*self.tasks}) != len(self.tasks):
            raise OptionError("tasks", "needs curate, blinded or both, each once")
        if self.token_file is not None and self.is_local:
            raise OptionError("token_file", f"is of no use at {self.host}: add --host with another address")

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach the page."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
