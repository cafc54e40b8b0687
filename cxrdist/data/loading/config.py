"""Options of the loader, and what it needs of the other ranks of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cxrdist.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How images are read. No option changes which images a batch has, or their order."""

    workers: int | None = None
    """Processes that decode PNG and JPEG; 0: decode in a thread of the job itself. null: one per free core on GPUs,
    0 on CPU."""
    on_corrupt: Literal["raise", "substitute"] = "raise"
    """What to do at a corrupt training image. raise: stop, naming it; substitute: use another image of its class and
    origin, and count it."""
    most_substitutes: int = 10
    """Stop when more samples than this were substituted, over all processes and the whole run."""
    ahead: int = 3
    """Batches that are read ahead of the one in use."""
    device_cache: Literal["auto", "on", "off"] = "auto"
    """Keep all images of the training on its device. auto: on GPUs, if they take at most a tenth of the free memory
    and the training reads as many images anyway."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise OptionError("workers", f"must be 0 or more, or null, not {self.workers}")
        if self.most_substitutes < 0:
            raise OptionError("most_substitutes", f"must be 0 or more, not {self.most_substitutes}")
        if self.ahead < 1:
            raise OptionError("ahead", f"must be 1 or more, not {self.ahead}")
        if self.device_cache == "on" and self.on_corrupt == "substitute":
            raise OptionError(
                "device_cache",
                "on needs --loader.on-corrupt raise: a cache is filled with whole samples only",
            )


class Peers(Protocol):
    """The ranks of a job, as the loader's threads reach them. All ranks make the same calls in the same order, from
    one thread each."""

    @property
    def spare_cores(self) -> int:
        """Cores of this process's share that training leaves idle."""
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
