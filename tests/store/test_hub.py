"""Models of a hub, taken by the real `huggingface_hub` library from a simulated one (tests/store/hub_server.py)."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.digest import Digest, digest_of
from protocol.manifest import CREATED
from protocol.model_name import parse_model_name
from protocol.modelfile import parse_modelfile
from store.bases import LocalBases
from store.build import BuildRequest, build_model
from store.errors import (
    DiskFull,
    FormatUnsupported,
    HubAnswerInvalid,
    HubFileCorrupt,
    HubUnreachable,
    RepositoryClosed,
    RepositoryNameInvalid,
    RepositoryUnknown,
    RevisionUnknown,
    SourceInvalid,
)
from store.fetched import Fetched, Moved, Wanted
from store.hub import Hub
from store.hub_cache import HubCache
from store.hub_settings import HubSettings
from store.models import ModelStore
from store.testing import make_model_directory, make_tensors
from tests.store.simulated_hub import DATE, REPO, SimulatedHub

TOKEN = "hf_canary_0123456789"
DATE_S = 1714979289


StartHub = Callable[..., SimulatedHub]


@pytest.fixture
def start_hub(tmp_path: Path) -> Iterator[StartHub]:
    running: list[SimulatedHub] = []

    def start(*directories: Path, **settings: Any) -> SimulatedHub:
        running.append(SimulatedHub(tmp_path / f"hub-{len(running)}", *directories, **settings))
        return running[-1]

    yield start
    for simulated in running:
        simulated.stop()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = make_model_directory(tmp_path / "upstream", make_tensors(blocks=4, width=256))
    (made / "README.md").write_text("# Tiny\n")
    (made / "evil.py").write_text("raise SystemExit\n")
    (made / "onnx").mkdir()
    (made / "onnx" / "config.json").write_text("{}")
    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    opened = ModelStore(tmp_path / "store")
    yield opened
    opened.close()


def hub_at(simulated: SimulatedHub, *caches: HubCache, **settings: Any) -> Hub:
    return Hub(HubSettings(endpoint=simulated.url, **settings), caches)


def fetch(store: ModelStore, hub: Hub, base: str = f"hf:{REPO}") -> tuple[Fetched, list[dict[str, object]]]:
    events: list[dict[str, object]] = []
    with store.lease() as lease:
        return hub.fetch_base(store, base, lease, events.append), events


def contents(fetched: Fetched) -> dict[str, bytes]:
    return {name: at.path.read_bytes() for name, at in fetched.files.items()}


def test_a_model_is_taken_as_it_is_at_its_commit(start_hub: StartHub, store: ModelStore, directory: Path) -> None:
    simulated = start_hub(directory)
    fetched, events = fetch(store, hub_at(simulated))
    expected = {name: (directory / name).read_bytes() for name in sorted(fetched.files)}
    assert set(expected) == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert contents(fetched) == expected
    assert {name: at.digest for name, at in fetched.files.items()} == {n: digest_of(c) for n, c in expected.items()}
    assert (len(fetched.origin.revision), fetched.origin.time_s) == (40, DATE_S)
    assert fetched.origin.name == f"hf:{REPO}"
    assert set(fetched.skipped) == {"evil.py", "onnx/config.json"}
    assert fetched.moved.downloaded_bytes == sum(map(len, expected.values()))
    asked = " ".join(row["path"] for row in simulated.requests())
    assert "evil.py" not in asked
    assert "onnx" not in asked
    assert any(event.get("completed") == event.get("total") for event in events if "total" in event)


def test_a_second_time_only_the_commit_is_asked_for(start_hub: StartHub, store: ModelStore, directory: Path) -> None:
    simulated = start_hub(directory)
    first, _ = fetch(store, hub_at(simulated))
    simulated.forget()
    second, _ = fetch(store, hub_at(simulated))
    assert contents(second) == contents(first)
    assert second.moved == Moved(stored_bytes=first.moved.downloaded_bytes)
    assert all(row["path"].startswith("/api/") for row in simulated.requests())


def test_a_whole_commit_that_is_stored_needs_no_hub(start_hub: StartHub, store: ModelStore, directory: Path) -> None:
    simulated = start_hub(directory)
    first, _ = fetch(store, hub_at(simulated))
    simulated.stop()
    second, _ = fetch(store, hub_at(simulated), f"{REPO}@{first.origin.revision}")
    assert second.files == first.files
    assert second.origin == first.origin


def test_a_file_that_another_model_brought_is_not_downloaded(
    start_hub: StartHub, store: ModelStore, directory: Path
) -> None:
    weights = directory / "model.safetensors"
    digest = store.blobs.publish_file(weights)
    simulated = start_hub(directory)
    fetched, _ = fetch(store, hub_at(simulated))
    assert fetched.files["model.safetensors"].digest == digest
    assert fetched.moved.stored_bytes == weights.stat().st_size
    assert simulated.requests("cdn") == []


def test_a_revision_is_pinned(start_hub: StartHub, store: ModelStore, directory: Path, tmp_path: Path) -> None:
    newer = make_model_directory(tmp_path / "newer", make_tensors(seed=7))
    simulated = start_hub(directory, newer)
    hub = hub_at(simulated)
    old, new = hub.resolve(REPO, "v1"), hub.resolve(REPO, None)
    assert old.commit != new.commit
    assert hub.resolve(REPO, "main") == new
    assert hub.resolve(REPO, old.commit) == old
    fetched, _ = fetch(store, hub, f"hf:{REPO}@{old.commit}")
    assert fetched.origin.revision == old.commit
    assert contents(fetched)["model.safetensors"] == (directory / "model.safetensors").read_bytes()


def test_only_the_weights_that_the_index_names_are_fetched(
    start_hub: StartHub, store: ModelStore, directory: Path
) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
    (directory / "model-old.safetensors").write_bytes(b"\0" * 1000)
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(make_tensors(blocks=4), "model-00001-of-00001.safetensors")})
    )
    simulated = start_hub(directory)
    fetched, _ = fetch(store, hub_at(simulated))
    assert "model-00001-of-00001.safetensors" in fetched.files
    assert "model-old.safetensors" not in fetched.files
    assert len(simulated.requests("cdn")) == 1


def test_what_is_asked_for_goes_to_the_hub_alone_and_says_nothing_more(
    start_hub: StartHub, store: ModelStore, directory: Path
) -> None:
    simulated = start_hub(directory, private=TOKEN)
    fetch(store, hub_at(simulated, token=TOKEN))
    assert {row["token"] for row in simulated.requests("hub")} == {f"Bearer {TOKEN}"}
    assert {row["token"] for row in simulated.requests("cdn")} == {None}
    agents = {row["agent"] for row in simulated.requests()}
    assert all("agent/" not in agent and "origin/" not in agent for agent in agents), agents
    assert all("harness" not in row["path"] for row in simulated.requests())


def test_the_token_is_in_no_description_of_a_hub() -> None:
    assert TOKEN not in repr(HubSettings(token=TOKEN))


# What a hub or its cache may be asked, and what a person reads when it says no.


@pytest.mark.parametrize(
    ("faults", "token", "error", "words"),
    [
        ({"gated": TOKEN}, None, RepositoryClosed, "does not let strangers read it"),
        ({"gated": TOKEN}, "hf_other", RepositoryClosed, "does not let this token read it"),
        ({"private": TOKEN}, None, RepositoryUnknown, "no such repository"),
        ({"status": 500}, None, HubUnreachable, "status 500"),
        ({"status": 429}, None, HubUnreachable, "too often"),
        ({"status": 302, "error_bytes": 10}, None, HubAnswerInvalid, "cannot be read"),
        ({"status": 418, "error_bytes": 9 << 20}, None, HubUnreachable, "status 418"),
        ({"wrong_bytes": True}, None, HubAnswerInvalid, "hash"),
    ],
)
def test_a_hub_that_says_no_is_explained(
    start_hub: StartHub, store: ModelStore, directory: Path, faults: dict[str, Any], token: str | None,
    error: type[Exception], words: str,
) -> None:  # fmt: skip
    simulated = start_hub(directory, **faults)
    with pytest.raises((error, HubFileCorrupt), match=words) as raised:
        fetch(store, hub_at(simulated, token=token))
    assert TOKEN not in str(raised.value)
    hint = str(raised.value.hint)  # type: ignore[attr-defined]  # every error of the store has one
    if error in (RepositoryClosed, RepositoryUnknown):
        assert "HF_TOKEN" in hint
    assert not any(store.layout.temporary.iterdir())


def test_what_is_not_there_is_named(start_hub: StartHub, directory: Path) -> None:
    simulated = start_hub(directory)
    hub = hub_at(simulated)
    with pytest.raises(RepositoryUnknown, match="Acme/Other"):
        hub.resolve("Acme/Other", None)
    with pytest.raises(RevisionUnknown, match="'v9'"):
        hub.resolve(REPO, "v9")
    simulated.stop()
    with pytest.raises(HubUnreachable, match="cannot be reached"):
        hub.resolve(REPO, None)


def test_offline_nothing_is_asked(start_hub: StartHub, directory: Path) -> None:
    simulated = start_hub(directory)
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE"):
        hub_at(simulated, offline=True).resolve(REPO, None)
    assert simulated.requests() == []


@pytest.mark.parametrize(("name", "reason"), [("model.Q4_K_M.gguf", "GGUF"), ("pytorch_model.bin", "pickled")])
def test_weights_that_are_not_read_are_refused_with_the_reason(
    start_hub: StartHub, store: ModelStore, directory: Path, name: str, reason: str
) -> None:
    (directory / "model.safetensors").rename(directory / name)
    simulated = start_hub(directory)
    with pytest.raises(FormatUnsupported, match=reason):
        fetch(store, hub_at(simulated))
    assert simulated.requests("cdn") == []


def test_a_pickled_copy_beside_safetensors_is_left_there(
    start_hub: StartHub, store: ModelStore, directory: Path
) -> None:
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x02" * 40_000)
    fetched, _ = fetch(store, hub_at(start_hub(directory)))
    assert "pytorch_model.bin" in fetched.skipped


def test_a_model_that_does_not_fit_is_refused_before_its_first_byte(
    start_hub: StartHub, store: ModelStore, directory: Path
) -> None:
    huge = {"rfilename": "model-2.safetensors", "size": 1 << 42, "lfs": {"sha256": "ab" * 32, "size": 1 << 42}}
    simulated = start_hub(directory, siblings=[huge])
    with pytest.raises(DiskFull):
        fetch(store, hub_at(simulated))
    assert not any("resolve" in row["path"] for row in simulated.requests())


def lfs(name: str, size: object = 10, sha256: object = "ab" * 32) -> dict[str, object]:
    return {"rfilename": name, "size": size, "lfs": {"sha256": sha256, "size": size, "pointerSize": 1}}


@pytest.mark.parametrize(
    "listing",
    [
        {"sha": "main"},
        {"sha": "../../etc"},
        {"sha": None},
        {"siblings": None},
        {"siblings": [{"rfilename": "x"}] * 20_001},
        {"siblings": [lfs("model.safetensors", -1)]},
        {"siblings": [lfs("model.safetensors", 1 << 60)]},
        {"siblings": [lfs("model.safetensors", "10")]},
        {"siblings": [lfs("model.safetensors", True)]},
        {"siblings": [lfs("model.safetensors", 10, "../../../etc/passwd")]},
        {"siblings": [lfs("model.safetensors", 10, None)]},
        {"siblings": [lfs("model\n.safetensors"), lfs("config.json")]},
        {"siblings": [lfs("model:1.safetensors"), lfs("config.json")]},
        {"siblings": [lfs("config.json", 5 << 20), lfs("model.safetensors")]},
        {"siblings": [lfs(f"model-{n}.safetensors") for n in range(1001)]},
        {"siblings": [{"rfilename": 7}]},
        {"siblings": ["x"]},
        {"siblings": [lfs("model.safetensors"), lfs("model.safetensors")]},
        {"siblings": [lfs("model-a.safetensors"), lfs("model-A.safetensors")]},
    ],
)
def test_a_listing_that_cannot_be_is_refused(
    start_hub: StartHub, store: ModelStore, directory: Path, listing: dict[str, object]
) -> None:
    simulated = start_hub(directory, listing=listing)
    with pytest.raises(HubAnswerInvalid):
        fetch(store, hub_at(simulated))
    assert list(store.blobs.list()) == []


@pytest.mark.parametrize("path", ["../model.safetensors", "/etc/model.safetensors", "a/../../model.safetensors"])
def test_a_path_out_of_the_repository_is_never_fetched(
    start_hub: StartHub, store: ModelStore, directory: Path, path: str
) -> None:
    fetched, _ = fetch(store, hub_at(start_hub(directory, siblings=[lfs(path)])))
    assert path in fetched.skipped


@pytest.mark.parametrize("faults", [{"wrong_bytes": True}, {"extra_bytes": 100}])
def test_bytes_that_are_not_the_listed_ones_are_not_stored(
    start_hub: StartHub, store: ModelStore, directory: Path, faults: dict[str, object]
) -> None:
    simulated = start_hub(directory, **faults)
    with pytest.raises((HubFileCorrupt, HubAnswerInvalid, HubUnreachable)):
        fetch(store, hub_at(simulated))
    assert list(store.blobs.list()) == []


@pytest.mark.parametrize("place", ["http://198.51.100.7/file", "ftp://127.0.0.1/file", "file:///etc/passwd", "//["])
def test_a_redirect_to_where_nothing_is_encrypted_is_not_followed(
    start_hub: StartHub, store: ModelStore, directory: Path, place: str
) -> None:
    simulated = start_hub(directory, redirect=place)
    with pytest.raises((HubUnreachable, HubAnswerInvalid)):
        fetch(store, hub_at(simulated))


@pytest.mark.parametrize(
    "text", ["hf:one", "hf:a/b/c", "hf:a/../b", "hf:a/b@", "hf:a/b@../x", "hf:/b", "hf:a/b c", "hf:"]
)
def test_a_name_that_is_no_repository_is_refused(store: ModelStore, text: str) -> None:
    hub = Hub(HubSettings(endpoint="http://127.0.0.1:1"))
    with pytest.raises(RepositoryNameInvalid):
        fetch(store, hub, text)
    assert hub.owns(text)
    assert not hub.may_have(text)


# Kills.

DOWNLOADER = """
import sys
from pathlib import Path
from store.hub import Hub
from store.hub_settings import HubSettings
from store.models import ModelStore
store = ModelStore(Path(sys.argv[1]))
with store.lease() as lease:
    Hub(HubSettings(endpoint=sys.argv[2])).fetch_base(store, sys.argv[3], lease, lambda event: None)
"""


def test_a_killed_download_goes_on_where_it_was(start_hub: StartHub, tmp_path: Path) -> None:
    directory = make_model_directory(tmp_path / "big", make_tensors(blocks=4, width=2048))
    size = (directory / "model.safetensors").stat().st_size
    assert size > 30 << 20
    simulated = start_hub(directory, stop_after=25 << 20)
    child = subprocess.Popen([sys.executable, "-c", DOWNLOADER, str(tmp_path / "store"), simulated.url, f"hf:{REPO}"])
    try:
        downloads = tmp_path / "store" / "cache" / "downloads"
        wait_for(lambda: any(path.stat().st_size >= 20 << 20 for path in downloads.glob("*.download")))
    finally:
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    simulated.stop()
    had = sum(path.stat().st_size for path in downloads.glob("*.download"))
    again = start_hub(directory, port=simulated.port)
    store = ModelStore(tmp_path / "store")
    fetched, _ = fetch(store, hub_at(again))
    assert contents(fetched)["model.safetensors"] == (directory / "model.safetensors").read_bytes()
    (row,) = again.requests("cdn", "GET")
    assert row["range"] == f"bytes={had}-"
    assert fetched.moved.downloaded_bytes < size - had + 100_000
    assert list(downloads.iterdir()) == []
    store.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_disk_that_gets_full_half_way_is_said_and_what_came_is_kept(start_hub: StartHub, tmp_path: Path) -> None:
    directory = make_model_directory(tmp_path / "big", make_tensors(blocks=4, width=2048))
    simulated = start_hub(directory)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (15 << 20, 15 << 20))"
    words = [sys.executable, "-c", limit + DOWNLOADER, str(tmp_path / "store"), simulated.url, REPO]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith("store.errors.disk.DiskFull: ")
    store = ModelStore(tmp_path / "store")
    (partial,) = store.layout.downloads.iterdir()
    assert partial.stat().st_size == 15 << 20
    fetched, _ = fetch(store, hub_at(simulated))
    assert fetched.moved.stored_bytes == 15 << 20
    assert contents(fetched)["model.safetensors"] == (directory / "model.safetensors").read_bytes()
    store.close()


@pytest.mark.parametrize("faults", [{}, {"no_range": True}])
def test_what_a_killed_download_left_is_hashed_again_and_thrown_away_when_damaged(
    start_hub: StartHub, store: ModelStore, directory: Path, faults: dict[str, object]
) -> None:
    content = (directory / "model.safetensors").read_bytes()
    left = store.layout.downloads / f"{digest_of(content)}.download"
    left.write_bytes(b"\0" * 1000)
    simulated = start_hub(directory, **faults)
    fetched, _ = fetch(store, hub_at(simulated))
    assert contents(fetched)["model.safetensors"] == content
    assert not left.exists()
    assert len(simulated.requests("cdn", "GET")) == (1 if faults else 2)


# Through a build.


def build(store: ModelStore, simulated: SimulatedHub, recipe: str = f"FROM {REPO}") -> str:
    request = BuildRequest(parse_modelfile(recipe), parse_model_name("built"), Path("/nowhere"), None)
    return build_model(store, request, bases=LocalBases({}, (hub_at(simulated),))).manifest


def test_a_model_of_a_hub_has_the_same_manifest_wherever_it_is_built(
    start_hub: StartHub, store: ModelStore, directory: Path, tmp_path: Path
) -> None:
    simulated = start_hub(directory)
    other = ModelStore(tmp_path / "other")
    assert build(store, simulated) == build(other, simulated) == build(store, simulated)
    assert store.manifest(digest := Digest(build(store, simulated))).annotations[CREATED] == DATE.replace(".000Z", "Z")
    assert {layer.filepath for layer in store.manifest(digest).layers} >= {"model.safetensors", "config.json"}
    other.close()


def test_what_came_whole_is_kept_when_a_later_file_does_not_come(
    start_hub: StartHub, store: ModelStore, directory: Path
) -> None:
    weights = directory / "model.safetensors"
    weights.rename(directory / "model-1.safetensors")
    second = lfs("model-2.safetensors", 10, "ab" * 32)
    simulated = start_hub(directory, siblings=[second])
    with pytest.raises(HubAnswerInvalid, match="does not have"):
        build(store, simulated)
    assert store.blobs.has(digest_of((directory / "model-1.safetensors").read_bytes()))
    assert store.leases.held() == frozenset()


def test_a_model_that_is_refused_after_it_came_need_not_come_again(
    start_hub: StartHub, store: ModelStore, directory: Path
) -> None:
    (directory / "config.json").write_text("{}")
    simulated = start_hub(directory)
    for _ in range(2):
        with pytest.raises(SourceInvalid, match="model_type"):
            build(store, simulated)
    assert len(simulated.requests("cdn", "GET")) == 1


class Left(BaseException):
    """Whoever waited has left."""


def test_whoever_leaves_stops_the_download_and_what_came_is_kept(
    start_hub: StartHub, store: ModelStore, tmp_path: Path
) -> None:
    directory = make_model_directory(tmp_path / "big", make_tensors(blocks=4, width=2048))
    hub = hub_at(start_hub(directory))
    seen: list[dict[str, object]] = []

    def report(event: dict[str, object]) -> None:
        seen.append(event)
        if event.get("completed"):
            raise Left

    with store.lease() as lease, pytest.raises(Left):
        hub.fetch_base(store, REPO, lease, report)
    (partial,) = store.layout.downloads.iterdir()
    assert partial.stat().st_size > 1 << 20
    with store.lease() as lease:
        fetched = hub.fetch_base(store, REPO, lease, seen.append)
    assert fetched.moved.stored_bytes >= 1 << 20


def test_for_a_tokenizer_no_weight_is_fetched(
    start_hub: StartHub, store: ModelStore, directory: Path, tmp_path: Path
) -> None:
    simulated = start_hub(directory)
    local = make_model_directory(tmp_path / "local", make_tensors(seed=3))
    request = BuildRequest(parse_modelfile("FROM ."), parse_model_name("built"), local, None, tokenizer=f"hf:{REPO}")
    built = build_model(store, request, bases=LocalBases({}, (hub_at(simulated),)))
    assert {"model.safetensors", "tokenizer.json"} <= {layer.filepath for layer in built.layers}
    assert simulated.requests("cdn") == []
    assert not any("config.json" in row["path"] for row in simulated.requests("resolve"))


def test_for_an_adapter_only_its_two_files_are_fetched(start_hub: StartHub, store: ModelStore, directory: Path) -> None:
    (directory / "adapters.safetensors").write_bytes(b"weights")
    (directory / "adapter_config.json").write_text("{}")
    simulated = start_hub(directory)
    with store.lease() as lease:
        fetched = hub_at(simulated).fetch_base(store, REPO, lease, lambda event: None, Wanted.ADAPTER)
    assert set(fetched.files) == {"adapters.safetensors", "adapter_config.json"}
    model, _ = fetch(store, hub_at(simulated))
    assert "adapters.safetensors" in model.skipped
