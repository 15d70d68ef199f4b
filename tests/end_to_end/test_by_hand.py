"""What a person does by hand, on real nodes: carry a model on a stick, repair a damaged one, move the store."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.nodes import NodeProcess, link, started, wait_for_offer, write_bulk_model
from tests.store.registry import docker_registry

SIZE = 64 << 20
Facts = dict[str, Any]


def create(node: NodeProcess, directory: Path, name: str = "bulk", size: int = SIZE) -> Facts:
    write_bulk_model(directory, size)
    (directory / "Modelfile").write_text("FROM .\n")
    return node.command("create", name, "-f", str(directory / "Modelfile"))


def layer_of(node: NodeProcess, name: str = "bulk") -> Facts:
    layers: list[Facts] = node.command("show", name)["layers"]
    return max(layers, key=lambda layer: int(layer["size_bytes"]))


def damage(node: NodeProcess, digest: str, *offsets: int) -> Path:
    """Flip bytes of a blob under a running node."""
    path = node.home / "store" / "blobs" / "sha256" / digest
    path.chmod(0o644)
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 0xFF]))
    return path


@contextmanager
def disk(directory: Path, size: str = "400m") -> Iterator[Path]:
    """Give `directory` as a file system of its own."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount: run as root, `sudo make test`")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def test_a_repair_moves_only_what_is_damaged_and_names_who_is_missing(tmp_path: Path) -> None:
    with started(tmp_path, "ann", "ben") as (ann, ben):
        link(ann, ben)
        made = create(ann, tmp_path / "model")
        wait_for_offer(ben, made["manifest"])
        ben.command("pull", "bulk", "--from", "ann")
        layer = layer_of(ben)
        damage(ben, layer["digest"], 1_000_000, 30_000_000, layer["size_bytes"] - 1)
        assert ben.fails("verify", "bulk")["code"] == 35
        done = ben.command("verify", "bulk", "--repair")
        (repaired,) = done["repair"]["repaired"]
        assert repaired["sources"] == ["ann"]
        # Three chunks of 8 to 128 KiB, and not one byte more, of a layer of 64 MB.
        assert repaired["moved_bytes"] == repaired["bad_bytes"] <= 3 * 128 * 1024
        assert ben.command("verify", "bulk")["chunks"] > 500
        assert not list((ben.home / "store" / "quarantine").iterdir())

        ann.command("stop")
        damage(ben, layer["digest"], 5_000_000)
        failed = ben.fails("verify", "bulk", "--repair")
        assert failed["code"] == 35
        assert "ann has the model and cannot be reached" in failed["stderr"]
        assert "verify bulk:latest --repair" in failed["stderr"]
        failed = ben.fails("verify", "--all")
        assert failed["code"] == 35


def test_a_repair_from_the_registry_that_the_model_came_from(tmp_path: Path) -> None:
    if not docker_registry.is_installed():
        pytest.skip(f"needs docker-registry: {docker_registry.NEEDED}")
    with (
        docker_registry.open_registry(tmp_path / "registry") as registry,
        started(tmp_path, "ann", "ben") as (ann, ben),
    ):
        create(ann, tmp_path / "model")
        ann.command("push", "bulk", f"{registry.host}/ann/bulk:v1")
        name = f"{registry.host}/ann/bulk:v1"
        ben.command("pull", name)
        layer = layer_of(ben, name)
        damage(ben, layer["digest"], 1_000_000, 40_000_000)
        config = ben.command("show", name)["layers"][0]["digest"]
        damage(ben, config, 0)
        registry.forget()
        done = ben.command("verify", name, "--repair")["repair"]
        sources = {source for repaired in done["repaired"] for source in repaired["sources"]}
        assert sources == {f"registry {registry.host}/ann/bulk:v1"}
        assert done["moved_bytes"] <= 3 * 128 * 1024 + 200_000
        assert registry.requests("GET", layer["digest"])
        ben.command("verify", name)
        damage(ann, layer["digest"], 2_000_000)
        done = ann.command("verify", "bulk", "--repair")["repair"]  # it was built there, and put into the registry
        assert [repaired["sources"] for repaired in done["repaired"]] == [[f"registry {registry.host}/ann/bulk:v1"]]


def test_a_model_goes_by_hand_to_a_device_that_nothing_reaches(tmp_path: Path) -> None:
    with started(tmp_path, "ann", "cleo") as (ann, cleo):
        create(ann, tmp_path / "model", size=4 << 20)
        stick = tmp_path / "stick"
        exported = ann.command("export", "bulk", "--to", str(stick))
        ann.command("stop")
        refused = cleo.fails("import", str(stick))
        assert refused["code"] == 4
        assert exported["exporter"] in refused["stderr"]
        assert cleo.command("list")["models"][0]["embedded"]
        taken = cleo.command("import", str(stick), "--trust", exported["exporter"])
        assert [model["name"] for model in taken["models"]] == ["bulk:latest"]
        checked = cleo.command("verify", "bulk")
        assert checked["publisher"] == exported["exporter"]
        assert cleo.command("import", str(stick))["copied_bytes"] == 0  # its log was followed: known from now on

        blob = max((stick / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
        content = blob.read_bytes()
        blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        cleo.command("rm", "bulk")
        assert cleo.fails("import", str(stick))["code"] == 35
        assert not [model for model in cleo.command("list")["models"] if not model["embedded"]]
        blob.write_bytes(content)
        assert cleo.command("import", str(stick))["copied_bytes"] > 0


def test_an_older_bundle_takes_the_name_back_only_when_told_to(tmp_path: Path) -> None:
    with started(tmp_path, "ann", "cleo") as (ann, cleo):
        create(ann, tmp_path / "model", size=4 << 20)
        ann.command("export", "bulk", "--to", str(tmp_path / "one"))
        (tmp_path / "model" / "Modelfile").write_text("FROM .\nSYSTEM brief\n")
        ann.command("create", "bulk", "-f", str(tmp_path / "model" / "Modelfile"))
        second = ann.command("export", "bulk", "--to", str(tmp_path / "two"), "--since", "1")
        assert second["left_out_bytes"] > second["carried_bytes"]
        missing = cleo.fails("import", str(tmp_path / "two"), "--yes")
        assert missing["code"] == 35
        assert "bring that version first" in missing["stderr"]
        cleo.command("import", str(tmp_path / "one"), "--yes")
        newest = cleo.command("import", str(tmp_path / "two"))["models"][0]["manifest"]
        older = cleo.fails("import", str(tmp_path / "one"))
        assert older["code"] == 2
        assert cleo.command("show", "bulk")["manifest"] == newest
        back = cleo.command("import", str(tmp_path / "one"), "--yes")["models"][0]["manifest"]
        assert cleo.command("show", "bulk")["manifest"] == back != newest


def test_the_store_moves_while_a_node_stops_for_it_and_survives_a_kill(tmp_path: Path) -> None:
    with started(tmp_path, "ann") as (ann,), disk(tmp_path / "disk") as place:
        create(ann, tmp_path / "model")
        target = str(place / "models")
        asked = ann.fails("data", "set-path", target)
        assert asked["code"] == 4
        assert "--yes" in asked["stderr"]
        ann.command("stop")

        # Killed with -9 as soon as the journal is there: somewhere in the middle of 64 MB.
        journal = ann.home / "store-move.json"
        mover = subprocess.Popen(
            ann._command_line(("data", "set-path", target)), env=ann._environment, stdout=subprocess.DEVNULL
        )
        while not journal.exists():
            os.sched_yield()
        mover.send_signal(signal.SIGKILL)
        mover.wait()
        assert journal.exists()
        assert ann.command("verify", "bulk")["layers"]  # starts a node, which works on the old side
        assert ann.command("data")["unfinished_move"]["target"] == target
        moved = ann.command("data", "set-path", target, "--yes")
        assert (moved["how"], moved["store"]) == ("copy", target)
        assert moved["copied_bytes"] + moved["kept_bytes"] > SIZE
        assert not journal.exists()
        assert not (ann.home / "store").exists()
        assert ann.command("status")["running"]  # it ran before, so it runs again
        ann.command("verify", "bulk")
        ann.command("stop")

        # The disk is away: nothing is made in its place.
        Path(target).rename(place / "aside")
        away = ann.fails("list")
        assert away["code"] == 8
        assert "connect or mount its disk" in away["stderr"]
        assert ann.fails("verify", "bulk")["code"] == 8
        assert not Path(target).exists()
        (place / "aside").rename(target)
        ann.command("data", "set-path", str(ann.home / "store"))
        ann.command("verify", "bulk")
        ann.command("stop")
