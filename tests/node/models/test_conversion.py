"""Conversion in its own process: what mlx-lm would have made, the same bytes each time, and an end when it must end."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
import psutil
import pytest
import trio
from mlx_lm.convert import convert as mlx_lm_convert
from safetensors import safe_open

from node.models.conversion import Conversion
from node.models.demo import WEIGHT_FILES, demo_directory
from protocol.quantization import Quantization
from store.errors import ConversionFailed, QuantizationRefused
from store.safetensors import read_header, write_safetensors

pytestmark = pytest.mark.model


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    for name in WEIGHT_FILES:
        shutil.copy(demo_directory() / name, directory / name)
    return directory


async def convert(source: Path, target: Path, quantization: Quantization) -> Mapping[str, str]:
    heard: list[dict[str, object]] = []

    async def emit(event: dict[str, object]) -> None:
        heard.append(event)

    target.mkdir(parents=True)
    conversion = Conversion(emit)
    tools = await trio.to_thread.run_sync(conversion.convert, source, target, quantization)
    assert heard[0] == {"status": f"starting the conversion to {quantization}"}
    assert heard[1]["status"] == f"converting to {quantization}"
    assert heard[1]["completed"] == 0
    return tools


@pytest.mark.parametrize(("quantization", "bits"), [(Quantization.INT4, 4), (Quantization.INT8, 8)])
async def test_the_tensors_are_those_that_mlx_lm_makes(
    source: Path, tmp_path: Path, quantization: Quantization, bits: int
) -> None:
    tools = await convert(source, tmp_path / "ours", quantization)
    assert set(tools) == {"mlx", "mlx-lm", "device"}
    await trio.to_thread.run_sync(
        lambda: mlx_lm_convert(str(source), str(tmp_path / "theirs"), quantize=True, q_bits=bits, q_group_size=64)
    )
    ours, theirs = (mx.load(str(tmp_path / side / "model.safetensors")) for side in ("ours", "theirs"))
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert mx.array_equal(tensor, theirs[name]).item()
    config, expected = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("ours", "theirs"))
    assert config == expected
    assert config["quantization"] == {"group_size": 64, "bits": bits, "mode": "affine"}


async def test_the_bytes_are_the_same_each_time_and_canonical(source: Path, tmp_path: Path) -> None:
    for run in ("one", "two"):
        await convert(source, tmp_path / run, Quantization.INT4)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["config.json", "model.safetensors"]
    header = read_header(tmp_path / "one" / "model.safetensors")
    assert header.data_start % 4096 == 0
    assert header.metadata == {"format": "mlx"}
    with safe_open(tmp_path / "one" / "model.safetensors", "np") as reference:
        assert len(list(reference.keys())) == len(header.tensors)


async def test_fp16_casts_and_says_so_in_the_config(source: Path, tmp_path: Path) -> None:
    tensors = {
        tensor.name: ("F32", tensor.shape, _as_float32(source, tensor.offset, tensor.length))
        for tensor in read_header(source / "model.safetensors").tensors
    }
    write_safetensors(source / "model.safetensors", tensors)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    await convert(source, tmp_path / "made", Quantization.FP16)
    made = {tensor.name: tensor.dtype for tensor in read_header(tmp_path / "made" / "model.safetensors").tensors}
    assert set(made.values()) == {"F16"}
    assert json.loads((tmp_path / "made" / "config.json").read_text())["torch_dtype"] == "float16"


def _as_float32(source: Path, offset: int, length: int) -> bytes:
    content = (source / "model.safetensors").read_bytes()[offset : offset + length]
    return np.frombuffer(content, "<f2").astype("<f4").tobytes()


def _packed(source: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    config["quantization"] = {"group_size": 64, "bits": 4}
    (source / "config.json").write_text(json.dumps(config))


def _unknown(source: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "model_type": "nonesuch"}))


def _with_code(source: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "model_file": "evil.py"}))
    (source / "evil.py").write_text("import pathlib; pathlib.Path('/tmp/evil-was-here').touch()")


def _too_large(source: Path) -> None:
    header = read_header(source / "model.safetensors")
    content = (source / "model.safetensors").read_bytes()
    tensors = {t.name: ("F16", t.shape, content[t.offset : t.offset + t.length]) for t in header.tensors}
    shape = tensors["model.norm.weight"][1]
    tensors["model.norm.weight"] = ("F32", shape, np.full(shape, 1e6, "<f4").tobytes())
    write_safetensors(source / "model.safetensors", tensors)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_packed, "packed already"),
        (_unknown, "nonesuch"),
        (_with_code, "evil.py"),
        (_too_large, "'model.norm.weight' holds"),
    ],
)
async def test_what_cannot_be_converted_is_refused_with_the_reason(
    source: Path, tmp_path: Path, spoil: object, says: str
) -> None:
    assert callable(spoil)
    spoil(source)
    (tmp_path / "made").mkdir()

    async def emit(_: dict[str, object]) -> None:
        return

    conversion = Conversion(emit)
    with pytest.raises(QuantizationRefused, match=says) as caught:
        await trio.to_thread.run_sync(conversion.convert, source, tmp_path / "made", Quantization.FP16)
    assert caught.value.hint
    assert not Path("/tmp/evil-was-here").exists()


def _converters() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "node.models.convert" in child.cmdline()]


async def test_leaving_ends_the_process_at_once(source: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    left = trio.Event()
    pids: list[int] = []

    async def emit(event: dict[str, object]) -> None:
        if "completed" not in event:
            return
        pids.extend(process.pid for process in _converters())
        left.set()
        await trio.sleep_forever()

    conversion = Conversion(emit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, conversion.convert, source, tmp_path / "made", Quantization.INT4)
        await left.wait()
        nursery.cancel_scope.cancel()
    assert len(pids) == 1
    assert not psutil.pid_exists(pids[0])


@pytest.mark.platform
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a bound on a process's memory")
async def test_the_process_has_a_bound_on_its_memory(source: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    bounds: list[int] = []

    async def emit(_: dict[str, object]) -> None:
        bounds.extend(process.rlimit(psutil.RLIMIT_DATA)[0] for process in _converters())

    conversion = Conversion(emit)
    await trio.to_thread.run_sync(conversion.convert, source, tmp_path / "made", Quantization.INT4)
    assert bounds
    assert all(0 < bound <= psutil.virtual_memory().total for bound in bounds)


async def test_a_process_that_is_killed_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()

    async def emit(_: dict[str, object]) -> None:
        for process in _converters():
            process.kill()

    conversion = Conversion(emit)
    with pytest.raises(ConversionFailed, match="SIGKILL"):
        await trio.to_thread.run_sync(conversion.convert, source, tmp_path / "made", Quantization.INT4)


def test_the_process_ends_when_the_node_does(source: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "scratch").mkdir()
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-I", "-m", "node.models.convert", str(theirs.fileno())]
        process = subprocess.Popen(
            [*command, str(source), str(tmp_path / "made"), "int4"],
            pass_fds=[theirs.fileno()],
            cwd=tmp_path / "scratch",
            env={"PATH": os.defpath},
        )
    ours.close()  # as the system does for a node that was killed
    assert process.wait(timeout=30) == 0
    assert not (tmp_path / "scratch").exists()
    assert not (tmp_path / "made" / "config.json").exists()
