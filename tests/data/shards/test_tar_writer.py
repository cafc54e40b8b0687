from __future__ import annotations

import io
import tarfile

import pytest
from webdataset import TarWriter as WebDatasetWriter

from cxrdist.data.shards.tar_writer import OWNER, TarWriter
from cxrdist.files import sha256_bytes


# Around one block; a tar's end is filled up to 10,240 bytes, which these come just short of, meet and pass.
@pytest.mark.parametrize("sizes", [[0], [511], [512], [513], [6144], [6656], [7168], [100, 3000, 70_000, 5]])
def test_bytes_are_those_of_webdataset(sizes: list[int]) -> None:
    samples = [
        {"cls": b"1", "json": b'{"view": "PA"}', "png": bytes([n % 251]) * size}
        for n, size in enumerate(sizes)
    ]
    theirs = io.BytesIO()
    with WebDatasetWriter(theirs, encoder=False, user=OWNER, group=OWNER, mtime=0) as writer:
        for n, sample in enumerate(samples):
            writer.write({"__key__": f"key{n}", **sample})
    theirs_padded = theirs.getvalue()

    file = io.BytesIO()
    tar = TarWriter(file)
    offsets: dict[str, int] = {}
    for n, sample in enumerate(samples):
        offsets |= tar.add({f"key{n}.{suffix}": data for suffix, data in sample.items()})
    tar.finish()
    assert file.getvalue() == theirs_padded
    assert tar.bytes == len(theirs_padded) and tar.bytes % tarfile.RECORDSIZE == 0
    assert tar.sha256 == sha256_bytes(theirs_padded)
    file.seek(0)
    with tarfile.open(fileobj=file) as read:
        assert offsets == {member.name: member.offset_data for member in read}


def test_a_name_that_fills_its_field() -> None:
    name = "k" * 96 + ".png"
    file = io.BytesIO()
    tar = TarWriter(file)
    tar.add({name: b"x"})
    tar.finish()
    file.seek(0)
    with tarfile.open(fileobj=file) as read:
        assert read.getnames() == [name]
    with pytest.raises(AssertionError):
        tar.add({"k" + name: b"x"})
