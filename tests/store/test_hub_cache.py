"""Files out of a Hugging Face cache that the real library has made, and out of a Xet storage with its real client."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.digest import digest_of
from store.fetched import Fetched, Moved
from store.hub import Hub
from store.hub_cache import HubCache
from store.hub_settings import HubSettings
from store.models import ModelStore
from store.testing import make_model_directory, make_tensors
from tests.store.simulated_hub import REPO, SimulatedHub

# The Xet library opens a log in the user's cache when it is imported, unless it is told another place.
os.environ.setdefault("HF_XET_LOG_DEST", os.devnull)

SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download(sys.argv[1], revision=sys.argv[3], cache_dir=sys.argv[2]))
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = make_model_directory(tmp_path / "upstream", make_tensors(blocks=4, width=512))
    (made / "LICENSE").write_text("do what you like\n")
    return made


@pytest.fixture
def simulated(tmp_path: Path, directory: Path) -> Iterator[SimulatedHub]:
    running = SimulatedHub(tmp_path / "hub", directory)
    yield running
    running.stop()


@pytest.fixture
def cache(tmp_path: Path, simulated: SimulatedHub) -> Path:
    """A cache that `snapshot_download` of the real library has filled."""
    place = tmp_path / "hf" / "hub"
    environment = {
        "PATH": os.environ["PATH"],
        "HF_ENDPOINT": simulated.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    subprocess.run(
        [sys.executable, "-c", SNAPSHOT, REPO, str(place), "main"], env=environment, check=True, capture_output=True
    )
    simulated.log.write_text("")
    return place


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    opened = ModelStore(tmp_path / "store")
    yield opened
    opened.close()


def fetch(store: ModelStore, hub: Hub, base: str = REPO) -> tuple[Fetched, list[dict[str, object]]]:
    events: list[dict[str, object]] = []
    with store.lease() as lease:
        return hub.fetch_base(store, base, lease, events.append), events


def hub_at(simulated: SimulatedHub, cache: Path, **settings: Any) -> Hub:
    return Hub(HubSettings(endpoint=simulated.url, **settings), [HubCache(cache)])


def contents(fetched: Fetched) -> dict[str, bytes]:
    return {name: at.path.read_bytes() for name, at in fetched.files.items()}


def expected(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def blob_of(cache: Path, name: str) -> Path:
    return next(cache.glob(f"models--*/snapshots/*/{name}")).resolve()


def test_the_cache_of_the_library_is_used_and_nothing_downloaded(
    simulated: SimulatedHub, cache: Path, store: ModelStore, directory: Path
) -> None:
    fetched, events = fetch(store, hub_at(simulated, cache))
    assert contents(fetched) == expected(directory)
    assert simulated.requests("resolve") == []
    weights = (directory / "model.safetensors").stat().st_size
    assert fetched.moved.downloaded_bytes == 0
    assert fetched.moved.linked_bytes == weights
    assert fetched.moved.copied_bytes < 2000  # the small files, whose names in the cache say no SHA-256
    assert events[-1]["status"] == "fetched"
    mine, theirs = fetched.files["model.safetensors"].path, blob_of(cache, "model.safetensors")
    shared = mine.stat().st_ino == theirs.stat().st_ino
    assert shared or os.statvfs(mine).f_fsid == os.statvfs(theirs).f_fsid  # a reflink has an inode of its own
    assert mine.stat().st_mode & 0o777 == 0o444


def test_the_library_still_reads_its_cache(
    simulated: SimulatedHub, cache: Path, store: ModelStore, directory: Path, tmp_path: Path
) -> None:
    fetch(store, hub_at(simulated, cache))
    simulated.stop()
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SNAPSHOT, REPO, str(cache), "main"], env=environment, check=True, capture_output=True
    )
    found = Path(done.stdout.decode().strip())
    assert {path.name: path.read_bytes() for path in found.iterdir()} == expected(directory)


def test_what_is_removed_from_the_cache_stays_in_the_store(
    simulated: SimulatedHub, cache: Path, store: ModelStore, directory: Path
) -> None:
    fetched, _ = fetch(store, hub_at(simulated, cache))
    shutil.rmtree(cache)
    assert contents(fetched) == expected(directory)


def test_without_a_network_the_cache_is_enough(
    simulated: SimulatedHub, cache: Path, store: ModelStore, directory: Path
) -> None:
    simulated.stop()
    fetched, _ = fetch(store, hub_at(simulated, cache, offline=True), f"hf:{REPO}")
    assert contents(fetched) == expected(directory)
    assert len(fetched.origin.revision) == 40
    pinned, _ = fetch(store, hub_at(simulated, cache), f"{REPO}@{fetched.origin.revision}")
    assert pinned.files == fetched.files


def test_a_build_without_a_network_leaves_the_commits_time_to_be_asked_for(
    simulated: SimulatedHub, cache: Path, store: ModelStore
) -> None:
    offline, _ = fetch(store, hub_at(simulated, cache, offline=True))
    online, _ = fetch(store, hub_at(simulated, cache))
    assert (offline.origin.time_s, online.origin.time_s) == (None, 1714979289)
    assert offline.origin.revision == online.origin.revision
    again, _ = fetch(store, hub_at(simulated, cache, offline=True), f"{REPO}@{online.origin.revision}")
    assert again.origin == online.origin


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_cache_that_somebody_wrote_into_is_not_believed(
    simulated: SimulatedHub, cache: Path, store: ModelStore, directory: Path, name: str
) -> None:
    path = blob_of(cache, name)
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    fetched, _ = fetch(store, hub_at(simulated, cache))
    assert contents(fetched) == expected(directory)
    assert len(simulated.requests(f"resolve/{fetched.origin.revision}/{name}")) >= 1
    assert path.stat().st_mode & 0o777 == 0o644
    assert not any(store.layout.temporary.iterdir())


def test_a_cached_file_that_others_may_write_is_no_hard_link(
    simulated: SimulatedHub, cache: Path, store: ModelStore, directory: Path
) -> None:
    path = blob_of(cache, "model.safetensors")
    path.chmod(0o666)
    fetched, _ = fetch(store, hub_at(simulated, cache))
    assert fetched.files["model.safetensors"].path.stat().st_ino != path.stat().st_ino
    assert contents(fetched) == expected(directory)
    assert path.stat().st_mode & 0o777 == 0o666


def test_a_link_out_of_the_cache_is_not_followed(
    simulated: SimulatedHub, cache: Path, store: ModelStore, directory: Path, tmp_path: Path
) -> None:
    path = blob_of(cache, "model.safetensors")
    outside = tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    fetched, _ = fetch(store, hub_at(simulated, cache))
    assert fetched.moved.linked_bytes == 0
    assert len(simulated.requests("cdn")) == 1


def test_a_blob_that_is_written_through_the_other_name_is_found_by_verify(
    simulated: SimulatedHub, cache: Path, store: ModelStore
) -> None:
    fetched, _ = fetch(store, hub_at(simulated, cache))
    at = fetched.files["model.safetensors"]
    path = blob_of(cache, "model.safetensors")
    if path.stat().st_ino != at.path.stat().st_ino:
        pytest.skip("this file system made a reflink: nothing is shared")
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    assert at.digest is not None
    with pytest.raises(Exception, match="layer"):
        store.blobs.verify(at.digest)
    assert not store.blobs.has(at.digest)


# Xet: the real client, and a real local storage that it wrote itself ("local://"). No Xet server was spoken to.


@pytest.fixture
def storage(tmp_path: Path, directory: Path) -> tuple[str, str]:
    """The address of a Xet storage with the model's weights in it, and their Xet hash."""
    import hf_xet  # type: ignore[import-untyped]  # it has no stubs

    place = tmp_path / "cas"
    place.mkdir()
    session = hf_xet.XetSession(hf_xet.XetConfig().with_config("telemetry.enabled", False))
    with session.new_upload_commit(endpoint=f"local://{place}") as commit:
        upload = commit.start_upload_file(str(directory / "model.safetensors"))
    return f"local://{place}", upload.result().xet_info.hash


@pytest.mark.parametrize("resumed_bytes", [0, 1, 1_000_000])
def test_weights_come_from_a_xet_storage(
    tmp_path: Path, directory: Path, store: ModelStore, storage: tuple[str, str], resumed_bytes: int
) -> None:
    content = (directory / "model.safetensors").read_bytes()
    assert len(content) > 1 << 20
    (store.layout.downloads / f"{digest_of(content)}.download").write_bytes(content[:resumed_bytes])
    simulated = SimulatedHub(
        tmp_path / "xet-hub", directory, cas=storage[0], xet={"model.safetensors": {"hash": storage[1]}}
    )
    settings = HubSettings(endpoint=simulated.url, xet_schemes=frozenset({"local"}))
    fetched, events = fetch(store, Hub(settings))
    simulated.stop()
    assert contents(fetched)["model.safetensors"] == content
    assert simulated.requests("cdn") == []
    assert len(simulated.requests("xet-read-token")) >= 1
    assert fetched.moved.downloaded_bytes + fetched.moved.stored_bytes == sum(map(len, contents(fetched).values()))
    assert fetched.moved.stored_bytes == resumed_bytes
    assert not any("no Xet" in str(event.get("status")) for event in events)


@pytest.mark.parametrize("schemes", [{"local"}, {"https"}])
def test_without_its_xet_storage_a_file_comes_over_plain_http(
    tmp_path: Path, directory: Path, store: ModelStore, schemes: set[str]
) -> None:
    xet = {"model.safetensors": {"hash": "ab" * 32}}
    simulated = SimulatedHub(tmp_path / "xet-hub", directory, cas=f"local://{tmp_path}/nothing", xet=xet)
    fetched, events = fetch(store, Hub(HubSettings(endpoint=simulated.url, xet_schemes=frozenset(schemes))))
    simulated.stop()
    assert contents(fetched) == expected(directory)
    assert any("no Xet storage" in str(event.get("status")) for event in events)
    assert fetched.moved == Moved(downloaded_bytes=sum(map(len, expected(directory).values())))


def test_the_token_is_not_sent_to_a_xet_address_elsewhere(tmp_path: Path, directory: Path, store: ModelStore) -> None:
    elsewhere = SimulatedHub(tmp_path / "elsewhere", directory)
    xet = {"model.safetensors": {"hash": "ab" * 32, "refresh": f"{elsewhere.url}/steal"}}
    simulated = SimulatedHub(tmp_path / "xet-hub", directory, private="hf_secret", cas="https://localhost", xet=xet)
    settings = HubSettings(endpoint=simulated.url, token="hf_secret")
    fetched, _ = fetch(store, Hub(settings))
    assert contents(fetched) == expected(directory)
    assert elsewhere.requests() == []
    simulated.stop()
    elsewhere.stop()
