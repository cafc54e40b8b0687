"""Hosts for the tests of this room, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers import hosts
from tests.helpers.hosts import Host


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """node-a and node-b."""
    if reason := hosts.why_not():
        pytest.skip(reason)
    with hosts.hosts(tmp_path_factory.mktemp("hosts")) as (a, b):
        yield a, b
