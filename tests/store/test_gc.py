"""Collecting: what nothing needs goes and nothing else does, whoever works beside it and whenever it dies."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from protocol.digest import Digest, digest_of
from protocol.manifest import CONFIG_MEDIA_TYPE, MANIFEST_MEDIA_TYPE
from protocol.model_name import parse_model_name
from store.disk import Temporary
from store.errors import CollectRefused, LeaseCorrupt, VersionPinned
from store.gc import GcReport, collect
from store.lock import scratch_directory
from store.models import ModelStore
from store.partial import PartialLayer
from store.testing import add_model, make_model_directory, make_tensors

DEMO, OTHER = parse_model_name("demo"), parse_model_name("other")
DAY_S = 86_400


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_model_directory(tmp_path / "model")


def collect_later(store: ModelStore, dry_run: bool = False, keep: int | None = None) -> GcReport:
    return collect(store, dry_run=dry_run, keep=keep, now_s=time.time() + DAY_S)


def three_versions(store: ModelStore, directory: Path) -> list[Digest]:
    return [add_model(store, "demo", directory, f"FROM .\nSYSTEM {number}").manifest for number in range(3)]


def test_every_version_of_a_name_stays_and_works(store: ModelStore, directory: Path) -> None:
    manifests = three_versions(store, directory)
    report = collect_later(store)
    assert (report.blobs, report.leftovers, report.freed_bytes) == ((), (), 0)
    for number, manifest in enumerate(manifests, 1):
        model = store.resolve_version(DEMO, str(number))
        assert (model.digest, model.modelfile.system) == (manifest, str(number - 1))
        assert (store.materialize(model.digest) / "model.safetensors").exists()


def test_what_no_name_leads_to_goes_and_is_told_before(store: ModelStore, directory: Path) -> None:
    manifests = three_versions(store, directory)
    store.materialize(manifests[0])
    store.refs.forget_version(DEMO, 1)
    told = collect_later(store, dry_run=True)
    assert told.dry_run
    assert told.blobs[0].digest == manifests[0], "the manifest goes first"
    assert sorted(blob.what for blob in told.blobs) == ["Modelfile", "build.json", "config", "manifest"]
    assert [left.what for left in told.leftovers] == ["copy of a model that is gone"] * 2
    assert store.blobs.has(manifests[0])
    done = collect_later(store)
    assert done.blobs == told.blobs
    assert not store.blobs.has(manifests[0])
    assert list(store.layout.materialized.iterdir()) == []
    assert store.verify(DEMO)
    assert collect_later(store).freed_bytes == 0


def test_blobs_that_are_not_old_enough_stay(store: ModelStore, directory: Path) -> None:
    store.blobs.publish_bytes(b"just written by a program without a lease")
    report = collect(store)
    assert (report.blobs, report.young, report.young_bytes) == ((), 1, 41)
    assert len(collect(store, min_age_s=0, now_s=time.time() + 1).blobs) == 1


def test_nothing_goes_while_a_ref_or_a_version_cannot_be_read(store: ModelStore, directory: Path) -> None:
    manifests = three_versions(store, directory)
    orphan = store.blobs.publish_bytes(b"x")
    store.blobs.delete(manifests[0])
    with pytest.raises(CollectRefused, match="version 1 of demo:latest"):
        collect_later(store)
    store.remove_version(DEMO, "1")
    path = store.layout.ref_path(OTHER)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(CollectRefused, match="library/other/latest"):
        collect_later(store)
    assert store.blobs.has(orphan)
    assert store.remove(OTHER).digest is None
    assert orphan in {blob.digest for blob in collect_later(store).blobs}


def test_nothing_goes_while_a_lease_cannot_be_read(store: ModelStore, tmp_path: Path) -> None:
    orphan = store.blobs.publish_bytes(b"x")
    with store.lease([orphan]):
        (path,) = store.layout.leases.iterdir()
        path.write_text("")
        with pytest.raises(LeaseCorrupt):
            collect_later(ModelStore(tmp_path / "store"))
    assert store.blobs.has(orphan)


def test_only_the_newest_versions_are_kept_when_asked(store: ModelStore, directory: Path) -> None:
    manifests = three_versions(store, directory)
    store.refs.set(parse_model_name("demo@1.0"), manifests[0])
    add_model(store, "demo", directory, "FROM .\nSYSTEM 4")
    store.refs.pin(DEMO, 2, True)
    told = collect_later(store, dry_run=True, keep=1)
    assert [(str(name), version.number) for name, version in told.versions] == [("demo:latest", 3)]
    assert len(store.refs.history(DEMO)) == 4
    done = collect_later(store, keep=1)
    assert (done.versions, done.blobs) == (told.versions, told.blobs)
    assert [version.number for version in store.refs.history(DEMO)] == [1, 2, 4]
    assert store.resolve(parse_model_name("demo@1.0")).digest == manifests[0]


def test_a_pinned_version_keeps_its_name(store: ModelStore, directory: Path) -> None:
    manifests = three_versions(store, directory)
    store.refs.pin(DEMO, 1, True)
    with pytest.raises(VersionPinned):
        store.remove(DEMO)
    with pytest.raises(VersionPinned):
        store.remove_version(DEMO, "1")
    assert store.verify(DEMO)
    report = store.remove(DEMO, force=True)
    assert (report.versions, report.digest) == (3, manifests[2])
    assert list(store.blobs.list()) == []


def test_removing_one_version_frees_only_what_it_alone_needed(store: ModelStore, directory: Path) -> None:
    manifests = three_versions(store, directory)
    report = store.remove_version(DEMO, manifests[0][:8])
    assert (report.digest, report.freed_blobs) == (manifests[0], 4)
    assert store.verify(DEMO)


def test_entries_of_other_programs_and_what_belongs_to_a_model_stay(store: ModelStore, directory: Path) -> None:
    built = add_model(store, "demo", directory)
    blob = store.blobs.publish_bytes(b"a delta")
    other = store.blobs.publish_bytes(b"of nobody")

    def referrer(subject: Digest, layer: Digest) -> Digest:
        config = {"mediaType": CONFIG_MEDIA_TYPE, "digest": f"sha256:{digest_of(b'{}')}", "size": 2}
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_MEDIA_TYPE,
            "config": config,
            "layers": [{"mediaType": "a/b", "digest": f"sha256:{layer}", "size": 7}],
            "subject": {"mediaType": MANIFEST_MEDIA_TYPE, "digest": f"sha256:{subject}", "size": 1},
        }
        return store.blobs.publish_bytes(json.dumps(document).encode())

    belonging = referrer(built.manifest, blob)
    stray = referrer(digest_of(b"no such model"), other)
    foreign = store.blobs.publish_bytes(b"copied in by another program")
    document = json.loads(store.layout.index.read_bytes())
    document["manifests"].append({"mediaType": "x/y", "digest": f"sha256:{foreign}", "size": 1})
    store.layout.index.write_text(json.dumps(document))
    gone = {each.digest for each in collect_later(store).blobs}
    assert gone == {stray, other}
    assert all(store.blobs.has(each) for each in (belonging, blob, foreign))


def test_a_folder_in_which_somebody_works_is_no_leftover_however_old(store: ModelStore, tmp_path: Path) -> None:
    with scratch_directory(store.layout.temporary, store.layout.sweeping) as scratch:
        (scratch / "half").touch()
        other = ModelStore(tmp_path / "store")
        assert collect(other, min_age_s=0, now_s=time.time() + DAY_S).leftovers == ()
        assert (scratch / "half").exists()
        other.close()
    assert not scratch.exists()


def test_nothing_goes_while_the_list_of_what_other_programs_put_here_cannot_be_read(
    store: ModelStore, directory: Path
) -> None:
    add_model(store, "demo", directory)
    foreign = store.blobs.publish_bytes(b"copied in by another program")
    whole = store.layout.index.read_text()
    store.layout.index.write_text(whole[: len(whole) // 2])  # as a program that does not replace it at once leaves it
    with pytest.raises(CollectRefused, match=r"index\.json"):
        collect_later(store)
    assert store.blobs.has(foreign)
    store.layout.index.unlink()  # one that is not there lists nothing
    assert [blob.digest for blob in collect_later(store).blobs] == [foreign]


def test_a_model_that_was_just_handed_out_stays(store: ModelStore, directory: Path) -> None:
    manifests = three_versions(store, directory)
    store.refs.forget_version(DEMO, 1)
    later = time.time() + DAY_S
    path = store.materialize(manifests[0])
    os.utime(store.layout.stamp_path(manifests[0]), (later, later))
    assert collect(store, now_s=later + 60).blobs == ()
    assert (path / "model.safetensors").exists()
    assert len(collect(store, now_s=later + 7200).blobs) == 4


def test_what_dead_processes_left_behind_goes_and_what_living_ones_use_stays(
    store: ModelStore, directory: Path, tmp_path: Path
) -> None:
    add_model(store, "demo", directory)
    layer = store.resolve(DEMO).manifest.layer("model.safetensors")
    assert layer is not None
    chunk_map = store.chunk_map(layer)
    assert chunk_map is not None
    second = ModelStore(tmp_path / "second")
    (second.layout.temporary / "1-1").write_bytes(b"left")
    (second.layout.temporary / "1-folder").mkdir()
    (second.layout.temporary / "1-folder" / "file").write_bytes(b"left")
    (second.layout.quarantine / ("0" * 64)).write_bytes(b"bad")
    (second.layout.leases / "1-dead").write_text('{"digests":[],"pid":1,"version":1}')
    with Temporary(second.layout.temporary), PartialLayer.open(second, layer.digest, layer.size, chunk_map) as partial:
        partial.write_chunk(0, store.blobs.read_chunks(chunk_map, 0, 1))
        partial.sync()
        assert collect(second).leftovers == (), "too young"
        report = collect_later(second)
        assert sorted(left.path.name for left in report.leftovers) == ["1-1", "1-folder"]
    assert list(second.layout.leases.iterdir()) == []
    names = [left.path.name for left in collect_later(second).leftovers]
    assert names == [f"{layer.digest}.bitmap", f"{layer.digest}.partial"]
    assert list(second.layout.downloads.iterdir()) == []
    assert collect_later(second).leftovers == ()
    report = collect(second, now_s=time.time() + DAY_S, quarantine_age_s=7200)
    assert [left.what for left in report.leftovers] == ["bytes in quarantine"]


# Builds, names and removes models again and again and says what stands; takes part in nothing else.
BUILDER = """
import sys
from pathlib import Path
from protocol.model_name import parse_model_name
from store.models import ModelStore
from store.testing import add_model
root, mark = Path(sys.argv[1]), sys.argv[2]
store = ModelStore(root / "store")
for number in range(12):
    name = f"{mark}{number}"
    built = add_model(store, name, root / "model", f"FROM .\\nSYSTEM {mark} {number % 3}")
    print("named", name, built.manifest, flush=True)
    if number % 3 == 0:
        store.remove(parse_model_name(name))
        print("removed", name, flush=True)
store.close()
"""
COLLECTOR = """
import sys, time
from pathlib import Path
from store.gc import collect
from store.models import ModelStore
store = ModelStore(Path(sys.argv[1]) / "store")
print("started", flush=True)
rounds = removed = 0
while sys.stdin.readable() and not (Path(sys.argv[1]) / "stop").exists():
    report = collect(store, min_age_s=-60)
    rounds, removed = rounds + 1, removed + len(report.blobs)
store.close()
print("rounds", rounds, removed, flush=True)
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def test_collecting_without_a_pause_beside_two_processes_that_build_and_remove_takes_nothing(
    tmp_path: Path, directory: Path
) -> None:
    store = ModelStore(tmp_path / "store")
    for number in range(20):
        store.blobs.publish_bytes(b"orphan %d" % number)
    collector = start(COLLECTOR, tmp_path)
    assert collector.stdout is not None
    assert collector.stdout.readline() == "started\n"
    builders = [start(BUILDER, tmp_path, mark) for mark in "ab"]
    said = [line.split() for builder in builders for line in builder.communicate(timeout=120)[0].splitlines()]
    (tmp_path / "stop").touch()
    rounds = collector.communicate(timeout=60)[0].split()
    assert [process.returncode for process in (*builders, collector)] == [0, 0, 0]
    removed = {words[1] for words in said if words[0] == "removed"}
    named = {words[1]: words[2] for words in said if words[0] == "named" and words[1] not in removed}
    assert (len(named), len(removed)) == (16, 8)
    for name, manifest in named.items():
        assert store.verify(parse_model_name(name)).digest == manifest
    assert int(rounds[1]) >= 2
    assert int(rounds[2]) >= 20, "the orphans went"
    assert store.problems() == []


# Pulls a model chunk by chunk from another store, as a pull does, and says so once its name is set; again and again.
PULLER = """
import sys
from pathlib import Path
from protocol.model_name import parse_model_name
from store.models import ModelStore
from store.partial import PartialLayer
root = Path(sys.argv[1])
source, store = ModelStore(root / "source"), ModelStore(root / "store")
for number in range(6):
    model = source.resolve(parse_model_name(f"m{number}"))
    blobs = list(model.manifest.blobs())
    with store.lease([model.digest, *(blob.digest for blob in blobs)]):
        mapped = {layer.digest: layer for layer in model.layers if layer.chunk_map}
        for blob in blobs:
            if blob.digest not in mapped and not store.blobs.has(blob.digest):
                store.blobs.publish_bytes(source.blobs.read(blob.digest, blob.size))
        for digest, layer in mapped.items():
            if store.blobs.has(digest):
                continue
            chunk_map = store.chunk_map(layer)
            with PartialLayer.open(store, digest, layer.size, chunk_map) as partial:
                for index in partial.missing():
                    partial.write_chunk(index, source.blobs.read_chunks(chunk_map, index, 1))
                    partial.sync()
                partial.finish()
        store.blobs.publish_bytes(source.blobs.read(model.digest, 4 << 20))
        store.refs.set(model.name, model.digest)
    print("pulled", model.name, flush=True)
    if number % 2:
        store.remove(model.name)
        print("removed", model.name, flush=True)
"""


def test_collecting_without_a_pause_beside_a_process_that_pulls_takes_nothing(tmp_path: Path) -> None:
    source, store = ModelStore(tmp_path / "source"), ModelStore(tmp_path / "store")
    for number in range(6):
        tensors = make_tensors(number)
        add_model(source, f"m{number}", make_model_directory(tmp_path / f"model{number}", tensors))
    collector = start(COLLECTOR, tmp_path)
    assert collector.stdout is not None
    assert collector.stdout.readline() == "started\n"
    puller = start(PULLER, tmp_path)
    said = [line.split() for line in puller.communicate(timeout=120)[0].splitlines()]
    (tmp_path / "stop").touch()
    collector.communicate(timeout=60)
    assert (puller.returncode, collector.returncode) == (0, 0)
    assert len(said) == 9
    names = [entry.name for entry in store.refs.list()]
    assert [str(name) for name in names] == ["m0:latest", "m2:latest", "m4:latest"]
    for name in names:
        assert store.verify(name)
    assert list(store.layout.downloads.iterdir()) == []


def test_a_lease_in_another_process_keeps_what_no_name_has(store: ModelStore, tmp_path: Path, directory: Path) -> None:
    script = """
import sys
from pathlib import Path
from protocol.model_name import parse_model_name
from protocol.modelfile import parse_modelfile
from store.build import BuildRequest, build_model
from store.models import ModelStore
root = Path(sys.argv[1])
store = ModelStore(root / "store")
built = build_model(store, BuildRequest(parse_modelfile("FROM ."), parse_model_name("demo"), root / "model"))
print(built.manifest, flush=True)
sys.stdin.readline()
store.refs.set(parse_model_name("demo"), built.manifest)
print("named", flush=True)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        manifest = Digest(builder.stdout.readline().strip())
        assert collect_later(store).blobs == ()
        out, _ = builder.communicate("go\n", timeout=60)
    assert out == "named\n"
    assert store.verify(DEMO).digest == manifest


def test_what_a_killed_build_has_stored_goes(store: ModelStore, tmp_path: Path, directory: Path) -> None:
    def work() -> None:
        # The lease's own file is the first to be renamed; then come blobs.
        die_at("replace", 5)
        add_model(ModelStore(tmp_path / "store"), "demo", directory)

    assert run_until_killed(work)
    assert len(list(store.blobs.list())) > 0
    report = collect_later(store)
    assert len(report.blobs) > 0
    assert list(store.blobs.list()) == []
    assert list(store.layout.leases.iterdir()) == []


def die_at(call: str, point: int) -> None:
    real = getattr(os, call)
    uses = itertools.count(1)

    def counted(*arguments: object, **options: object) -> object:
        if next(uses) == point:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(os, call, counted)


def run_until_killed(work: "object") -> bool:
    """Run `work` in a process of its own; return whether it was killed."""
    child = os.fork()
    if child == 0:
        assert callable(work)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("call", ["unlink", "replace", "fsync", "rmdir"])
@pytest.mark.parametrize("kind", ["remove", "collect"])
def test_a_kill_while_removing_or_collecting_costs_no_name_and_the_next_run_ends_it(
    tmp_path: Path, call: str, kind: str
) -> None:
    directory = make_model_directory(tmp_path / "model")
    for point in itertools.count(1):
        root = tmp_path / f"{point}"
        store = ModelStore(root)
        manifests = three_versions(store, directory)
        add_model(store, "other", directory, "FROM .\nSYSTEM other")
        store.materialize(manifests[2])
        store.close()

        def work(root: Path = root, point: int = point) -> None:
            fresh = ModelStore(root)
            die_at(call, point)
            if kind == "remove":
                fresh.remove(DEMO)
            else:
                collect(fresh, now_s=time.time() + DAY_S, keep=1)

        killed = run_until_killed(work)
        after = ModelStore(root)
        after.tidy()
        assert after.problems() == []
        assert after.verify(OTHER)
        if after.refs.get(DEMO) is not None:
            assert after.verify(DEMO).digest == manifests[2]
            for version in after.refs.history(DEMO):
                assert after.materialize(version.digest)
            collect_later(after, keep=1)
            assert after.verify(DEMO)
            after.remove(DEMO)
        collect_later(after)
        after.remove(OTHER)
        assert list(after.blobs.list()) == []
        after.close()
        if not killed:
            assert point > 1 or call == "rmdir"
            return
