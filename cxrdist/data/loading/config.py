"""What can be chosen in loading samples, and how the ranks of a job hear of each other's trouble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cxrdist.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How images are read; none of it changes which ones, or their order."""

    workers: int | None = None
    """Processes that decode PNG and JPEG; 0: a thread of the job itself. null: on GPUs as many as cores are free."""
    on_corrupt: Literal["raise", "substitute"] = "raise"
    """Of a training image. raise: stop, naming it; substitute: take another of its class and origin, and count it."""
    most_substitutes: int = 10
    """Stop when more samples than these had to be substituted, over all processes and all of the run."""
    ahead: int = 3
    """Batches that are read while one is worked on."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise OptionError("workers", f"must be 0 or more, or null, not {self.workers}")
        if self.most_substitutes < 0:
            raise OptionError("most_substitutes", f"must be 0 or more, not {self.most_substitutes}")
        if self.ahead < 1:
            raise OptionError("ahead", f"must be 1 or more, not {self.ahead}")


class Peers(Protocol):
    """The other ranks of the job, which make the same calls in the same order, from a thread of their own."""

    @property
    def spare_cores(self) -> int:
        """How many cores of this process's share training leaves idle."""
        ...

    def total(self, numbers: Sequence[int]) -> list[int]:
        """The sums over all ranks."""
        ...

    def first(self, message: str | None) -> str:
        """The message of the first rank that has one."""
        ...


class _Alone:
    spare_cores = 0

    def total(self, numbers: Sequence[int]) -> list[int]:
        return list(numbers)

    def first(self, message: str | None) -> str:
        assert message is not None
        return message


ALONE: Peers = _Alone()
"""A job of one process."""
