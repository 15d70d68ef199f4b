"""The bench's table and its figures at tiny sizes: everything runs, nothing is asserted about time."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from node.models.demo import demo_directory
from store.safetensors import read_header
from tests.bench import idle, transparency_log
from tests.bench.__main__ import FIGURES, machine, main, measure_all
from tests.bench.change_model import Shape, base_tensors, changes, write_file
from tests.bench.change_table import BARS
from tests.bench.chat_client import Timed, token_s
from tests.bench.random_model import write_filler, write_model
from tests.bench.run import CannotMeasure, Run, Sizes, output_of, program
from tests.bench.table import Better, Row, Unmeasured, format_json, format_number, format_table

RATE = Row("peer fetch", 512.0, "MB/s", "higher", "raw stream", 256.0, "verified")
TIME = Row("idle cpu", 0.1, "%", "lower", "bare trio", 0.0)
MISSING = Unmeasured("generation", "there is no model")


@pytest.fixture
def tiny(tmp_path: Path) -> Run:
    return Run(tmp_path, Sizes.small(), lambda text: None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.04213, "0.0421"),
        (3.14159, "3.14"),
        (25.64, "25.6"),
        (256.4, "256"),
        (1083.2, "1,083"),
        (0.1, "0.100"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert format_number(value) == text


def test_the_table_is_aligned_and_complete() -> None:
    header, line, first, second, third = format_table([RATE, TIME, MISSING]).splitlines()
    assert set(line) == {"─", " "}
    assert header.index("tilenode") + len("tilenode") == first.index("MB/s") + len("MB/s")
    assert first.split() == ["peer", "fetch", "↑", "512", "MB/s", "raw", "stream", "256", "MB/s", "2.00", "verified"]
    assert second.split() == ["idle", "cpu", "↓", "0.100", "%", "bare", "trio", "0", "%", "-"]
    assert third.endswith("not measured: there is no model")


@pytest.mark.parametrize(
    ("better", "value", "limit", "cell"),
    [
        ("higher", 6.0, 0.6, "≥ 0.600 ok"),
        ("higher", 5.9, 0.6, "≥ 0.600 MISSED"),
        ("lower", 2.0, 0.2, "≤ 0.200 ok"),
        ("lower", 2.1, 0.2, "≤ 0.200 MISSED"),
    ],
)
def test_a_limit_is_kept_or_missed(better: Better, value: float, limit: float, cell: str) -> None:
    row = Row("figure", value, "MB", better, "reference", 10.0, limit=limit)
    assert row.missed == cell.endswith("MISSED")
    assert cell in format_table([row])


def test_a_missed_limit_is_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("figure", 5.0, "MB", "higher", "reference", 10.0, limit=0.6)
    monkeypatch.setitem(FIGURES, "log", lambda run: iter([row]))
    assert main(["--only", "log"]) == 1
    assert "MISSED" in capsys.readouterr().out
    monkeypatch.setitem(FIGURES, "log", lambda run: iter([replace(row, limit=0.5)]))
    assert main(["--only", "log"]) == 0


def test_files_of_the_change_table_can_be_read(tmp_path: Path) -> None:
    names = set()
    for name, before, after in changes(Shape.small(), base_tensors(Shape.small())):
        names.add(name)
        for number, (file, tensors) in enumerate([*before.items(), *after.items()]):
            write_file(tmp_path / f"{number}-{file}", tensors, {"format": "pt"})
            header = read_header(tmp_path / f"{number}-{file}")
            assert [tensor.name for tensor in header.tensors] == [tensor.name for tensor in tensors]
    assert names == set(BARS)


def test_json_is_the_same_table() -> None:
    table = json.loads(format_json([RATE, TIME, MISSING], {"cores": 2}))
    assert table["schema"] == 2
    assert table["machine"] == {"cores": 2}
    assert [(row["figure"], row["value"], row["reference_value"], row["ratio"]) for row in table["rows"]] == [
        ("peer fetch", 512.0, 256.0, 2.0),
        ("idle cpu", 0.1, 0.0, None),
    ]
    assert table["unmeasured"] == [{"figure": "generation", "reason": "there is no model"}]


def test_a_figure_that_fails_is_a_row_and_the_others_go_on(tiny: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: Run) -> None:
        raise CannotMeasure("no such thing\nsecond line")

    monkeypatch.setitem(FIGURES, "idle", fail)
    results = measure_all(tiny, ["idle", "log"])
    assert results[0] == Unmeasured("idle", "no such thing")
    assert all(isinstance(row, Row) for row in results[1:])
    assert len(results) == 4


def test_log_figures(tiny: Run) -> None:
    rows = list(transparency_log.measure(tiny))
    assert [row.better for row in rows] == ["lower"] * 3
    assert all(row.value > 0 and row.reference_value > 0 for row in rows)


def test_processes_are_watched_together() -> None:
    with idle.bare_trio() as bare:
        ours, other = idle.watch([os.getpid(), bare], 0.05)
    assert ours.memory_mb > other.memory_mb > 1
    assert other.cpu_percent >= 0


def test_the_model_to_fetch_is_a_safetensors_file_of_the_size(tmp_path: Path) -> None:
    path = write_filler(tmp_path / "model", 9_000_001)
    header = read_header(path)
    assert sum(tensor.length for tensor in header.tensors) >= 9_000_001
    assert path.stat().st_size < 9_100_000
    again = write_filler(tmp_path / "again", 9_000_001)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(again.read_bytes()).digest()


def test_the_random_model_has_the_tensors_of_its_shape(tmp_path: Path) -> None:
    parameters = write_model(tmp_path / "model")
    header = read_header(tmp_path / "model" / "model.safetensors")
    shipped = read_header(demo_directory() / "model.safetensors")
    assert parameters == header.element_count > 20_000_000
    assert {tensor.name for tensor in shipped.tensors} < {tensor.name for tensor in header.tensors}


def test_the_stock_stream_brings_every_byte() -> None:
    with program("tests.bench.stock_stream", "serve", "300000") as server:
        assert server.stdout is not None
        fetched = output_of("tests.bench.stock_stream", "fetch", server.stdout.readline().strip())
    assert fetched["bytes"] == 300_000


def test_a_reference_that_fails_is_named() -> None:
    with pytest.raises(CannotMeasure, match=r"tests\.bench\.no_such_program ended with status 1"):
        output_of("tests.bench.no_such_program")


def test_the_machine_is_described() -> None:
    assert {"system", "cores", "load", "python", "mlx", "libp2p"} <= machine().keys()


def test_a_token_of_streams_is_timed_while_all_of_them_run() -> None:
    first = Timed(4.0, 4, [(1.0, 3), (2.0, 3), (3.0, 3), (4.0, 3)])
    assert token_s([first, Timed(5.0, 4, [(2.0, 5), (4.0, 10), (5.0, 5)])]) == 1.0
    assert token_s([first, Timed(9.0, 4, [(5.0, 1), (6.5, 1)])]) == (9.0 - 1.0) * 2 / 8


@pytest.mark.model
@pytest.mark.processes
@pytest.mark.timeout(600)
def test_every_figure_is_measured_at_tiny_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--quick", "--json"])
    table = json.loads(capsys.readouterr().out)
    assert table["unmeasured"] == []
    assert {row["reference"] for row in table["rows"]} >= {"hf_xet, new bytes", "sha256 of the same file", "the layer"}
    assert len(table["rows"]) >= 60
    assert not any(row["missed"] for row in table["rows"])
    assert status == 0
