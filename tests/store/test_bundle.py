"""Bundles on disk: what one device exports another one takes in whole, and nothing that was changed on the way."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from identity.secrets import LogGuard
from identity.testing import MemorySecretStore, key_from_number, secrets_from_number
from protocol.bundle import CarriedLog, How, decode_index, encode_index, sign_index
from protocol.canonical_json import encode_json
from protocol.digest import Digest
from protocol.errors import BundleInvalid, ProvenanceInvalid
from protocol.model_name import parse_model_name
from protocol.modelfile import parse_modelfile
from store.build import BuildRequest, build_model
from store.bundle import ExportReport, export_bundle
from store.bundle_import import Bundle
from store.bundle_take import take_bundle
from store.carried_logs import CarriedLogs, carried_proof
from store.errors import BundleBaseMissing, BundleDamaged, BundleMissing, BundleTargetUsed, DiskFull, LayerCorrupt
from store.log import Log
from store.models import ModelStore
from store.provenance import publish_model
from store.refs import RefEvent
from store.testing import Tensors, add_model, make_model_directory, make_tensors

NAME = parse_model_name("demo")
KEY = key_from_number(1)
NOW_S = 1_700_000_000


class Exporter:
    """A device that publishes models and exports them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        secrets = secrets_from_number(1)
        self.store = ModelStore(root / "store")
        self.log = Log.open(root / "log", KEY, LogGuard(MemorySecretStore(secrets), secrets))
        self.count = 0

    def publish(self, tensors: Tensors, name: str = "demo") -> Digest:
        self.count += 1
        directory = make_model_directory(self.root / f"source-{self.count}", tensors)
        parsed = parse_model_name(name)
        built = build_model(self.store, BuildRequest(parse_modelfile("FROM ."), parsed, directory))
        publish_model(
            blobs=self.store.blobs,
            refs=self.store.refs,
            log=self.log,
            key=KEY,
            name=parsed,
            manifest=built.manifest,
            build=built.record,
            now_s=NOW_S,
            entropy=os.urandom,
        )
        return built.manifest

    def export(self, directory: Path, *names: str, bases: tuple[Digest, ...] = ()) -> ExportReport:
        wanted = [parse_model_name(name) for name in names or ("demo",)]
        return export_bundle(
            self.store, self.log, KEY, wanted, directory, bases=bases, now_s=NOW_S, report=lambda _: None
        )


def tensors(seed: int = 0) -> Tensors:
    return make_tensors(seed, blocks=12, width=256)


def changed(old: Tensors, blocks: int) -> Tensors:
    """Return the tensors with the first blocks' weights replaced."""
    new = make_tensors(99, blocks=12, width=256)
    names = {f"model.layers.{block}.weight" for block in range(blocks)}
    return {name: new[name] if name in names else value for name, value in old.items()}


def tuned(old: Tensors) -> Tensors:
    """Return the tensors with every weight moved a little, as a fine-tune does."""
    random = np.random.default_rng(5)
    found = {}
    for name, (kind, shape, data) in old.items():
        values = np.frombuffer(data, "<f2").astype("<f4")
        found[name] = (kind, shape, (values * (1 + 2e-4 * random.standard_normal(values.size))).astype("<f2").tobytes())
    return found


@pytest.fixture
def ann(tmp_path: Path) -> Iterator[Exporter]:
    exporter = Exporter(tmp_path / "ann")
    yield exporter
    exporter.store.close()


@pytest.fixture
def ben(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "ben")
    yield store
    store.close()


def take(store: ModelStore, directory: Path) -> int:
    with Bundle(directory) as bundle:
        return take_bundle(store, bundle, f"bundle of {bundle.index.exporter}", NOW_S, lambda _: None)


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_a_model_arrives_with_its_proofs_under_the_name_that_was_signed(
    ann: Exporter, ben: ModelStore, tmp_path: Path
) -> None:
    digest = ann.publish(tensors())
    report = ann.export(tmp_path / "stick")
    assert report.carried_bytes == report.copied_bytes > 0
    copied = take(ben, tmp_path / "stick")
    assert copied > 0
    assert ben.refs.get(NAME) == digest
    assert ben.verify(NAME).size_bytes > 0
    assert ben.provenance.load(digest, publisher=KEY.did) is not None
    (version,) = ben.refs.history(NAME)
    assert (version.event, version.source) == (RefEvent.IMPORT, f"bundle of {KEY.did}"[:120])
    assert take(ben, tmp_path / "stick") == 0


def test_it_is_an_oci_layout_that_skopeo_reads(ann: Exporter, tmp_path: Path) -> None:
    digest = ann.publish(tensors())
    ann.export(tmp_path / "stick")
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo: apt install skopeo")
    source = f"oci:{tmp_path / 'stick'}:demo/latest"
    subprocess.run(["skopeo", "copy", "-q", source, f"oci:{tmp_path / 'copy'}:x"], check=True)
    assert (tmp_path / "copy" / "blobs" / "sha256" / digest).exists()


def test_what_a_killed_export_left_is_not_copied_again(ann: Exporter, tmp_path: Path) -> None:
    ann.publish(tensors())
    first = ann.export(tmp_path / "stick")
    (tmp_path / "stick" / "bundle.dsse").unlink()
    (tmp_path / "stick" / "unfinished").touch()
    largest = max(files_of(tmp_path / "stick" / "blobs"), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[:-1] + b"x")  # as a power cut without a flush leaves it
    with pytest.raises(BundleMissing, match="not finished"):
        Bundle(tmp_path / "stick")
    again = ann.export(tmp_path / "stick")
    assert again.copied_bytes == len(content) < first.copied_bytes
    assert largest.read_bytes() == content
    Bundle(tmp_path / "stick").__exit__(None, None, None)


def test_directories_that_hold_something_else_are_left_alone(ann: Exporter, tmp_path: Path) -> None:
    ann.publish(tensors())
    ann.export(tmp_path / "stick")
    before = {path: path.read_bytes() for path in files_of(tmp_path / "stick")}
    with pytest.raises(BundleTargetUsed, match="finished bundle"):
        ann.export(tmp_path / "stick")
    assert {path: path.read_bytes() for path in files_of(tmp_path / "stick")} == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(BundleTargetUsed, match=r"cat\.jpg"):
        ann.export(tmp_path / "photos")
    with pytest.raises(BundleTargetUsed, match="is its disk mounted"):
        ann.export(tmp_path / "no" / "such")


@pytest.mark.parametrize("place", ["bundle.json.part", "unfinished", "blobs", "logs"])
def test_links_on_a_stick_lead_no_export_elsewhere(ann: Exporter, tmp_path: Path, place: str) -> None:
    ann.publish(tensors())
    stick, outside = tmp_path / "stick", tmp_path / "outside"
    stick.mkdir()
    (stick / "unfinished").touch()
    (stick / place).unlink(missing_ok=True)
    (stick / place).symlink_to(outside)
    outside.mkdir() if place in ("blobs", "logs") else outside.write_text("mine")
    with pytest.raises(BundleTargetUsed, match="link"):
        ann.export(stick)
    assert list(outside.iterdir()) == [] if outside.is_dir() else outside.read_text() == "mine"


def test_a_blob_that_changed_here_is_not_exported(ann: Exporter, tmp_path: Path) -> None:
    ann.publish(tensors())
    layer = max(ann.store.resolve(NAME).layers, key=lambda layer: layer.size)
    path = ann.store.layout.blob_path(layer.digest)
    path.chmod(0o600)
    path.write_bytes(bytes(layer.size))
    with pytest.raises(LayerCorrupt):
        ann.export(tmp_path / "stick")
    with pytest.raises(BundleMissing):
        Bundle(tmp_path / "stick")


def test_every_byte_that_changes_is_found_and_no_name_moves(ann: Exporter, ben: ModelStore, tmp_path: Path) -> None:
    ann.publish(tensors())
    ann.export(tmp_path / "stick")
    for number, path in enumerate(files_of(tmp_path / "stick")):
        fresh = ModelStore(tmp_path / f"fresh-{number}")  # what is here already is not read from the stick
        content = path.read_bytes()
        position = len(content) // 2
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises((BundleDamaged, BundleInvalid, ProvenanceInvalid)):
            take(fresh, tmp_path / "stick")
        path.write_bytes(content[:-1])
        with pytest.raises((BundleDamaged, BundleInvalid, ProvenanceInvalid)):
            take(fresh, tmp_path / "stick")
        path.unlink()
        with pytest.raises((BundleDamaged, BundleMissing)):
            take(fresh, tmp_path / "stick")
        path.write_bytes(content)
        assert fresh.refs.list() == []
        fresh.close()
    assert take(ben, tmp_path / "stick") >= 0
    ben.verify(NAME)


def resign(directory: Path, change: Callable[[dict[str, object]], None], number: int = 1) -> None:
    """Change the index as the exporting device itself could, and sign it again."""
    document = json.loads((directory / "bundle.json").read_text())
    change(document)
    index = encode_json(document)
    (directory / "bundle.json").write_bytes(index)
    (directory / "bundle.dsse").write_bytes(sign_index(key_from_number(number), index))


def test_a_hostile_exporter_gives_no_model_another_name(ann: Exporter, ben: ModelStore, tmp_path: Path) -> None:
    digest = ann.publish(tensors())
    ann.export(tmp_path / "stick")

    def rename(document: dict[str, object]) -> None:
        document["exporter"] = key_from_number(2).did
        document["models"][0]["name"] = "safe:v2"  # type: ignore[index]  # a document of known form

    resign(tmp_path / "stick", rename, 2)
    with Bundle(tmp_path / "stick") as bundle:
        assert bundle.signers == (KEY.did,)
        assert [model.name for model in bundle.models] == [NAME]
        take_bundle(ben, bundle, "", NOW_S, lambda _: None)
    assert ben.refs.get(NAME) == digest
    assert [entry.name for entry in ben.refs.list()] == [NAME]


def test_without_a_publisher_the_exporter_answers_for_it(ann: Exporter, ben: ModelStore, tmp_path: Path) -> None:
    add_model(ann.store, "found", make_model_directory(tmp_path / "found"))
    ann.export(tmp_path / "stick", "found")
    with Bundle(tmp_path / "stick") as bundle:
        assert bundle.signers == (KEY.did,)
        assert bundle.models[0].provenance is None
        assert bundle.logs == {}
    take(ben, tmp_path / "stick")
    assert ben.refs.get(parse_model_name("found"))


@pytest.mark.parametrize("place", ["blobs", "blobs/sha256", "provenance", "bundle.json"])
def test_links_are_not_followed(ann: Exporter, ben: ModelStore, tmp_path: Path, place: str) -> None:
    ann.publish(tensors())
    ann.export(tmp_path / "stick")
    (tmp_path / "stick" / place).rename(tmp_path / "aside")
    (tmp_path / "stick" / place).symlink_to(tmp_path / "aside")
    with pytest.raises((BundleDamaged, BundleMissing)):
        take(ben, tmp_path / "stick")


def test_a_pipe_in_the_place_of_a_blob_keeps_nobody_waiting(ann: Exporter, ben: ModelStore, tmp_path: Path) -> None:
    ann.publish(tensors())
    ann.export(tmp_path / "stick")
    blob = max(files_of(tmp_path / "stick" / "blobs"), key=lambda path: path.stat().st_size)
    blob.unlink()
    os.mkfifo(blob)
    with pytest.raises(BundleDamaged, match="no regular file"):
        take(ben, tmp_path / "stick")


def test_a_size_that_lies_is_refused(ann: Exporter, ben: ModelStore, tmp_path: Path) -> None:
    ann.publish(tensors())
    ann.export(tmp_path / "stick")

    def enlarge(document: dict[str, object]) -> None:
        document["index"]["size"] = 1 << 40  # type: ignore[index]  # a document of known form

    resign(tmp_path / "stick", enlarge)
    with pytest.raises(BundleInvalid, match="at most"):
        take(ben, tmp_path / "stick")


def test_only_the_changed_blobs_travel_since_a_version(ann: Exporter, ben: ModelStore, tmp_path: Path) -> None:
    first = ann.publish(tensors())
    ann.export(tmp_path / "one")
    take(ben, tmp_path / "one")
    ann.publish(changed(tensors(), 2))
    report = ann.export(tmp_path / "two", bases=(first,))
    index = decode_index((tmp_path / "two" / "bundle.json").read_bytes())
    assert [part.how for part in index.parts] == [How.PATCH]
    whole = ann.store.resolve(NAME).size_bytes
    assert report.carried_bytes < whole // 3
    assert report.left_out_bytes > whole // 2
    assert not [blob for blob in ann.store.blobs.list() if blob == index.parts[0].file]  # made for the bundle alone
    take(ben, tmp_path / "two")
    ben.verify(NAME)
    assert [version.number for version in ben.refs.history(NAME)] == [1, 2]
    assert not ben.blobs.has(index.parts[0].file)


def test_a_fine_tune_travels_as_a_delta(ann: Exporter, ben: ModelStore, tmp_path: Path) -> None:
    first = ann.publish(tensors())
    ann.export(tmp_path / "one")
    take(ben, tmp_path / "one")
    ann.publish(tuned(tensors()))
    report = ann.export(tmp_path / "two", bases=(first,))
    index = decode_index((tmp_path / "two" / "bundle.json").read_bytes())
    assert [part.how for part in index.parts] == [How.DELTA]
    assert report.carried_bytes < ann.store.resolve(NAME).size_bytes * 0.6
    take(ben, tmp_path / "two")
    ben.verify(NAME)


def test_a_name_that_would_go_back_to_an_older_model_is_told(ann: Exporter, ben: ModelStore, tmp_path: Path) -> None:
    ann.publish(tensors())
    ann.export(tmp_path / "one")
    ann.publish(changed(tensors(), 2))
    ann.export(tmp_path / "two")
    take(ben, tmp_path / "two")
    with Bundle(tmp_path / "one") as bundle:
        assert bundle.older(ben) == {NAME: (3, 1)}
    with Bundle(tmp_path / "two") as bundle:
        assert bundle.older(ben) == {}


def test_a_name_that_somebody_else_has_signed_here_is_told(ann: Exporter, ben: ModelStore, tmp_path: Path) -> None:
    ann.publish(tensors())
    ann.export(tmp_path / "one")
    take(ben, tmp_path / "one")
    other = Exporter(tmp_path / "other")
    add_model(other.store, "demo", make_model_directory(tmp_path / "mine", tensors(7)))  # signed by nobody
    other.export(tmp_path / "two")
    with Bundle(tmp_path / "two") as bundle:
        assert (bundle.older(ben), bundle.taken(ben)) == ({}, {NAME: KEY.did})
    with Bundle(tmp_path / "one") as bundle:
        assert bundle.taken(ben) == {}
    ann.publish(changed(tensors(), 2))
    ann.export(tmp_path / "three")
    with Bundle(tmp_path / "three") as bundle:
        assert bundle.taken(ben) == {}  # by the same publisher


def test_without_the_base_it_says_which_one_is_missing(ann: Exporter, ben: ModelStore, tmp_path: Path) -> None:
    first = ann.publish(tensors())
    ann.publish(changed(tensors(), 2))
    ann.export(tmp_path / "two", bases=(first,))
    with pytest.raises(BundleBaseMissing, match=first[:12]):
        take(ben, tmp_path / "two")
    assert ben.refs.list() == []


def test_a_stick_that_is_too_small_is_refused_before_anything_is_copied(ann: Exporter, tmp_path: Path) -> None:
    ann.publish(tensors())
    (tmp_path / "stick").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path / "stick")]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount: run as root, `sudo make test`")
    try:
        with pytest.raises(DiskFull):
            ann.export(tmp_path / "stick" / "models")
        assert not list((tmp_path / "stick" / "models" / "blobs" / "sha256").iterdir())
    finally:
        subprocess.run(["umount", "-l", tmp_path / "stick"], check=True)


def test_the_carried_log_proves_what_was_seen_before_and_shows_a_fork(ann: Exporter, tmp_path: Path) -> None:
    ann.publish(tensors())
    ann.publish(changed(tensors(), 1))
    ann.export(tmp_path / "stick")
    with Bundle(tmp_path / "stick") as bundle:
        log = bundle.logs[KEY.did]
    for old in range(1, 5):
        proof = carried_proof([log], old, 4)
        assert proof is not None
        assert proof.old_root == ann.log.root_at(old)
        assert list(proof.hashes) == ann.log.consistency_proof(old, 4)
    assert carried_proof([log], 4, 5) is None
    assert carried_proof([None], 1, 2) is None
    kept = CarriedLogs(tmp_path / "evidence")
    (tmp_path / "evidence" / "tmp").mkdir(parents=True)
    assert kept.find(KEY.did) is None
    kept.keep(log)
    assert kept.find(KEY.did) == log
    kept.keep(CarriedLog(KEY.did, b"", ()))  # shorter: the longer one proves more
    assert kept.find(KEY.did) == log
    next((tmp_path / "evidence" / "carried").iterdir()).write_bytes(b"damaged")
    assert kept.find(KEY.did) is None


TAKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from store.bundle_import import Bundle
from store.bundle_take import take_bundle
from store.models import ModelStore
store = ModelStore(Path(sys.argv[2]))
with Bundle(Path(sys.argv[1])) as bundle:
    take_bundle(store, bundle, "", 1, lambda _: None)
"""


def test_a_stick_pulled_out_right_after_the_export_holds_all_of_it(
    ann: Exporter, ben: ModelStore, tmp_path: Path
) -> None:
    digest = ann.publish(tensors())
    image, place = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    place.mkdir()
    if subprocess.run(["mount", "-o", "loop", image, place], capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount: run as root, `sudo make test`")
    try:
        ann.export(place / "models")
        subprocess.run(["cp", "--sparse=always", image, tmp_path / "copy"], check=True)  # what was flushed by now
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    (tmp_path / "after").mkdir()
    subprocess.run(["mount", "-o", "loop", tmp_path / "copy", tmp_path / "after"], check=True)
    try:
        take(ben, tmp_path / "after" / "models")
    finally:
        subprocess.run(["umount", "-l", tmp_path / "after"], check=True)
    assert ben.refs.get(NAME) == digest
    ben.verify(NAME)


EXPORTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.store.test_bundle import Exporter
exporter = Exporter(Path(sys.argv[2]))
exporter.export(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("call", ["write", "rename,renameat,renameat2", "fsync,fdatasync", "unlink,unlinkat"])
def test_an_export_that_is_killed_is_no_bundle_and_goes_on(
    ann: Exporter, ben: ModelStore, tmp_path: Path, call: str
) -> None:
    digest = ann.publish(tensors())
    root = str(Path(__file__).parents[2])
    for number in (1, 6, 17):
        exporter = [sys.executable, "-c", EXPORTER, str(tmp_path / "stick"), str(ann.root), root]
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        done = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject, *exporter], capture_output=True)
        if done.returncode == 0:
            break
        if (tmp_path / "stick").exists() and (tmp_path / "stick" / "unfinished").exists():
            with pytest.raises(BundleMissing, match="not finished"):
                Bundle(tmp_path / "stick")
    if not (tmp_path / "stick" / "bundle.dsse").exists():
        ann.export(tmp_path / "stick")
    take(ben, tmp_path / "stick")
    assert ben.refs.get(NAME) == digest
    ben.verify(NAME)


@pytest.mark.parametrize("call", ["pwrite64", "write", "rename,renameat,renameat2", "fsync,fdatasync"])
def test_an_import_that_is_killed_goes_on(ann: Exporter, tmp_path: Path, call: str) -> None:
    digest = ann.publish(tensors())
    ann.export(tmp_path / "stick")
    root = str(Path(__file__).parents[2])
    for number in (2, 9):
        taker = [sys.executable, "-c", TAKER, str(tmp_path / "stick"), str(tmp_path / "cleo"), root]
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject, *taker], capture_output=True)
        store = ModelStore(tmp_path / "cleo")
        store.tidy()
        if store.refs.get(NAME) is not None:
            store.verify(NAME)
        store.close()
    store = ModelStore(tmp_path / "cleo")
    take(store, tmp_path / "stick")
    assert store.refs.get(NAME) == digest
    store.verify(NAME)
    store.close()


def test_an_index_is_written_in_its_one_spelling(ann: Exporter, tmp_path: Path) -> None:
    ann.publish(tensors())
    ann.export(tmp_path / "stick")
    content = (tmp_path / "stick" / "bundle.json").read_bytes()
    assert encode_index(decode_index(content)) == content
    assert {path.stat().st_mode & 0o444 for path in files_of(tmp_path / "stick")} == {0o444}
