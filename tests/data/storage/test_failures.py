"""What is said of a failed request: no password. Which answers of S3 are taken for what was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from cxrdist.data.storage import aws
from cxrdist.data.storage.failures import explained


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('endpoint URL: "http://user:secret@minio:9000/bucket/key?x=1"', 'endpoint URL: "http://minio:9000"'),
        ("proxy URL: https://user:secret@proxy:3128", "proxy URL: https://proxy:3128"),
        ("https://minio/bucket/a@b", "https://minio"),
    ],
)
def test_of_an_address_only_the_server_is_shown(said: str, shown: str) -> None:
    assert explained(ConnectionError(said), "").startswith(f"{shown}: check the address")


ANSWERED: list[tuple[tuple[int, int | None], str, str]] = [
    ((0, None), "bytes 0-9/10", ""),
    ((4, None), "bytes 4-9/10", ""),
    ((4, 8), "bytes 4-7/10", ""),
    ((4, 20), "bytes 4-9/10", ""),
    ((4, 8), "bytes 4-7/*", ""),
    ((0, None), "bytes 0-7/10", "sent bytes 0 to 7 of 10, fewer than asked for"),
    ((4, 8), "bytes 4-6/10", "sent bytes 4 to 6 of 10, fewer than asked for"),
    ((4, 8), "bytes 4-9/10", "sent bytes 4 to 9, not those asked for"),
    ((4, 8), "bytes 3-7/10", "sent bytes 3 to 7, not those asked for"),
]


@pytest.mark.parametrize(("asked", "answer", "fault"), ANSWERED)
def test_an_answer_is_all_that_was_asked_for(asked: tuple[int, int | None], answer: str, fault: str) -> None:
    first, last = map(int, answer.removeprefix("bytes ").partition("/")[0].split("-"))
    response: dict[str, Any] = {"ContentRange": answer}
    if not fault:
        aws._check(response, *asked, last + 1 - first)
        return
    with pytest.raises(aws.OddAnswer, match=fault):
        aws._check(response, *asked, last + 1 - first)
