"""The client against Debian's docker-registry, unmodified: logins, what moves, what survives a kill."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from identity.keys import DeviceKey
from identity.secrets import LogGuard
from identity.testing import MemorySecretStore, key_from_number, secrets_from_number
from protocol.attestation import Artifact
from protocol.chunkmap import encode_chunk_map, make_chunk_map
from protocol.digest import digest_of
from protocol.manifest import Descriptor, Layer
from protocol.model_name import parse_model_name
from protocol.range_plan import plan_runs
from protocol.registry import Reference, local_name, parse_reference, push_target
from store.errors import VersionTaken
from store.leases import Lease
from store.log import Log
from store.models import ModelStore, StoredModel
from store.provenance import publish_model
from store.refs import RefEvent
from store.registry.client import RegistryClient
from store.registry.credentials import Login
from store.registry.errors import RegistryLoginNeeded, RegistryLoginRefused, RegistryUnknown
from store.registry.layers import Event, LayerPull
from store.registry.offered import Offered
from store.registry.pull import pull_model
from store.registry.push import push_model
from store.testing import add_model, make_model_directory, make_tensors
from tests.store.registry import docker_registry
from tests.store.registry.docker_registry import RunningRegistry

ROOT = Path(__file__).parents[3]
PULLER = Path(__file__).parent / "pull_process.py"


def silent(_: Event) -> None:
    return


def target(registry: RunningRegistry, model: StoredModel) -> Reference:
    return push_target(f"{registry.host}/ann/demo", model.name)


def test_a_release_is_pushed_under_both_tags_and_pulled_with_the_same_digest(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, model: StoredModel
) -> None:
    pushed = push_model(here, model, target(registry, model), report=silent)
    assert pushed.tags == ("q4-1.0", "q4")
    text = f"{registry.host}/ann/demo:q4@1.0"
    pulled = pull_model(there, parse_reference(text), local_name(text), report=silent)
    assert pulled.manifest == model.digest
    assert pulled.publisher == ""
    assert there.verify(local_name(text)).digest == model.digest
    (version,) = there.refs.history(parse_model_name(f"{registry.host}/ann/demo:q4"))
    assert (version.event, version.source) == (RefEvent.PULL, f"registry {registry.host}/ann/demo:q4-1.0")


def test_the_words_are_those_that_clients_know(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, model: StoredModel
) -> None:
    events: list[Event] = []
    reference = target(registry, model)
    push_model(here, model, reference, report=events.append)
    statuses = [str(event["status"]) for event in events]
    assert (statuses[0], statuses.count("pushing manifest")) == ("retrieving manifest", 1)
    weights = model.manifest.layer("model.safetensors")
    assert weights is not None
    assert f"pushing {weights.digest[:12]}" in statuses
    events.clear()
    pull_model(there, reference, parse_model_name("demo"), report=events.append)
    statuses = [str(event["status"]) for event in events]
    assert (statuses[0], statuses[-1]) == ("pulling manifest", "writing manifest")
    last = [event for event in events if event["status"] == f"pulling {weights.digest[:12]}"][-1]
    assert (last["digest"], last["total"], last["completed"]) == (
        f"sha256:{weights.digest}",
        weights.size,
        weights.size,
    )
    assert statuses.index("verifying sha256 digest") < statuses.index("writing manifest")


def test_a_second_push_sends_no_byte_and_a_second_pull_moves_none(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, model: StoredModel
) -> None:
    reference = target(registry, model)
    push_model(here, model, reference, report=silent)
    registry.forget()
    assert push_model(here, model, reference, report=silent).bytes_sent == 0
    assert registry.requests("POST", "/blobs/uploads/") == []
    pull_model(there, reference, parse_model_name("demo"), report=silent)
    again = pull_model(there, reference, parse_model_name("other"), report=silent)
    assert again.bytes_moved < 10_000  # the manifest, and what refers to it
    assert again.bytes_reused >= model.size_bytes - model.manifest.config.size


def test_a_blob_is_mounted_from_the_repository_that_it_came_from(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, model: StoredModel
) -> None:
    reference = target(registry, model)
    push_model(here, model, reference, report=silent)
    name = parse_model_name("mine")
    pull_model(there, reference, name, report=silent)
    other = parse_reference(f"{registry.host}/bob/copy:v1")
    pushed = push_model(there, there.resolve(name), other, report=silent)
    assert pushed.blobs_mounted >= len(model.layers)
    assert pushed.bytes_sent < 1000  # the empty config at most


def test_a_release_that_stands_for_another_model_is_not_moved(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, model: StoredModel, tmp_path: Path
) -> None:
    reference = target(registry, model)
    push_model(here, model, reference, report=silent)
    name = parse_model_name("demo:q4@1.0")
    add_model(there, "demo:q4@1.0", make_model_directory(tmp_path / "other", make_tensors(2)))
    with pytest.raises(VersionTaken):
        pull_model(there, reference, name, report=silent)


def test_an_unknown_tag_is_named(registry: RunningRegistry, there: ModelStore) -> None:
    with pytest.raises(RegistryUnknown, match="ann/nothing:latest"):
        pull_model(there, parse_reference(f"{registry.host}/ann/nothing"), parse_model_name("demo"), report=silent)


def test_a_login_is_needed_shown_and_refused(
    here: ModelStore, there: ModelStore, model: StoredModel, tmp_path: Path
) -> None:
    if not docker_registry.is_installed():
        pytest.skip(f"needs docker-registry: {docker_registry.NEEDED}")
    with docker_registry.login_registry(tmp_path / "registry") as registry:
        reference = target(registry, model)
        login = Login(docker_registry.USER, docker_registry.WORD)
        with pytest.raises(RegistryLoginNeeded) as needed:
            push_model(here, model, reference, report=silent)
        assert needed.value.hint == f"log in: tilenode registry login {registry.host}"
        with pytest.raises(RegistryLoginRefused) as refused:
            push_model(here, model, reference, report=silent, login=Login(docker_registry.USER, "canary of a password"))
        assert "canary" not in f"{refused.value!r} {refused.value} {refused.value.hint}"
        push_model(here, model, reference, report=silent, login=login)
        assert pull_model(there, reference, parse_model_name("demo"), report=silent, login=login).manifest
        with RegistryClient(reference, login=login) as client:
            assert client.check_login()


def test_tokens_are_asked_for_by_scope_and_kept(
    here: ModelStore, there: ModelStore, model: StoredModel, tmp_path: Path
) -> None:
    if not docker_registry.is_installed():
        pytest.skip(f"needs docker-registry: {docker_registry.NEEDED}")
    with docker_registry.token_registry(tmp_path / "registry") as (registry, tokens):
        reference = target(registry, model)
        push_model(here, model, reference, report=silent, login=Login(docker_registry.USER, docker_registry.WORD))
        assert tokens.asked == [["repository:ann/demo:pull"], ["repository:ann/demo:pull,push"]]
        # Everybody may pull, without a login and with one token for the whole of it.
        tokens.asked.clear()
        tokens.seen_logins.clear()
        pull_model(there, reference, parse_model_name("demo"), report=silent)
        assert (tokens.asked, tokens.seen_logins) == ([["repository:ann/demo:pull"]], [None])
        with pytest.raises(RegistryLoginNeeded):
            push_model(there, there.resolve(parse_model_name("demo")), target(registry, model), report=silent)


def fine_tuned(directory: Path, tuned: int) -> Path:
    """Write a model of 24 blocks of which the first `tuned` differ from those of `tuned` 0."""
    tensors = make_tensors(1, blocks=24, width=1024)
    other = make_tensors(2, blocks=24, width=1024)
    for name in tensors:
        if any(name.startswith(f"model.layers.{block}.") for block in range(tuned)):
            tensors[name] = other[name]
    return make_model_directory(directory, tensors)


def test_a_fine_tune_of_4_of_24_blocks_moves_those_blocks_and_nothing_more(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, tmp_path: Path
) -> None:
    name = parse_model_name("ann/demo")
    reference = parse_reference(f"{registry.host}/ann/demo")
    add_model(here, "ann/demo", fine_tuned(tmp_path / "base", 0))
    push_model(here, here.resolve(name), reference, report=silent, deltas=False)
    first = pull_model(there, reference, name, report=silent)
    add_model(here, "ann/demo", fine_tuned(tmp_path / "tuned", 4))
    push_model(here, here.resolve(name), reference, report=silent, deltas=False)
    second = pull_model(there, reference, name, report=silent)
    assert there.verify(name).digest == here.resolve(name).digest
    blocks = 4 * (1024 * 1024 + 1024) * 2
    print(f"\nfine-tune of 4 of 24 blocks: {second.bytes_moved} bytes moved of {first.bytes_moved}, blocks {blocks}")
    # Beside the blocks: chunk map, header, manifest's small files; one percent of gaps at most.
    assert blocks <= second.bytes_moved <= blocks * 1.02 + 60_000
    assert second.bytes_moved < first.bytes_moved / 5


def test_a_fine_tune_in_which_every_weight_moved_comes_as_a_delta(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, tmp_path: Path
) -> None:
    name = parse_model_name("ann/demo")
    reference = parse_reference(f"{registry.host}/ann/demo")
    tensors = {
        f"model.layers.{block}.weight": np.random.default_rng(block).normal(0, 0.02, (512, 512)).astype(np.float32)
        for block in range(16)
    }
    moved = {
        key: weight + np.random.default_rng(99).normal(0, 2e-5, weight.shape).astype(np.float32)
        for key, weight in tensors.items()
    }
    reports = []
    for number, weights in enumerate((tensors, moved)):
        packed = {
            key: ("BF16", weight.shape, (weight.view("<u4") >> 16).astype("<u2").tobytes())
            for key, weight in weights.items()
        }
        add_model(here, "ann/demo", make_model_directory(tmp_path / str(number), packed))
        pushed = push_model(here, here.resolve(name), reference, report=silent)
        reports.append(pull_model(there, reference, name, report=silent))
    assert pushed.deltas == 1
    assert there.verify(name).digest == here.resolve(name).digest
    print(f"\nfull fine-tune: {reports[1].bytes_moved} bytes moved of {reports[0].bytes_moved}")
    assert reports[1].bytes_moved < 0.3 * reports[0].bytes_moved
    # A store without the base takes chunks and gets the same.
    alone = ModelStore(tmp_path / "alone")
    assert pull_model(alone, reference, name, report=silent).manifest == here.resolve(name).digest
    alone.close()


def test_a_chunk_map_that_nobody_pinned_and_that_lies_costs_no_model(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, model: StoredModel
) -> None:
    push_model(here, model, target(registry, model), report=silent)
    weights = model.manifest.layer("model.safetensors")
    assert weights is not None
    unpinned = Layer(weights.digest, weights.size, weights.media_type, weights.filepath)
    lengths = [min(1 << 16, weights.size - start) for start in range(0, weights.size, 1 << 16)]
    lie = encode_chunk_map(
        make_chunk_map(
            weights.digest, weights.size, [(bytes([n % 256]) * 32, length) for n, length in enumerate(lengths)]
        )
    )
    offered = Offered({weights.digest: Descriptor(there.blobs.publish_bytes(lie), len(lie), "")}, (), (), ())
    with RegistryClient(target(registry, model)) as client, there.lease() as lease:
        LayerPull(client, there, offered, lease, silent).take_layer(unpinned)
    assert there.blobs.verify(weights.digest) == weights.size


def test_a_delta_that_somebody_else_needs_stays(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, tmp_path: Path
) -> None:
    name = parse_model_name("ann/demo")
    reference = parse_reference(f"{registry.host}/ann/demo")
    weights = np.random.default_rng(1).normal(0, 0.02, (1024, 1024)).astype(np.float32)
    needed: list[Lease] = []

    def take_up(store: ModelStore, status: str) -> Callable[[Event], None]:
        def report(event: Event) -> None:
            if str(event["status"]).startswith(status) and not needed:
                needed.append(store.lease(store.blobs.list()))  # another pull or push, in the middle of its work

        return report

    for number, moved in enumerate((weights, weights + np.float32(2e-5))):
        packed = {"w": ("BF16", moved.shape, (moved.view("<u4") >> 16).astype("<u2").tobytes())}
        add_model(here, "ann/demo", make_model_directory(tmp_path / str(number), packed))
        pushed = push_model(here, here.resolve(name), reference, report=silent)
        assert pull_model(there, reference, name, report=take_up(there, "rebuilding")).manifest
    assert pushed.deltas == 1
    (lease,) = needed
    assert all(there.blobs.has(digest) for digest in lease.digests)


def pull_and_kill(reference: Reference, root: Path, when: float) -> int:
    """Pull in a process of its own, kill it with SIGKILL once that part of the weights is there; return its bytes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(PULLER), str(root), str(reference), str(when)]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    line = process.stdout.readline()  # it waits now, in the middle of the layer
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stdin.close()
    return int(line)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_pull_that_was_killed_goes_on_and_fetches_nothing_twice(
    registry: RunningRegistry, here: ModelStore, tmp_path: Path, mapped: bool
) -> None:
    name = parse_model_name("ann/demo")
    add_model(here, "ann/demo", make_model_directory(tmp_path / "m", make_tensors(1, blocks=40, width=1024)))
    model = here.resolve(name)
    reference = parse_reference(f"{registry.host}/ann/demo")
    push_model(here, model, reference, report=silent)
    if not mapped:
        for layer in model.layers:
            if layer.chunk_map is not None:
                registry.remove_blob(layer.chunk_map.digest)
    began = pull_and_kill(reference, tmp_path / "there", 0.5)
    there = ModelStore(tmp_path / "there")
    assert there.refs.list() == []
    done = pull_model(there, reference, name, report=silent)
    weights = model.manifest.layer("model.safetensors")
    assert weights is not None
    print(f"\nkilled after {began} of {weights.size}: resumed {done.bytes_resumed}, moved {done.bytes_moved}")
    # What a kill may cost is what was on its way and not yet on the disk.
    assert done.bytes_resumed >= weights.size // 2 - (24 << 20) > 0
    assert done.bytes_moved <= weights.size - done.bytes_resumed + 200_000
    assert there.verify(name).digest == model.digest
    there.close()


def test_the_chunks_of_a_real_registry_come_in_few_requests(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, model: StoredModel
) -> None:
    reference = target(registry, model)
    push_model(here, model, reference, report=silent)
    registry.forget()
    pull_model(there, reference, parse_model_name("demo"), report=silent)
    weights = model.manifest.layer("model.safetensors")
    assert weights is not None
    chunk_map = there.chunk_map(weights)
    assert chunk_map is not None
    runs = plan_runs(chunk_map.edges, range(len(chunk_map)))
    assert len(registry.requests("GET", f"blobs/sha256:{weights.digest}")) == len(runs)


def test_a_signed_model_keeps_its_publisher(
    registry: RunningRegistry, here: ModelStore, there: ModelStore, model: StoredModel, tmp_path: Path
) -> None:
    key, bundle = sign(here, model, tmp_path)
    reference = target(registry, model)
    push_model(here, model, reference, report=silent)
    pulled = pull_model(there, reference, parse_model_name("demo"), report=silent)
    assert pulled.publisher == key.did
    assert there.provenance.load(model.digest) == bundle
    events: list[Event] = []
    stopped = pull_model(
        there, reference, parse_model_name("again"), report=events.append, distrusted=lambda did: did == key.did
    )
    assert stopped.publisher == ""
    assert any("does not count" in str(event["status"]) for event in events)


@dataclass(frozen=True)
class Record:
    """What a build says about itself, for a model that is not built here."""

    sources: tuple[Artifact, ...] = (Artifact("model.safetensors", digest_of(b"source")),)
    external_parameters: dict[str, Any] = field(default_factory=lambda: {"modelfile": "FROM ."})
    tool_versions: dict[str, str] = field(default_factory=lambda: {"tilenode": "0.1.0"})


def sign(store: ModelStore, model: StoredModel, tmp_path: Path) -> tuple[DeviceKey, bytes]:
    """Sign and log `model` as a device of its own."""
    key, secrets = key_from_number(1), secrets_from_number(1)
    log = Log.open(tmp_path / "log", key, LogGuard(MemorySecretStore(secrets), secrets))
    bundle = publish_model(
        blobs=store.blobs,
        refs=store.refs,
        log=log,
        key=key,
        name=model.name,
        manifest=model.digest,
        build=Record(),
        now_s=1_700_000_000,
        entropy=os.urandom,
    )
    return key, bundle
