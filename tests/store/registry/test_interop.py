"""Other programs on the other end: skopeo, oras and modelpack-client, through a real registry or a packed directory."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from modelpack_client import ModelLayer, ModelPackClient  # type: ignore[import-untyped]  # publishes no types
from modelpack_client.models import ModelDescriptor, ModelPackConfig, ModelTechnicalConfig  # type: ignore[import-untyped]  # publishes no types
from oras.client import OrasClient  # type: ignore[import-untyped]  # publishes no types

from protocol.digest import digest_of
from protocol.errors import ManifestInvalid
from protocol.model_name import parse_model_name
from protocol.referrer import CHUNK_MAPS
from protocol.registry import parse_reference, push_target
from store.models import ModelStore, StoredModel
from store.pack import pack_model
from store.registry.client import RegistryClient
from store.registry.layers import Event
from store.registry.pull import pull_model
from store.registry.push import push_model
from tests.store.registry.docker_registry import RunningRegistry

pytestmark = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo: apt install skopeo")

NAME = parse_model_name("demo")
INSECURE = ("--src-tls-verify=false", "--dest-tls-verify=false")


def silent(_: Event) -> None:
    return


def skopeo(*arguments: str) -> str:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def push(here: ModelStore, model: StoredModel, registry: RunningRegistry) -> str:
    """Push `model` and return what others call it."""
    push_model(here, model, push_target(f"{registry.host}/ann/demo", model.name), report=silent)
    return f"{registry.host}/ann/demo:q4"


def test_skopeo_copies_what_we_pushed_and_we_pull_what_skopeo_copied(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, model: StoredModel
) -> None:
    ours = push(here, model, registry)
    copied = f"{registry.host}/bob/copied:v1"
    skopeo("copy", *INSECURE, f"docker://{ours}", f"docker://{copied}")
    told = json.loads(skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{copied}"))
    assert told["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    # skopeo leaves referrers and chunk maps behind: the map is cut again and is the pinned one.
    pulled = pull_model(there, parse_reference(copied), NAME, report=silent)
    assert pulled.manifest == model.digest
    there.verify(NAME)
    assert all(there.blobs.has(layer.chunk_map.digest) for layer in model.layers if layer.chunk_map)


def test_skopeo_takes_a_packed_directory_to_a_registry_with_its_digest(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, model: StoredModel, tmp_path: Path
) -> None:
    packed = pack_model(here, model, tmp_path / "packed")
    assert packed.tags == ("q4-1.0", "q4")
    for tag in packed.tags:
        target = f"{registry.host}/carl/packed:{tag}"
        skopeo("copy", *INSECURE, f"oci:{tmp_path / 'packed'}:{tag}", f"docker://{target}")
        assert pull_model(there, parse_reference(target), NAME, report=silent).manifest == model.digest
    files = OrasClient(hostname=registry.host, insecure=True).pull(target, outdir=str(tmp_path / "oras"))
    assert {digest_of(Path(file).read_bytes()) for file in files} == {layer.digest for layer in model.layers}


def test_oras_pulls_the_files_under_their_own_names(
    registry: RunningRegistry, here: ModelStore, model: StoredModel, tmp_path: Path
) -> None:
    ours = push(here, model, registry)
    files = OrasClient(hostname=registry.host, insecure=True).pull(ours, outdir=str(tmp_path / "oras"))
    assert len(files) == len(model.layers)
    for layer in model.layers:
        assert digest_of((tmp_path / "oras" / layer.filepath).read_bytes()) == layer.digest


def test_what_oras_pushes_is_no_model_and_is_refused_by_name(
    registry: RunningRegistry, there: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    monkeypatch.chdir(tmp_path)
    pushed = f"{registry.host}/dora/notes:v1"
    client = OrasClient(hostname=registry.host, insecure=True)
    client.push(pushed, files=["notes.txt:text/plain"], quiet=True)
    with pytest.raises(ManifestInvalid, match="artifactType"):
        pull_model(there, parse_reference(pushed), NAME, report=silent)


def test_modelpack_client_reads_what_we_pushed(
    registry: RunningRegistry, here: ModelStore, model: StoredModel, tmp_path: Path
) -> None:
    ours = push(here, model, registry)
    ModelPackClient(registry.host, insecure=True).pull(ours, tmp_path / "out")
    for layer in model.layers:
        assert digest_of((tmp_path / "out" / layer.filepath).read_bytes()) == layer.digest


def test_we_pull_what_modelpack_client_pushed(registry: RunningRegistry, there: ModelStore, tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(bytes(range(256)) * 8192)
    pushed = f"{registry.host}/erin/raw:v1"
    config = ModelPackConfig(ModelDescriptor(family="tiny"), ModelTechnicalConfig(format="safetensors"))
    ModelPackClient(registry.host, insecure=True).push(pushed, [ModelLayer(weights)], config)
    pulled = pull_model(there, parse_reference(pushed), NAME, report=silent)
    assert (pulled.publisher, pulled.bytes_reused) == ("", 0)
    (layer,) = there.resolve(NAME).layers
    assert (layer.filepath, layer.chunk_map) == ("weights.bin", None)
    assert there.blobs.verify(layer.digest) == weights.stat().st_size


def test_a_directory_as_one_tar_layer_is_refused_by_name(
    registry: RunningRegistry, there: ModelStore, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").write_text("a")
    pushed = f"{registry.host}/erin/tar:v1"
    config = ModelPackConfig(ModelDescriptor(family="tiny"), ModelTechnicalConfig(format="safetensors"))
    ModelPackClient(registry.host, insecure=True).push(pushed, [ModelLayer(tmp_path / "files")], config)
    with pytest.raises(ManifestInvalid, match=r"weight\.v1\.tar"):
        pull_model(there, parse_reference(pushed), NAME, report=silent)


def test_oras_finds_our_referrers_under_the_tag_that_stands_for_them(
    registry: RunningRegistry, here: ModelStore, model: StoredModel
) -> None:
    push(here, model, registry)
    client = OrasClient(hostname=registry.host, insecure=True)
    index = client.get_manifest(
        f"{registry.host}/ann/demo:sha256-{model.digest}",
        allowed_media_type=["application/vnd.oci.image.index.v1+json"],
    )
    assert [entry["artifactType"] for entry in index["manifests"]] == [CHUNK_MAPS]
    with RegistryClient(parse_reference(f"{registry.host}/ann/demo:q4")) as asking:
        assert [entry.digest for entry in asking.referrers(model.digest)] == [
            index["manifests"][0]["digest"].removeprefix("sha256:")
        ]
