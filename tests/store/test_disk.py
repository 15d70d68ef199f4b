"""Writing past the page cache: the file has the bytes that were written, however they lie in memory."""

import fcntl
import os
import sys
from mmap import mmap
from pathlib import Path

import pytest

from store.disk import Temporary

PAGE = 4096


def paged(content: bytes) -> memoryview:
    block = mmap(-1, len(content))
    block[:] = content
    return memoryview(block)


@pytest.mark.parametrize(
    "pieces",
    [
        [paged(b"a" * 3 * PAGE), paged(b"b" * PAGE)],
        [paged(b"a" * 2 * PAGE), paged(b"b" * 3 * PAGE)[:5000], paged(b"c" * PAGE)],
        [b"a" * 100, paged(b"b" * PAGE), b"c"],
        [memoryview(b"a" * 3 * PAGE)[1:], b"b" * 70_000],
        [],
    ],
    ids=["whole pages", "a last piece that is none", "bytes", "off a page", "nothing"],
)
def test_what_is_written_past_the_cache_is_there(tmp_path: Path, pieces: list[bytes | memoryview]) -> None:
    with Temporary(tmp_path) as temporary:
        temporary.write_past_cache()
        for piece in pieces:
            temporary.write(piece)
        temporary.rename(tmp_path / "file", 0o444)
    assert (tmp_path / "file").read_bytes() == b"".join(bytes(piece) for piece in pieces)


@pytest.mark.skipif(sys.platform != "linux", reason="no such flag elsewhere")
@pytest.mark.platform
def test_the_cache_is_left_alone_until_a_piece_does_not_fit(tmp_path: Path) -> None:
    def past_cache() -> bool:
        return bool(fcntl.fcntl(temporary.file.fileno(), fcntl.F_GETFL) & os.O_DIRECT)

    with Temporary(tmp_path) as temporary:
        assert not past_cache()
        temporary.write_past_cache()
        if not past_cache():
            pytest.skip("this file system cannot")
        temporary.write(paged(b"a" * PAGE))
        assert past_cache()
        temporary.write(paged(b"a" * PAGE)[:7])
        assert not past_cache()
