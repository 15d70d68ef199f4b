"""Building: the same inputs give the same manifest; what cannot be right is refused by name and leaves nothing."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.chunkmap import encode_chunk_map
from protocol.digest import Digest, digest_of
from protocol.manifest import DOC, WEIGHT, WEIGHT_CONFIG
from protocol.model_name import parse_model_name
from protocol.modelfile import Modelfile, parse_modelfile
from store import disk
from store.bases import LocalBases
from store.build import BuildRequest, BuiltModel, build_model
from store.errors import (
    BaseUnknown,
    BuildRefused,
    DiskFull,
    FormatUnsupported,
    SafetensorsInvalid,
    SourceEscapes,
    SourceInvalid,
    SourceMissing,
    StoreError,
    TensorMissing,
    VersionUnknown,
    WeightsNotFinite,
)
from store.models import ModelStore
from store.safetensors import write_safetensors
from store.testing import add_model, make_model_directory, make_tensors

NAME = parse_model_name("demo")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_model_directory(tmp_path / "model")


def build(store: ModelStore, directory: Path, recipe: str = "FROM .", created_s: int = 0) -> BuiltModel:
    return build_model(store, BuildRequest(parse_modelfile(recipe), NAME, directory, created_s))


def split(directory: Path, halves: dict[str, list[str]] | None = None) -> dict[str, str]:
    """Put the weights into two files with an index; return the index's map."""
    tensors = make_tensors()
    names = sorted(tensors)
    halves = halves or {"model-1.safetensors": names[:2], "model-2.safetensors": names[2:]}
    (directory / "model.safetensors").unlink()
    for file, members in halves.items():
        write_safetensors(directory / file, {name: tensors[name] for name in members})
    shards = {name: file for file, members in halves.items() for name in members}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return shards


def test_a_directory_becomes_a_manifest_with_a_layer_for_each_file(store: ModelStore, directory: Path) -> None:
    (directory / "LICENSE").write_text("MIT")
    built = build(store, directory, "FROM .\nPARAMETER temperature 0\nSYSTEM be short", created_s=86_400)
    manifest = store.manifest(built.manifest)
    types = {layer.filepath: layer.media_type for layer in manifest.layers}
    assert types == {
        "LICENSE": DOC, "Modelfile": DOC, "build.json": DOC, "config.json": WEIGHT_CONFIG,
        "tokenizer.json": WEIGHT_CONFIG, "model.safetensors": WEIGHT,
    }  # fmt: skip
    assert list(types) == sorted(types)
    assert manifest.annotations == {"org.opencontainers.image.created": "1970-01-02T00:00:00Z"}
    weights = manifest.layer("model.safetensors")
    assert weights is not None
    assert weights.digest == digest_of((directory / "model.safetensors").read_bytes())
    chunk_map = store.chunk_map(weights)
    assert chunk_map is not None
    assert {tensor.name for tensor in chunk_map.tensors} == make_tensors().keys()
    assert store.blobs.read_chunks(chunk_map, 0, len(chunk_map)) == (directory / "model.safetensors").read_bytes()
    assert weights.chunk_map is not None
    assert weights.chunk_map.digest == digest_of(encode_chunk_map(chunk_map))
    assert store.chunks.blobs() == {weights.digest}
    for blob in manifest.blobs():
        assert store.blobs.verify(blob.digest) == blob.size


def test_the_record_names_sources_parameters_and_tools_and_no_place(store: ModelStore, directory: Path) -> None:
    (directory / "notes.txt").write_text("mine")
    built = build(store, directory, "FROM ./\nSYSTEM hi")
    assert {source.name for source in built.record.sources} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert built.record.external_parameters["modelfile"] == "FROM ./\nSYSTEM hi\n"
    assert built.record.external_parameters["name"] == "demo:latest"
    assert built.record.tool_versions["chunkmap"] == "1.2"
    assert built.record.left_out == ("notes.txt",)
    assert str(directory) not in repr(built.record)
    elsewhere = build_model(store, BuildRequest(Modelfile(str(directory)), NAME, directory)).record
    assert elsewhere.external_parameters["modelfile"] == "FROM ./model\n"
    assert str(directory.parent) not in repr(elsewhere)


BUILDER = """
import sys
from pathlib import Path
from protocol.model_name import parse_model_name
from protocol.modelfile import Modelfile
from store.build import BuildRequest, build_model
from store.models import ModelStore
store = ModelStore(Path(sys.argv[1]))
print(build_model(store, BuildRequest(Modelfile("."), parse_model_name("x"), Path(sys.argv[2]))).manifest)
"""


def test_the_same_inputs_give_the_same_manifest_anywhere(store: ModelStore, directory: Path, tmp_path: Path) -> None:
    expected = build(store, directory).manifest
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in sorted(directory.iterdir(), reverse=True):
        (copy / path.name).write_bytes(path.read_bytes())
        os.utime(copy / path.name, (1, 1))
    for number, zone in enumerate(("UTC", "Asia/Kathmandu")):
        environment = {**os.environ, "TZ": zone, "PYTHONHASHSEED": str(number), "LC_ALL": "C"}
        command = [sys.executable, "-c", BUILDER, str(tmp_path / f"other{number}"), str(copy)]
        done = subprocess.run(
            command, env=environment, umask=0o077 * number, capture_output=True, check=True, text=True
        )
        assert done.stdout.strip() == expected


def test_time_and_recipe_are_part_of_it_and_the_name_is_not(store: ModelStore, directory: Path) -> None:
    first = build(store, directory).manifest
    assert build_model(store, BuildRequest(Modelfile("."), parse_model_name("other"), directory)).manifest == first
    assert build(store, directory, created_s=1).manifest != first
    assert build(store, directory, "FROM .\nSYSTEM x").manifest != first
    assert build(store, directory, "# a comment\nfrom  .\n").manifest == first


def test_a_stored_model_is_a_base_and_its_recipe_is_inherited(store: ModelStore, directory: Path) -> None:
    first = add_model(store, "demo", directory, "FROM .\nPARAMETER seed 1\nPARAMETER stop a\nSYSTEM base")
    built = build(store, directory, "FROM demo\nPARAMETER seed 2")
    store.refs.set(NAME, built.manifest)
    model = store.resolve(NAME)
    assert model.modelfile == Modelfile(".", parameters=(("stop", "a"), ("seed", 2)), system="base")
    assert {x.digest for x in first.layers if x.media_type == WEIGHT} <= {x.digest for x in model.layers}
    assert [(source.name, source.digest) for source in built.record.sources] == [("demo:latest", first.manifest)]


def test_an_earlier_version_of_a_stored_model_is_a_base(store: ModelStore, directory: Path) -> None:
    first = add_model(store, "demo", directory, "FROM .\nSYSTEM first")
    add_model(store, "demo", directory, "FROM .\nSYSTEM second")
    built = build(store, directory, "FROM demo@1")
    assert [source.digest for source in built.record.sources] == [first.manifest]
    with pytest.raises(VersionUnknown):
        build(store, directory, "FROM demo@3")


def test_where_a_base_is_looked_for(store: ModelStore, directory: Path, tmp_path: Path) -> None:
    known = make_model_directory(tmp_path / "known", make_tensors(seed=1))
    beside = make_model_directory(tmp_path / "beside", make_tensors(seed=2))

    def manifest(base: str) -> Digest:
        request = BuildRequest(Modelfile(base), NAME, tmp_path)
        return build_model(store, request, bases=LocalBases({"beside": known})).manifest

    def weights(base: str) -> Digest:
        layer = store.manifest(manifest(base)).layer("model.safetensors")
        assert layer is not None
        return layer.digest

    assert manifest("./beside") == manifest(str(beside))
    assert weights("./beside") == digest_of((beside / "model.safetensors").read_bytes())
    assert weights("beside") == digest_of((known / "model.safetensors").read_bytes())
    add_model(store, "beside", directory)
    assert weights("beside") == weights("model") == digest_of((directory / "model.safetensors").read_bytes())


@pytest.mark.parametrize(
    "base",
    [
        "./nowhere",
        "/nowhere",
        "nobody",
        "org/Repository",
        "./model/config.json",
        "Not A Name",
        "~nobody-here/x",
        "a\0b",
        "./\0",
    ],
)
def test_a_base_that_is_nowhere(store: ModelStore, directory: Path, base: str) -> None:
    with pytest.raises(BaseUnknown) as caught:
        build_model(store, BuildRequest(Modelfile(base), NAME, directory.parent))
    assert "tilenode list" in caught.value.hint


def test_template_messages_and_licence_are_kept_for_the_run(store: ModelStore, directory: Path) -> None:
    recipe = 'FROM .\nTEMPLATE "{{ messages }}"\nLICENSE MIT\nMESSAGE user hi\n'
    add_model(store, "demo", directory, recipe)
    assert store.resolve(NAME).modelfile == parse_modelfile(recipe)


def _truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _cut_header(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def _extend(directory: Path) -> None:
    with (directory / "model.safetensors").open("ab") as file:
        file.write(b"hidden")


def _empty(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"")


def _spoil(kind: str, number: bytes) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        tensors = make_tensors()
        tensors["bad"] = (kind, (3,), bytes(len(number)) + number + bytes(len(number)))
        write_safetensors(directory / "model.safetensors", tensors)

    return spoil


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        (directory / name).write_bytes(content)

    return write


def _remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def _missing_shard(directory: Path) -> None:
    split(directory)
    (directory / "model-2.safetensors").unlink()


def _missing_tensor(directory: Path) -> None:
    shards = split(directory)
    shards["model.layers.9.weight"] = "model-1.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def _tensor_in_another_shard(directory: Path) -> None:
    shards = split(directory)
    shards[min(shards)] = "model-2.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def _tensor_twice(directory: Path) -> None:
    write_safetensors(directory / "model-2.safetensors", make_tensors())


def _index_with_path(directory: Path) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


def _escaping_link(name: str) -> Callable[[Path], None]:
    def link(directory: Path) -> None:
        (directory / name).replace(directory.parent / name)
        (directory / name).symlink_to(directory.parent / name)

    return link


def _pipe(directory: Path) -> None:
    (directory / "config.json").unlink()
    os.mkfifo(directory / "config.json")


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (_truncate, SafetensorsInvalid, "cut off"),
        (_cut_header, SafetensorsInvalid, "cut off"),
        (_extend, SafetensorsInvalid, "too long"),
        (_empty, SafetensorsInvalid, "no safetensors file"),
        (_spoil("F16", struct.pack("<e", float("nan"))), WeightsNotFinite, "'bad'"),
        (_spoil("F32", struct.pack("<f", float("inf"))), WeightsNotFinite, "'bad'"),
        (_spoil("BF16", b"\x80\x7f"), WeightsNotFinite, "'bad'"),
        (_write("model.gguf", b"GGUF"), FormatUnsupported, "GGUF"),
        (_write("model.safetensors", b"GGUF\x03\0\0\0"), FormatUnsupported, "GGUF"),
        (_write("model.safetensors", b"PK\x03\x04aaaa"), FormatUnsupported, "pickled"),
        (_write("model.safetensors", b"\x80\x04\x95aaaaa"), FormatUnsupported, "pickled"),
        (_write("pytorch_model.bin", b"x"), FormatUnsupported, "pickled"),
        (_write("consolidated.00.PTH", b"x"), FormatUnsupported, "pickled"),
        (_remove("config.json"), SourceMissing, "config.json is missing"),
        (_remove("tokenizer.json"), SourceMissing, "tokenizer.json is missing"),
        (_remove("model.safetensors"), SourceMissing, "model.safetensors is missing"),
        (_write("config.json", b"{"), SourceInvalid, "config.json"),
        (_write("config.json", b"[]"), SourceInvalid, "not a JSON object"),
        (_write("config.json", b"{}"), SourceInvalid, "model_type"),
        (_write("model.safetensors.index.json", b"{}"), SourceInvalid, "weight_map"),
        (_missing_shard, TensorMissing, "model-2.safetensors"),
        (_missing_tensor, TensorMissing, "model.layers.9.weight"),
        (_tensor_in_another_shard, TensorMissing, "model-2.safetensors"),
        (_tensor_twice, SourceInvalid, "as well"),
        (_index_with_path, SourceInvalid, "no safetensors file of this directory"),
        (_escaping_link("config.json"), SourceEscapes, "config.json"),
        (_escaping_link("model.safetensors"), SourceEscapes, "model.safetensors"),
        (_pipe, SourceInvalid, "not a regular file"),
    ],
)
def test_what_cannot_be_right_is_refused_and_leaves_nothing_behind(
    store: ModelStore, directory: Path, spoil: Callable[[Path], None], error: type[StoreError], says: str
) -> None:
    spoil(directory)
    with pytest.raises(error, match=says) as caught:
        build(store, directory)
    assert caught.value.hint or issubclass(error, BuildRefused)
    assert list(store.layout.temporary.iterdir()) == []
    assert list(store.blobs.list()) == []
    assert store.chunks.blobs() == frozenset()
    assert store.list() == []


def test_gguf_under_from_is_refused_by_its_name(store: ModelStore, directory: Path) -> None:
    with pytest.raises(FormatUnsupported, match="GGUF"):
        build(store, directory, "FROM ./model.gguf")


def test_links_inside_the_directory_are_followed(store: ModelStore, directory: Path) -> None:
    (directory / "config.json").replace(directory / "real.json")
    (directory / "config.json").symlink_to("real.json")
    assert build(store, directory).record.left_out == ("real.json",)


def test_weights_in_several_files(store: ModelStore, directory: Path) -> None:
    split(directory)
    (directory / "unlisted.safetensors").write_bytes(b"not looked at")
    built = build(store, directory)
    names = [layer.filepath for layer in built.layers if layer.media_type == WEIGHT]
    assert names == ["model-1.safetensors", "model-2.safetensors"]
    assert built.record.left_out == ("unlisted.safetensors",)


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(
    store: ModelStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda place: disk.SPACE_MARGIN_BYTES)
    with pytest.raises(DiskFull) as caught:
        build(store, directory)
    assert caught.value.missing_bytes == sum(path.stat().st_size for path in directory.iterdir())
    assert list(store.blobs.list()) == []


def test_what_the_config_says_is_shown(store: ModelStore, directory: Path) -> None:
    add_model(store, "demo", directory)
    config = store.resolve(NAME).config
    assert (config.family, config.format, config.parameter_size, config.precision) == (
        "qwen3",
        "safetensors",
        "10.4K",
        "float16",
    )


def test_packed_weights_are_counted_as_weights(store: ModelStore, directory: Path) -> None:
    (directory / "config.json").write_text(
        json.dumps({"model_type": "qwen3", "quantization": {"bits": 4, "group_size": 64}})
    )
    tensors = {
        "w.weight": ("U32", (64, 16), bytes(4096)),
        "w.scales": ("F16", (64, 2), bytes(256)),
        "n.weight": ("F16", (808,), bytes(1616)),
    }
    write_safetensors(directory / "model.safetensors", tensors)
    add_model(store, "demo", directory)
    config = store.resolve(NAME).config
    assert (config.parameter_size, config.precision) == ("9K", "4-bit")
