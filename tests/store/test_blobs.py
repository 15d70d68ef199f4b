"""Blobs: whole under their own digest or not there; what changed on the disk is never handed out."""

import os
import stat
from pathlib import Path

import pytest
from blake3 import blake3

from protocol.chunkmap import make_chunk_map
from protocol.digest import Digest, digest_of
from protocol.errors import DigestInvalid
from store import disk
from store.blobs import Blobs
from store.errors import BlobMissing, BlobTooLarge, DiskFailed, DiskFull, LayerCorrupt
from store.layout import Layout


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(Layout(tmp_path))


def overwrite(blobs: Blobs, digest: Digest, content: bytes) -> None:
    path = blobs.layout.blob_path(digest)
    path.chmod(0o644)
    path.write_bytes(content)


def test_what_is_published_is_there_read_only(blobs: Blobs) -> None:
    digest = blobs.publish_bytes(b"hello")
    assert digest == digest_of(b"hello")
    assert blobs.has(digest)
    assert blobs.size(digest) == 5
    assert blobs.read(digest, 5) == b"hello"
    assert blobs.verify(digest) == 5
    assert list(blobs.list()) == [digest]
    assert stat.S_IMODE(blobs.layout.blob_path(digest).stat().st_mode) == 0o444
    assert list(blobs.layout.temporary.iterdir()) == []


def test_publishing_twice_changes_nothing(blobs: Blobs) -> None:
    digest = blobs.publish_bytes(b"hello")
    before = blobs.layout.blob_path(digest).stat()
    blobs.publish_bytes(b"hello")
    assert blobs.layout.blob_path(digest).stat() == before


def test_publishing_again_heals_a_blob_that_changed(blobs: Blobs) -> None:
    digest = blobs.publish_bytes(b"hello")
    overwrite(blobs, digest, b"hellO")
    blobs.publish_bytes(b"hello")
    assert blobs.read(digest, 5) == b"hello"


def test_a_file_is_copied_and_hashed_on_the_way(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    digest = blobs.publish_file(source, digest_of(b"x" * 100_000))
    assert blobs.size(digest) == 100_000
    with pytest.raises(LayerCorrupt) as caught:
        blobs.publish_file(source, digest_of(b"y"))
    assert (caught.value.expected, caught.value.actual) == (digest_of(b"y"), digest)
    assert list(blobs.list()) == [digest]
    assert list(blobs.layout.temporary.iterdir()) == []


def test_a_writer_that_is_not_committed_leaves_nothing(blobs: Blobs) -> None:
    with blobs.writer() as writer:
        writer.write(b"abc")
    assert list(blobs.list()) == []
    assert list(blobs.layout.temporary.iterdir()) == []


def test_a_missing_blob_is_named(blobs: Blobs) -> None:
    absent = digest_of(b"absent")
    assert not blobs.has(absent)
    for look in (blobs.size, blobs.open, blobs.verify, lambda digest: blobs.read(digest, 1)):
        with pytest.raises(BlobMissing) as caught:
            look(absent)
        assert absent[:12] in str(caught.value)
    assert blobs.delete(absent) == 0


def test_a_digest_is_the_only_path(blobs: Blobs) -> None:
    for hostile in ("../../etc/passwd", "a" * 63, "A" * 64, ""):
        with pytest.raises(DigestInvalid):
            blobs.open(Digest(hostile))


def test_links_pipes_and_directories_are_no_blobs(blobs: Blobs, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    link, pipe, folder = digest_of(b"link"), digest_of(b"pipe"), digest_of(b"folder")
    blobs.layout.blob_path(link).symlink_to(outside)
    os.mkfifo(blobs.layout.blob_path(pipe))
    blobs.layout.blob_path(folder).mkdir()
    for digest in (link, pipe, folder):
        assert not blobs.has(digest)
        with pytest.raises(BlobMissing):
            blobs.open(digest)


def test_the_cap_on_reading_holds(blobs: Blobs) -> None:
    digest = blobs.publish_bytes(b"hello")
    with pytest.raises(BlobTooLarge):
        blobs.read(digest, 4)


@pytest.mark.parametrize("content", [b"hellO", b"hell", b"hello!", b""])
def test_a_changed_blob_goes_to_quarantine_and_is_never_handed_out(blobs: Blobs, content: bytes) -> None:
    for look in (blobs.verify, lambda digest: blobs.read(digest, 10)):
        digest = blobs.publish_bytes(b"hello")
        overwrite(blobs, digest, content)
        with pytest.raises(LayerCorrupt) as caught:
            look(digest)
        assert (caught.value.expected, caught.value.actual) == (digest, digest_of(content))
        assert not blobs.has(digest)
        assert blobs.layout.quarantine_path(digest).read_bytes() == content


def test_a_quarantined_blob_can_be_published_again(blobs: Blobs) -> None:
    digest = blobs.publish_bytes(b"hello")
    overwrite(blobs, digest, b"hellO")
    with pytest.raises(LayerCorrupt):
        blobs.verify(digest)
    assert blobs.publish_bytes(b"hello") == digest
    assert blobs.read(digest, 5) == b"hello"


def test_chunks_are_verified_before_they_are_handed_out(blobs: Blobs) -> None:
    content = bytes(range(250))
    digest = blobs.publish_bytes(content)
    pieces = [content[start : start + 100] for start in range(0, 250, 100)]
    chunk_map = make_chunk_map(digest, 250, [(blake3(piece).digest(), len(piece)) for piece in pieces])
    assert blobs.read_chunks(chunk_map, 0, 3) == content
    assert blobs.read_chunks(chunk_map, 1, 1) == content[100:200]
    overwrite(blobs, digest, content[:150] + b"\xff" + content[151:])
    assert blobs.read_chunks(chunk_map, 0, 1) == content[:100]
    with pytest.raises(LayerCorrupt, match="at byte 100"):
        blobs.read_chunks(chunk_map, 0, 3)
    assert not blobs.has(digest)


def test_a_shortened_blob_is_corrupt_for_chunk_readers(blobs: Blobs) -> None:
    digest = blobs.publish_bytes(b"a" * 200)
    chunk_map = make_chunk_map(digest, 200, [(blake3(b"a" * 100).digest(), 100)] * 2)
    overwrite(blobs, digest, b"a" * 150)
    with pytest.raises(LayerCorrupt):
        blobs.read_chunks(chunk_map, 0, 2)


def test_a_full_disk_is_refused_before_the_first_byte(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda place: disk.SPACE_MARGIN_BYTES + 4)
    with pytest.raises(DiskFull) as caught:
        blobs.publish_bytes(b"hello")
    assert (caught.value.missing_bytes, caught.value.free_bytes) == (1, disk.SPACE_MARGIN_BYTES + 4)
    assert "1 bytes more are needed" in str(caught.value)
    assert list(blobs.layout.temporary.iterdir()) == []


def test_a_directory_without_rights_is_named(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DiskFailed, match="permission denied"):
        blobs.publish_bytes(b"hello")


def test_other_programs_files_among_the_blobs_are_not_listed(blobs: Blobs) -> None:
    (blobs.layout.blobs / "README").write_text("x")
    assert list(blobs.list()) == []
