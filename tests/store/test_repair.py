"""Repairs on this side: what is right of a damaged blob is kept, what follows from something else is made anew."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.digest import Digest
from protocol.manifest import Descriptor, Layer, Manifest
from protocol.model_name import parse_model_name
from store.errors import DiskFailed, LayerCorrupt
from store.models import ModelStore
from store.partial import PartialLayer
from store.repair import damaged_copies, find_bad, is_whole, mapped_layers, opened, restore_chunk_map, salvage, settle
from store.repair_registry import registries_of
from store.testing import add_model, make_model_directory, make_tensors

NAME = parse_model_name("a")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    add_model(store, "a", make_model_directory(tmp_path / "model", make_tensors(blocks=24, width=256)))
    yield store
    store.close()


def manifest_of(store: ModelStore) -> Manifest:
    return store.resolve(NAME).manifest


def weights_of(store: ModelStore) -> Layer:
    return max(mapped_layers(manifest_of(store)).values(), key=lambda layer: layer.size)


def damage(path: Path, *offsets: int) -> None:
    """Change single bytes of a file in place, as a bad disk or a program that runs wild does."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 0xFF]))


def test_only_the_chunks_that_changed_are_missing(store: ModelStore) -> None:
    manifest, layer = manifest_of(store), weights_of(store)
    chunk_map = store.chunk_map(layer)
    assert chunk_map is not None
    bad = [chunk_map.chunk(chunk_map.chunk_at(offset)) for offset in (9000, layer.size // 2)]
    damage(store.layout.blob_path(layer.digest), 9000, layer.size // 2)
    seen: list[Descriptor] = []
    assert [blob.digest for blob in find_bad(store, manifest.blobs(), seen.append)] == [layer.digest]
    assert len(seen) == len(list(manifest.blobs()))
    assert not store.blobs.has(layer.digest)
    assert layer.digest not in store.chunks.blobs()
    digest = store.refs.get(NAME)
    assert digest is not None
    with opened(store, layer) as partial:
        found = salvage(partial, damaged_copies(store.layout, digest, layer))
        assert found.bad_bytes == sum(chunk.length for chunk in bad)
        assert found.kept_bytes == layer.size - found.bad_bytes
        assert partial.missing() == [chunk.index for chunk in bad]


def test_a_repair_that_was_killed_goes_on(store: ModelStore) -> None:
    layer, digest = weights_of(store), store.refs.get(NAME)
    assert digest is not None
    content = store.layout.blob_path(layer.digest).read_bytes()
    damage(store.layout.blob_path(layer.digest), 9000)
    find_bad(store, manifest_of(store).blobs(), lambda _: None)
    with opened(store, layer) as partial:
        salvage(partial, damaged_copies(store.layout, digest, layer))
    # The next run, also where the damaged file was lost in between.
    store.layout.quarantine_path(layer.digest).unlink()
    with opened(store, layer) as partial:
        (index,) = partial.missing()
        chunk = partial.chunk_map.chunk(index)
        partial.write_chunk(index, content[chunk.offset : chunk.offset + chunk.length])
        partial.finish()
    assert store.blobs.verify(layer.digest) == layer.size
    assert layer.digest in store.chunks.blobs()


def test_a_materialised_copy_of_its_own_gives_back_what_the_blob_lost(store: ModelStore) -> None:
    layer, digest = weights_of(store), store.refs.get(NAME)
    assert digest is not None
    directory = store.materialize(digest)
    content = store.layout.blob_path(layer.digest).read_bytes()
    copy = directory / layer.filepath
    copy.unlink()  # in place of the hard link a file of its own, as a reflink is
    copy.write_bytes(content)
    damage(store.layout.blob_path(layer.digest), 9000, layer.size // 2)
    find_bad(store, manifest_of(store).blobs(), lambda _: None)
    with opened(store, layer) as partial:
        found = salvage(partial, damaged_copies(store.layout, digest, layer))
        assert found.bad_bytes > 0
        assert partial.missing() == []
        partial.finish()
    settle(store, layer.digest)
    assert directory.exists()  # its bytes are its own, and right
    assert not store.layout.quarantine_path(layer.digest).exists()


def test_a_materialised_model_that_shares_the_damaged_bytes_goes(store: ModelStore) -> None:
    layer, digest = weights_of(store), store.refs.get(NAME)
    assert digest is not None
    directory = store.materialize(digest)
    blob = store.layout.blob_path(layer.digest)
    content = blob.read_bytes()
    if not (directory / layer.filepath).samefile(blob):
        (directory / layer.filepath).unlink()
        (directory / layer.filepath).hardlink_to(blob)  # as on file systems without reflinks
    damage(blob, 9000)
    find_bad(store, manifest_of(store).blobs(), lambda _: None)
    with opened(store, layer) as partial:
        salvage(partial, damaged_copies(store.layout, digest, layer))
        for index in partial.missing():
            chunk = partial.chunk_map.chunk(index)
            partial.write_chunk(index, content[chunk.offset : chunk.offset + chunk.length])
        partial.finish()
    settle(store, layer.digest)
    assert not directory.exists()
    assert (store.materialize(digest) / layer.filepath).read_bytes() == content


def test_a_chunk_map_is_made_anew_from_its_layer(store: ModelStore) -> None:
    layer = weights_of(store)
    pin = layer.chunk_map
    assert pin is not None
    content = store.blobs.read(pin.digest, pin.size)
    damage(store.layout.blob_path(pin.digest), 100)
    with pytest.raises(LayerCorrupt):
        store.blobs.verify(pin.digest)
    assert restore_chunk_map(store, layer)
    assert store.blobs.read(pin.digest, pin.size) == content


def test_without_its_layer_a_chunk_map_has_to_come_from_elsewhere(store: ModelStore) -> None:
    layer = weights_of(store)
    store.layout.blob_path(layer.digest).unlink()
    assert not restore_chunk_map(store, layer)


def test_a_blob_cut_short_loses_its_end_alone(store: ModelStore) -> None:
    layer, digest = weights_of(store), store.refs.get(NAME)
    assert digest is not None
    path = store.layout.blob_path(layer.digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(layer.size // 2)
    find_bad(store, manifest_of(store).blobs(), lambda _: None)
    with opened(store, layer) as partial:
        found = salvage(partial, damaged_copies(store.layout, digest, layer))
        assert abs(found.bad_bytes - layer.size // 2) < 2 * 128 * 1024


def test_a_blob_that_is_gone_altogether_is_all_missing(store: ModelStore) -> None:
    layer, digest = weights_of(store), store.refs.get(NAME)
    assert digest is not None
    store.layout.blob_path(layer.digest).unlink()
    assert find_bad(store, manifest_of(store).blobs(), lambda _: None)
    with opened(store, layer) as partial:
        assert isinstance(partial, PartialLayer)
        assert salvage(partial, damaged_copies(store.layout, digest, layer)).bad_bytes == layer.size


def test_a_blob_on_a_bad_sector_counts_as_damaged(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, digest = weights_of(store), store.refs.get(NAME)
    assert digest is not None

    def unreadable(wanted: Digest) -> int:
        raise DiskFailed(store.layout.blob_path(wanted), OSError(errno.EIO, "Input/output error"))

    monkeypatch.setattr(store.blobs, "verify", unreadable)
    assert not is_whole(store, layer.digest)
    monkeypatch.undo()
    assert store.layout.quarantine_path(layer.digest).exists()
    with opened(store, layer) as partial:
        assert salvage(partial, damaged_copies(store.layout, digest, layer)).bad_bytes == 0
        partial.finish()


def test_a_disk_that_says_no_for_another_reason_damages_nothing(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = weights_of(store)

    def refused(wanted: Digest) -> int:
        raise DiskFailed(store.layout.blob_path(wanted), OSError(errno.EACCES, "Permission denied"))

    monkeypatch.setattr(store.blobs, "verify", refused)
    with pytest.raises(DiskFailed):
        is_whole(store, layer.digest)
    assert store.blobs.has(layer.digest)


def test_a_copy_is_repaired_from_the_registry_that_the_model_came_from(store: ModelStore, tmp_path: Path) -> None:
    manifest = store.resolve(NAME).digest
    for name, source in (("there", "registry 127.0.0.1:5000/ann/demo:q4"), ("here", "there"), ("here", "by hand")):
        store.refs.set(parse_model_name(name), manifest, source=source)
    assert list(map(str, registries_of(store, parse_model_name("here")))) == ["127.0.0.1:5000/ann/demo:q4"]
    add_model(store, "own", make_model_directory(tmp_path / "own", make_tensors(5)))
    assert registries_of(store, parse_model_name("own")) == []
