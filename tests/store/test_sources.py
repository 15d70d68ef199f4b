"""Files from anywhere: what is wanted of a repository, and files that somebody vouches for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.build_record import SourceKind
from protocol.digest import Digest, digest_of
from protocol.model_name import parse_model_name
from protocol.modelfile import Modelfile
from store.bases import LocalBases, Located
from store.build import BuildRequest, BuiltModel, build_model
from store.errors import FormatUnsupported, LayerCorrupt, SourceMissing
from store.models import ModelStore
from store.sources import FileAt, Origin, list_directory, read_files, wanted_of_repository
from store.testing import make_model_directory

NAME = parse_model_name("demo")
ORIGIN = Origin(SourceKind.HUB, "hf:acme/tiny", "1" * 40, 5)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_model_directory(tmp_path / "model")


def build(store: ModelStore, files: dict[str, FileAt]) -> BuiltModel:
    known = {"acme/tiny": Located(ORIGIN, files, Path("acme/tiny"))}
    return build_model(store, BuildRequest(Modelfile("acme/tiny"), NAME, Path("/")), bases=LocalBases(), known=known)


def test_pickled_copies_beside_safetensors_are_not_fetched() -> None:
    names = ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "onnx/model.onnx", "train.py"]
    assert wanted_of_repository(names) == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize(
    ("file", "says"), [("pytorch_model.bin", "pickled"), ("model.Q4_K_M.gguf", "GGUF"), ("model.PTH", "pickled")]
)
def test_a_repository_with_other_weights_only_is_refused_with_the_reason(file: str, says: str) -> None:
    with pytest.raises(FormatUnsupported, match=says) as caught:
        wanted_of_repository(["config.json", file, "tokenizer.json"])
    assert caught.value.file == file


def test_files_of_a_place_are_refused_for_what_they_are_whoever_vouches(directory: Path) -> None:
    files = list_directory(directory)
    with pytest.raises(FormatUnsupported, match="GGUF"):
        read_files({**files, "model.gguf": FileAt(directory / "config.json")}, ORIGIN, Path("acme/tiny"))
    del files["tokenizer.json"]
    with pytest.raises(SourceMissing, match=r"acme/tiny: tokenizer\.json"):
        read_files(files, ORIGIN, Path("acme/tiny"))


def test_files_may_lie_in_different_places_under_other_names(
    store: ModelStore, directory: Path, tmp_path: Path
) -> None:
    files: dict[str, FileAt] = {}
    for number, path in enumerate(sorted(directory.iterdir())):
        place = tmp_path / f"cache-{number}"
        content = path.read_bytes()
        place.write_bytes(content)
        files[path.name] = FileAt(place, digest_of(content))
    built = build(store, files)
    assert {file.path: file.digest for file in built.recorded.sources[0].files} == {
        name: at.digest for name, at in files.items()
    }
    assert built.recorded.sources[0].revision == "1" * 40
    assert built.recorded.created_s == 5


def test_bytes_that_are_not_those_that_were_promised_are_refused(store: ModelStore, directory: Path) -> None:
    files = list_directory(directory)
    for name in ("config.json", "model.safetensors"):
        with pytest.raises(LayerCorrupt, match=f"in {name}"):
            build(store, {**files, name: FileAt(directory / name, Digest("a" * 64))})
        assert list(store.blobs.list()) == []


def test_a_file_that_is_a_blob_already_is_not_written_again(store: ModelStore, directory: Path) -> None:
    files = {}
    for path in directory.iterdir():
        digest = store.blobs.publish_bytes(path.read_bytes())
        files[path.name] = FileAt(store.layout.blob_path(digest), digest)
    before = {at.path: at.path.stat().st_ino for at in files.values()}
    built = build(store, files)
    assert {path: path.stat().st_ino for path in before} == before
    (weights,) = (layer for layer in built.layers if layer.filepath == "model.safetensors")
    assert store.chunk_map(weights) is not None


def test_a_blob_that_changed_is_not_taken(store: ModelStore, directory: Path) -> None:
    content = (directory / "model.safetensors").read_bytes()
    digest = store.blobs.publish_bytes(content)
    path = store.layout.blob_path(digest)
    path.chmod(0o644)
    path.write_bytes(content[:-2] + b"\0\x31")
    with pytest.raises(LayerCorrupt):
        build(store, {**list_directory(directory), "model.safetensors": FileAt(path, digest)})
    assert not store.blobs.has(digest)
