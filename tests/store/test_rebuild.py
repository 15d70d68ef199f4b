"""Building again: the same comes out, and whatever does not is named; a rebuild leaves nothing in the store."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.build_record import BUILD_RECORD, SourceKind, encode_build_record, parse_build_record
from protocol.digest import Digest
from protocol.errors import BuildRecordInvalid
from protocol.manifest import WEIGHT, Layer, Manifest, encode_manifest
from protocol.model_name import parse_model_name
from protocol.modelfile import parse_modelfile
from protocol.quantization import Quantization
from store.bases import LocalBases
from store.build import BuildRequest, BuiltModel, build_model
from store.errors import (
    BuildRecordMissing,
    BuildSourceGone,
    LayerCorrupt,
    QuantizationRefused,
    ReleaseNotPinned,
    SourceInvalid,
)
from store.fetched import Fetched, Moved, Remote, Report, Wanted
from store.leases import Lease
from store.models import ModelStore
from store.rebuild import CheckReport, Difference, check_build, compare_manifests
from store.safetensors import read_header, write_safetensors
from store.sources import FileAt, Origin, list_directory
from store.testing import add_model, make_model_directory, make_tensors

NAME = parse_model_name("demo")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_model_directory(tmp_path / "model")


class Halver:
    """Converts as a test can see: every second byte of each tensor."""

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.seen: list[str] = []

    def convert(self, source_dir: Path, target_dir: Path, quantization: Quantization) -> Mapping[str, str]:
        """Write half of each tensor and a config that says so."""
        self.seen = sorted(path.name for path in source_dir.iterdir())
        content = (source_dir / "model.safetensors").read_bytes()
        halves = {
            tensor.name: ("U8", (tensor.length // 2,), content[tensor.offset : tensor.offset + tensor.length : 2])
            for tensor in read_header(source_dir / "model.safetensors").tensors
        }
        write_safetensors(target_dir / "model.safetensors", halves)
        config = json.loads((source_dir / "config.json").read_text())
        (target_dir / "config.json").write_text(json.dumps({**config, "halved": True}))
        return {"halver": self.version, "device": "a desk"}


def build(store: ModelStore, directory: Path, recipe: str = "FROM .", **more: object) -> BuiltModel:
    request = BuildRequest(parse_modelfile(recipe), NAME, directory, **more)  # type: ignore[arg-type]  # one field each
    built = build_model(store, request, convert=Halver())
    store.refs.set(NAME, built.manifest)
    return built


def check(
    store: ModelStore, *, source: Path | None = None, convert: Halver | None = None, bases: LocalBases | None = None
) -> CheckReport:
    def heard(event: dict[str, object]) -> None:
        assert event["status"]

    return check_build(
        store, NAME, bases=bases or LocalBases(), convert=convert or Halver(), report=heard, source_dir=source
    )


def blobs(store: ModelStore) -> set[Digest]:
    return set(store.blobs.list())


def test_a_model_is_built_again_from_its_stored_layers_wherever_it_came_from(
    store: ModelStore, directory: Path
) -> None:
    built = build(store, directory, "FROM .\nSYSTEM hi")
    before = blobs(store)
    directory.rename(directory.parent / "moved")
    report = check(store)
    assert (report.same, report.expected, report.found) == (True, built.manifest, built.manifest)
    assert report.differences == ()
    assert report.sources == ("the stored layers",)
    assert blobs(store) == before
    assert store.leases.held() == frozenset()


def test_a_directory_that_changed_is_named_down_to_the_tensor(store: ModelStore, directory: Path) -> None:
    build(store, directory)
    before = blobs(store)
    tensors = make_tensors()
    tensors["model.layers.1.weight"] = ("F16", (64, 64), bytes(8192))
    write_safetensors(directory / "model.safetensors", tensors, {"format": "mlx"})
    assert check(store).same
    report = check(store, source=directory)
    assert not report.same
    named = [difference.where for difference in report.differences]
    assert named == [
        "source ., model.safetensors",
        "content of all tensors",
        "layer model.safetensors",
        "tensor model.layers.1.weight",
    ]
    assert report.sources == (str(directory),)
    assert blobs(store) == before


def test_a_converted_model_is_built_again_from_its_directory(store: ModelStore, directory: Path) -> None:
    built = build(store, directory, quantization=Quantization.INT4)
    assert built.recorded.tools["halver"] == "1"
    assert "device" not in built.recorded.tools
    assert built.record.tool_versions["device"] == "a desk"
    assert {source.path for source in built.recorded.sources[0].files} == {
        "config.json", "tokenizer.json", "model.safetensors",
    }  # fmt: skip
    report = check(store)
    assert report.same
    assert report.sources == (str(directory),)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"\0\x30")
    changed = check(store)
    assert [difference.where for difference in changed.differences][:2] == [
        "source ., model.safetensors",
        "content of all tensors",
    ]
    newer = check(store, source=directory, convert=Halver("2"))
    assert Difference("tool halver", "1", "2") in newer.differences
    assert list(store.layout.temporary.iterdir()) == []


def test_a_converted_model_whose_directory_is_gone_says_so(store: ModelStore, directory: Path) -> None:
    build(store, directory, quantization=Quantization.INT8)
    directory.rename(directory.parent / "moved")
    with pytest.raises(BuildSourceGone) as caught:
        check(store)
    assert "--source DIR" in caught.value.hint
    assert check(store, source=directory.parent / "moved").same
    with pytest.raises(BuildSourceGone, match="nowhere"):
        check(store, source=directory.parent / "nowhere")


def test_a_base_that_is_a_stored_model_is_found_by_its_manifest(store: ModelStore, directory: Path) -> None:
    first = add_model(store, "base", directory, "FROM .\nPARAMETER seed 1")
    built = build(store, directory, "FROM base\nSYSTEM hi")
    (source,) = built.recorded.sources
    assert (source.kind, source.name, source.revision) == (SourceKind.MODEL, "base:latest", first.manifest)
    records = [layer for layer in store.manifest(built.manifest).layers if layer.filepath == BUILD_RECORD]
    assert [parse_build_record(store.blobs.read(x.digest, x.size)).recipe for x in records] == [built.recorded.recipe]
    make_model_directory(directory, make_tensors(seed=9))
    add_model(store, "base", directory)  # the name means something else by now
    assert check(store).same
    store.remove(parse_model_name("base"))
    with pytest.raises(BuildSourceGone, match="base:latest") as caught:
        check(store)
    assert "tilenode pull base:latest" in caught.value.hint


def test_a_stored_base_is_converted_as_well(store: ModelStore, directory: Path) -> None:
    add_model(store, "base", directory, "FROM .\nSYSTEM base")
    built = build(store, directory, "FROM base", quantization=Quantization.INT4)
    assert store.resolve(NAME).modelfile.system == "base"
    assert {row.filepath for row in built.layers if row.media_type == WEIGHT} == {"model.safetensors"}
    assert check(store).same


@pytest.mark.parametrize("recipe", ["FROM .", "FROM base\nSYSTEM hi"])
def test_a_stored_layer_that_changed_is_no_rebuild(store: ModelStore, directory: Path, recipe: str) -> None:
    add_model(store, "base", directory)
    built = build(store, directory, recipe)
    (weights,) = (layer for layer in built.layers if layer.media_type == WEIGHT)
    path = store.layout.blob_path(weights.digest)
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-2] + b"\0\x31")
    with pytest.raises(LayerCorrupt):
        check(store)
    assert not path.exists()


def test_a_source_that_changes_while_it_is_converted_is_refused(store: ModelStore, directory: Path) -> None:
    class Meddler(Halver):
        def convert(self, source_dir: Path, target_dir: Path, quantization: Quantization) -> Mapping[str, str]:
            tools = super().convert(source_dir, target_dir, quantization)
            (directory / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
            return tools

    request = BuildRequest(parse_modelfile("FROM ."), NAME, directory, quantization=Quantization.INT4)
    with pytest.raises(SourceInvalid, match="changed while it was converted"):
        build_model(store, request, convert=Meddler())
    assert blobs(store) == set()
    assert list(store.layout.temporary.iterdir()) == []


def test_a_conversion_that_fails_leaves_nothing(store: ModelStore, directory: Path) -> None:
    class Refuser(Halver):
        def convert(self, source_dir: Path, target_dir: Path, quantization: Quantization) -> Mapping[str, str]:
            super().convert(source_dir, target_dir, quantization)
            raise QuantizationRefused(str(quantization), "no")

    request = BuildRequest(parse_modelfile("FROM ."), NAME, directory, quantization=Quantization.INT4)
    with pytest.raises(QuantizationRefused):
        build_model(store, request, convert=Refuser())
    assert blobs(store) == set()
    assert list(store.layout.temporary.iterdir()) == []


def test_what_a_report_raises_stops_the_build_and_nothing_stays(store: ModelStore, directory: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: dict[str, object]) -> None:
        raise Stop

    for quantization in (Quantization.NONE, Quantization.INT4):
        request = BuildRequest(parse_modelfile("FROM ."), NAME, directory, quantization=quantization)
        with pytest.raises(Stop):
            build_model(store, request, convert=Halver(), report=stop)
        assert blobs(store) == set()
        assert list(store.layout.temporary.iterdir()) == []


class Hub(Remote):
    """A hub with one repository, whose files lie in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked: list[str] = []

    def owns(self, base: str) -> bool:
        """Return whether the name has the prefix."""
        return base.startswith("hf:")

    def may_have(self, base: str) -> bool:
        """Return whether the name has two parts."""
        return "/" in base

    def fetch_base(
        self, store: ModelStore, base: str, lease: Lease, report: Report, wanted: Wanted = Wanted.MODEL
    ) -> Fetched:
        """Return the files as they lie there."""
        self.asked.append(base)
        files = {name: FileAt(at.path) for name, at in list_directory(self.directory).items()}
        return Fetched(files, Origin(SourceKind.HUB, "hf:acme/tiny", COMMIT, 1_600_000_000), Moved())


def test_the_time_of_the_upstream_commit_is_the_models(store: ModelStore, directory: Path) -> None:
    bases = LocalBases(remotes=(Hub(directory),))
    request = BuildRequest(parse_modelfile("FROM acme/tiny"), NAME, directory)
    built = build_model(store, request, bases=bases)
    assert built.recorded.created_s == 1_600_000_000
    assert store.manifest(built.manifest).annotations["org.opencontainers.image.created"] == "2020-09-13T12:26:40Z"
    assert built.recorded.sources[0].revision == COMMIT
    store.refs.set(NAME, built.manifest)
    derived = build_model(store, BuildRequest(parse_modelfile("FROM demo"), parse_model_name("other"), directory))
    assert derived.recorded.created_s == 1_600_000_000
    given = BuildRequest(parse_modelfile("FROM acme/tiny"), NAME, directory, created_s=7)
    assert build_model(store, given, bases=bases).recorded.created_s == 7


def test_a_release_needs_a_commit(store: ModelStore, directory: Path) -> None:
    hub = Hub(directory)
    release = parse_model_name("demo@1.0")
    for base in ("acme/tiny", "hf:acme/tiny", "acme/tiny@main", f"acme/tiny@{COMMIT[:12]}"):
        with pytest.raises(ReleaseNotPinned) as caught:
            build_model(
                store,
                BuildRequest(parse_modelfile(f"FROM {base}"), release, directory),
                bases=LocalBases(remotes=(hub,)),
            )
        assert "@COMMIT" in caught.value.hint
    assert hub.asked == []
    request = BuildRequest(parse_modelfile(f"FROM acme/tiny@{COMMIT}"), release, directory)
    assert build_model(store, request, bases=LocalBases(remotes=(hub,))).recorded.sources[0].revision == COMMIT


def test_a_converted_model_of_a_hub_is_built_again_from_its_commit(store: ModelStore, directory: Path) -> None:
    hub = Hub(directory)
    bases = LocalBases(remotes=(hub,))
    request = BuildRequest(parse_modelfile("FROM acme/tiny"), NAME, directory, quantization=Quantization.INT4)
    built = build_model(store, request, bases=bases, convert=Halver())
    store.refs.set(NAME, built.manifest)
    assert check(store, bases=bases).same
    assert hub.asked == ["acme/tiny", f"hf:acme/tiny@{COMMIT}"]
    with pytest.raises(BuildSourceGone, match="hf:acme/tiny"):
        check(store)


def test_a_tokenizer_of_another_place_is_taken_and_recorded(store: ModelStore, directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "words"
    other.mkdir()
    (other / "tokenizer.json").write_text('{"version":"1.0","model":{"type":"WordLevel","vocab":{"x":0}}}')
    (other / "config.json").write_text("{}")
    built = build(store, directory, tokenizer="../words")
    tokenizer = store.manifest(built.manifest).layer("tokenizer.json")
    assert tokenizer is not None
    assert store.blobs.read(tokenizer.digest, 1000) == (other / "tokenizer.json").read_bytes()
    assert [(source.name, [file.path for file in source.files]) for source in built.recorded.sources] == [
        (".", ["config.json", "model.safetensors"]),
        ("./words", ["tokenizer.json"]),
    ]
    assert check(store).same


def test_one_directory_may_give_base_and_tokenizer_and_adapter(store: ModelStore, directory: Path) -> None:
    tensors = make_tensors() | {"model.layers.1.self_attn.q_proj.weight": ("F16", (8, 64), bytes(1024))}
    make_model_directory(directory, tensors)
    lora = {"model.layers.1.self_attn.q_proj.lora_a": ("F16", (64, 2), bytes(256))}
    lora["model.layers.1.self_attn.q_proj.lora_b"] = ("F16", (2, 8), bytes(32))
    (directory / "lora").mkdir()
    write_safetensors(directory / "lora" / "adapters.safetensors", lora)
    parameters = {"rank": 2, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters}
    (directory / "lora" / "adapter_config.json").write_text(json.dumps(config))
    for recipe in ("FROM .\nADAPTER ./lora", "FROM .\nADAPTER ./lora/adapters.safetensors"):
        built = build(store, directory, recipe, tokenizer=".")
        assert [len(source.files) for source in built.recorded.sources] == [2, 1, 2]
        assert check(store).same


def test_a_record_that_resolves_less_than_its_recipe_names_is_refused(store: ModelStore, directory: Path) -> None:
    built = build(store, directory)
    record = replace(built.recorded, recipe="FROM /etc\n", sources=())
    content = encode_build_record(record)
    manifest = store.manifest(built.manifest)
    layers = tuple(
        replace(layer, digest=store.blobs.publish_bytes(content), size=len(content))
        if layer.filepath == BUILD_RECORD
        else layer
        for layer in manifest.layers
    )
    lying = store.blobs.publish_bytes(encode_manifest(Manifest(manifest.config, layers, manifest.annotations)))
    store.refs.set(NAME, lying)
    with pytest.raises(BuildRecordInvalid, match="the recipe names 1"):
        check(store)


def test_a_model_without_a_record_cannot_be_checked(store: ModelStore, directory: Path) -> None:
    built = build(store, directory)
    manifest = store.manifest(built.manifest)
    layers = tuple(layer for layer in manifest.layers if layer.filepath != BUILD_RECORD)
    bare = store.blobs.publish_bytes(encode_manifest(Manifest(manifest.config, layers, manifest.annotations)))
    store.refs.set(NAME, bare)
    with pytest.raises(BuildRecordMissing) as caught:
        check(store)
    assert caught.value.hint


def test_whatever_differs_between_manifests_is_named(store: ModelStore, directory: Path) -> None:
    one = store.manifest(build(store, directory, "FROM .\nSYSTEM a").manifest)
    other = store.manifest(build(store, directory, "FROM .\nSYSTEM b", created_s=5).manifest)
    assert {found.where for found in compare_manifests(store, one, other)} == {
        "recipe", "created", "Modelfile", "org.opencontainers.image.created",
    }  # fmt: skip
    extra = Layer(Digest("a" * 64), 1, WEIGHT, "extra.safetensors")
    more = Manifest(one.config, (*one.layers, extra), one.annotations)
    assert list(compare_manifests(store, one, more)) == [Difference("layer extra.safetensors", "none", "a" * 12)]
    config = Manifest(other.config, one.layers, one.annotations)
    assert [found.where for found in compare_manifests(store, one, config)] == ["config"]
    assert list(compare_manifests(store, one, one)) == []
