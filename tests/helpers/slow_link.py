"""A cable that is slow and loses packets, for hosts of ``hosts.py`` where the kernel has no netem.

    python -m tests.helpers.slow_link INSIDE OUTSIDE DELAY_MS LOSS_PERCENT SEED

makes two TAP devices and passes frames between them until SIGTERM: what comes from INSIDE late, with losses; what
comes from OUTSIDE at once. It prints ``ready``, and at the end how many frames it passed and dropped. A TAP, unlike
a veth, has no offloads: the kernel completes checksums and segments before a frame comes here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import signal
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
FRAME_BYTES = 65536


def tap(name: str) -> int:
    """A descriptor of a new TAP device, which ends with it."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def main() -> None:
    inside, outside = tap(sys.argv[1]), tap(sys.argv[2])
    delay_s, loss, chance = float(sys.argv[3]) / 1000, float(sys.argv[4]) / 100, random.Random(sys.argv[5])
    late: deque[tuple[float, bytes]] = deque()
    passed = dropped = 0
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    print("ready", flush=True)
    while not ended:
        wait_s = max(0.0, late[0][0] - time.monotonic()) if late else 0.5
        readable, _, _ = select.select([inside, outside], [], [], wait_s)
        if outside in readable:
            for frame in _frames(outside):
                _send(inside, frame)
        if inside in readable:
            for frame in _frames(inside):
                if chance.random() < loss:
                    dropped += 1
                else:
                    late.append((time.monotonic() + delay_s, frame))
        while late and late[0][0] <= time.monotonic():
            _send(outside, late.popleft()[1])
            passed += 1
    print(f"{passed} {dropped}", flush=True)


def _frames(descriptor: int) -> list[bytes]:
    """What waits there, at most 64 frames."""
    found: list[bytes] = []
    with contextlib.suppress(BlockingIOError, OSError):
        while len(found) < 64:
            found.append(os.read(descriptor, FRAME_BYTES))
    return found


def _send(descriptor: int, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # a device that is not up yet: a cable loses such a frame too
        os.write(descriptor, frame)


if __name__ == "__main__":
    main()
