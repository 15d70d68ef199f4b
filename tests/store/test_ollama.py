"""Models out of Ollama's own directory, built by hand exactly as its source code writes it."""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from protocol.build_record import SourceKind
from protocol.digest import digest_of
from store.errors import (
    CacheModelUnknown,
    FormatUnsupported,
    HubFileCorrupt,
    RepositoryNameInvalid,
    SafetensorsInvalid,
    SourceInvalid,
)
from store.fetched import Fetched
from store.models import ModelStore
from store.ollama import OllamaCache, parse_ollama_name
from store.safetensors import read_header, write_safetensors
from store.sources import read_files
from store.testing import make_model_directory, make_tensors

MEDIA = "application/vnd.ollama.image."
Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes]]


class OllamaDirectory:
    """Writes blobs and manifests as Ollama does: files of mode 0644 under `sha256-<hex>`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layers: list[dict[str, Any]] = []
        (root / "blobs").mkdir(parents=True)

    def blob(self, content: bytes) -> tuple[str, Path]:
        digest = hashlib.sha256(content).hexdigest()
        path = self.root / "blobs" / f"sha256-{digest}"
        path.write_bytes(content)
        path.chmod(0o644)
        return digest, path

    def layer(self, kind: str, content: bytes, name: str = "") -> Path:
        digest, path = self.blob(content)
        layer = {"mediaType": MEDIA + kind, "digest": f"sha256:{digest}", "size": len(content)}
        self.layers.append({**layer, "name": name} if name else layer)
        return path

    def tensor(self, name: str, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
        return self.layer("tensor", safetensors(tensors, metadata), name)

    def manifest(self, tag: str = "latest", name: str = "tiny", host: str = "registry.example") -> None:
        path = self.root / "manifests" / host / "library" / name / tag
        path.parent.mkdir(parents=True, exist_ok=True)
        config, _ = self.blob(json.dumps({"model_format": "safetensors", "capabilities": ["completion"]}).encode())
        docker = "application/vnd.docker."
        document = {
            "schemaVersion": 2,
            "mediaType": f"{docker}distribution.manifest.v2+json",
            "config": {"mediaType": f"{docker}container.image.v1+json", "digest": f"sha256:{config}", "size": 1},
            "layers": self.layers,
        }
        path.write_text(json.dumps(document))


def safetensors(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    """A minimal file, as Ollama writes it: header padded to 8 bytes, no alignment."""
    position, header, data = 0, dict[str, Any](), b""
    if metadata:
        header["__metadata__"] = dict(metadata)
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + len(content)]}
        position += len(content)
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture
def ollama(tmp_path: Path) -> OllamaDirectory:
    return OllamaDirectory(tmp_path / "models")


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    return make_model_directory(tmp_path / "upstream")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    opened = ModelStore(tmp_path / "store")
    yield opened
    opened.close()


def add_files(ollama: OllamaDirectory, upstream: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        ollama.layer("json", (upstream / name).read_bytes(), name)


def fetch(store: ModelStore, ollama: OllamaDirectory, base: str = "ollama:tiny") -> Fetched:
    with store.lease() as lease:
        return OllamaCache(ollama.root).fetch_base(store, base, lease, lambda event: None)


def tensors_in(fetched: Fetched) -> dict[str, bytes]:
    path = fetched.files["model.safetensors"].path
    content = path.read_bytes()
    return {t.name: content[t.offset : t.offset + t.length] for t in read_header(path).tensors}


@pytest.mark.parametrize("old", [False, True], ids=["tensors have their names", "tensors are called data"])
def test_tensors_become_one_canonical_file(
    store: ModelStore, ollama: OllamaDirectory, upstream: Path, tmp_path: Path, old: bool
) -> None:
    tensors = make_tensors()
    for name, tensor in tensors.items():
        ollama.tensor(name, {"data" if old else name: tensor})
    add_files(ollama, upstream)
    ollama.layer("template", b"{{ .Prompt }}")
    ollama.layer("params", b"{}")
    ollama.manifest()
    fetched = fetch(store, ollama)
    assert tensors_in(fetched) == {name: content for name, (_, _, content) in tensors.items()}
    write_safetensors(tmp_path / "expected", tensors, {"format": "mlx"})
    assert fetched.files["model.safetensors"].digest == digest_of((tmp_path / "expected").read_bytes())
    assert (fetched.origin.kind, fetched.origin.name) == (SourceKind.CACHE, "ollama:tiny:latest")
    assert fetched.skipped == ("params", "template")
    assert not any(store.layout.temporary.iterdir())
    source = read_files(fetched.files, fetched.origin, Path("ollama:tiny"))
    assert [file.filepath for file in source.files] == ["config.json", "model.safetensors", "tokenizer.json"]


def test_json_files_are_linked_and_weights_written_once(
    store: ModelStore, ollama: OllamaDirectory, upstream: Path
) -> None:
    for name, tensor in make_tensors().items():
        ollama.tensor(name, {name: tensor})
    add_files(ollama, upstream)
    ollama.manifest()
    fetched = fetch(store, ollama)
    sizes = {name: at.path.stat().st_size for name, at in fetched.files.items()}
    assert fetched.moved.linked_bytes == sizes["config.json"] + sizes["tokenizer.json"]
    assert fetched.moved.copied_bytes == sizes["model.safetensors"]


def test_a_packed_model_gets_the_names_that_mlx_lm_reads(
    store: ModelStore, ollama: OllamaDirectory, upstream: Path
) -> None:
    def packed(name: str) -> Tensors:
        return {
            name: ("U32", (8, 8), os.urandom(256)),
            f"{name}.scale": ("F16", (8, 1), b"\0\x3c" * 8),
            f"{name}.bias": ("F16", (8, 1), b"\0\0" * 8),
        }

    four, eight = packed("model.layers.0.up.weight"), packed("model.layers.0.down.weight")
    ollama.tensor("model.layers.0.up.weight", four, {"quant_type": "int4", "group_size": "64"})
    ollama.tensor("up2.weight", packed("up2.weight"), {"quant_type": "int4", "group_size": "64"})
    ollama.tensor("model.layers.0.down.weight", eight, {"quant_type": "int8", "group_size": "64"})
    ollama.tensor("model.norm.weight", {"model.norm.weight": ("F16", (8,), b"\0\x3c" * 8)})
    add_files(ollama, upstream)
    ollama.manifest()
    fetched = fetch(store, ollama)
    found = tensors_in(fetched)
    assert found["model.layers.0.up.weight"] == four["model.layers.0.up.weight"][2]
    assert found["model.layers.0.up.scales"] == four["model.layers.0.up.weight.scale"][2]
    assert found["model.layers.0.down.biases"] == eight["model.layers.0.down.weight.bias"][2]
    assert "model.norm.weight" in found
    config = json.loads(fetched.files["config.json"].path.read_text())
    assert config["quantization"] == {
        "bits": 4,
        "group_size": 64,
        "model.layers.0.down": {"bits": 8, "group_size": 64},
    }
    assert config["model_type"] == "qwen3"


@pytest.mark.parametrize("kind", ["mxfp8", "nvfp4", ""])
def test_other_packings_are_refused_by_name(
    store: ModelStore, ollama: OllamaDirectory, upstream: Path, kind: str
) -> None:
    tensors = {"w.weight": ("U32", (1, 1), b"\0" * 4), "w.weight.scale": ("U8", (1, 1), b"\0")}
    ollama.tensor("w.weight", tensors, {"quant_type": kind, "group_size": "32"} if kind else None)
    add_files(ollama, upstream)
    ollama.manifest()
    with pytest.raises(FormatUnsupported, match=kind or "no known packing"):
        fetch(store, ollama)
    assert list(store.blobs.list()) == []


def test_gguf_is_refused_with_the_reason(store: ModelStore, ollama: OllamaDirectory) -> None:
    ollama.layer("model", b"GGUF" + b"\0" * 100)
    ollama.manifest("1b")
    with pytest.raises(FormatUnsupported, match="ollama:tiny:1b: Ollama keeps its weights as GGUF"):
        fetch(store, ollama, "ollama:tiny:1b")


def test_a_model_of_several_parts_is_refused(store: ModelStore, ollama: OllamaDirectory) -> None:
    ollama.tensor("vae/w", {"vae/w": ("F16", (1,), b"\0\0")})
    ollama.manifest()
    with pytest.raises(FormatUnsupported, match="several parts"):
        fetch(store, ollama)


def test_a_model_that_is_not_there_is_named_with_those_that_are(store: ModelStore, ollama: OllamaDirectory) -> None:
    ollama.manifest("1b")
    with pytest.raises(CacheModelUnknown, match="ollama:other:latest") as raised:
        fetch(store, ollama, "ollama:other")
    assert raised.value.hint == "it has: ollama:tiny:1b"
    with pytest.raises(CacheModelUnknown):
        fetch(store, OllamaDirectory(ollama.root / "none"))


def test_a_blob_that_somebody_wrote_into_is_refused(store: ModelStore, ollama: OllamaDirectory, upstream: Path) -> None:
    path = ollama.tensor("w", {"w": ("F16", (2,), b"\0\0\0\0")})
    add_files(ollama, upstream)
    ollama.manifest()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(HubFileCorrupt, match="its hash differs"):
        fetch(store, ollama)


def test_json_that_somebody_wrote_into_is_refused(store: ModelStore, ollama: OllamaDirectory, upstream: Path) -> None:
    ollama.tensor("w", {"w": ("F16", (2,), b"\0\0\0\0")})
    path = ollama.layer("json", (upstream / "config.json").read_bytes(), "config.json")
    ollama.manifest()
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(HubFileCorrupt):
        fetch(store, ollama)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "manifest",
    [
        "{",
        "[]",
        '{"layers": 1}',
        '{"layers": [1]}',
        '{"layers": [{"mediaType": "x", "digest": "sha256:../../etc/passwd", "size": 1}]}',
        json.dumps({"layers": [{"mediaType": "x", "digest": f"sha256:{'ab' * 32}", "size": -1}]}),
        json.dumps({"layers": [{"mediaType": "x", "digest": f"sha256:{'ab' * 32}"}]}),
        json.dumps({"layers": [{}] * 40_001}),
    ],
)
def test_a_manifest_that_is_none_is_refused(store: ModelStore, ollama: OllamaDirectory, manifest: str) -> None:
    ollama.manifest()
    next(ollama.root.glob("manifests/*/*/*/*")).write_text(manifest)
    with pytest.raises(SourceInvalid):
        fetch(store, ollama)


def test_a_tensor_blob_that_is_no_safetensors_is_refused(store: ModelStore, ollama: OllamaDirectory) -> None:
    ollama.layer("tensor", b"\0" * 100, "w")
    ollama.manifest()
    with pytest.raises(SafetensorsInvalid):
        fetch(store, ollama)


@pytest.mark.parametrize(
    "text", ["ollama:", "ollama:../x", "ollama:a/b/c/d", "ollama:x:", "ollama:x:../y", "ollama:/x"]
)
def test_a_name_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RepositoryNameInvalid):
        parse_ollama_name(text)


@pytest.mark.parametrize("text", ["ollama:tiny:latest", "ollama:me/tiny:1b", "ollama:host.example/me/tiny:1b"])
def test_a_name_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_ollama_name(text)) == text
