"""Leases: kept while somebody holds them, known to other processes, and gone with whoever forgot them or died."""

import gc
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.digest import digest_of
from store.errors import DiskFailed, LeaseCorrupt, LeaseTooLarge
from store.layout import Layout
from store.leases import Leases, parse_lease

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0022-history"
LEASE_CASES = json.loads((VECTORS / "leases.json").read_text())
A, B = digest_of(b"a"), digest_of(b"b")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def in_child(work: Callable[[], None]) -> tuple[int, int]:
    """Run `work` in a process of its own that then waits to be ended; return its number and what to close for that."""
    ready_out, ready_in = os.pipe()
    wait_out, wait_in = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(wait_in)
        work()
        os.write(ready_in, b"x")
        os.read(wait_out, 1)
        os._exit(0)
    os.close(ready_in)
    os.close(wait_out)
    assert os.read(ready_out, 1) == b"x"
    os.close(ready_out)
    return child, wait_in


@pytest.mark.parametrize("case", LEASE_CASES, ids=lambda case: case["comment"])
def test_lease_vectors(case: dict[str, Any]) -> None:
    if case["expect"] == "ok":
        assert sorted(parse_lease(Path("lease"), case["input"].encode())) == case["digests"]
    else:
        with pytest.raises(LeaseCorrupt):
            parse_lease(Path("lease"), case["input"].encode())


def test_a_lease_keeps_until_its_block_ends(layout: Layout) -> None:
    leases = Leases(layout)
    with leases.take([A]) as lease:
        lease.add(B)
        assert leases.held() == {A, B}
    assert leases.held() == frozenset()
    assert list(layout.leases.iterdir()) == []


def test_two_leases_on_one_blob_are_two(layout: Layout) -> None:
    leases = Leases(layout)
    first, second = leases.take([A]), leases.take([A])
    first.release()
    assert leases.held() == {A}
    second.release()
    assert leases.held() == frozenset()


def test_a_lease_that_nobody_holds_keeps_nothing(layout: Layout) -> None:
    leases = Leases(layout)
    leases.take([A])
    gc.collect()
    assert leases.held() == frozenset()


def test_another_process_sees_what_is_kept_as_long_as_its_process_lives(layout: Layout) -> None:
    kept: list[object] = []

    def work() -> None:
        leases = Leases(layout)
        lease = leases.take([A])
        lease.add(B)
        kept.append(lease)

    leases = Leases(layout)
    child, wait_in = in_child(work)
    assert leases.held() == {A, B}
    assert leases.remove_dead() == 0
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(wait_in)
    assert leases.held() == frozenset()
    assert leases.remove_dead() == 1
    assert list(layout.leases.iterdir()) == []


def test_what_was_released_in_another_process_is_not_kept(layout: Layout) -> None:
    kept: list[object] = []

    def work() -> None:
        leases = Leases(layout)
        kept.append(leases.take([A]))
        leases.take([B]).release()

    child, wait_in = in_child(work)
    assert Leases(layout).held() == {A}
    os.close(wait_in)
    os.waitpid(child, 0)


def test_nothing_is_kept_where_it_cannot_be_written_down(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases(layout)
    kept = leases.take([A])

    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("store.leases.Temporary.write", fail)
        with pytest.raises(DiskFailed):
            kept.add(B)
        with pytest.raises(DiskFailed):
            leases.take([B])
        assert leases.held() == {A}
    assert list(layout.temporary.iterdir()) == []
    kept.add(B)
    assert Leases(layout).held() == {A, B}


def test_a_release_needs_no_room_on_the_disk(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases(layout)
    first, second = leases.take([A]), leases.take([B])

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("store.leases.Temporary.write", fail)
    first.release()
    assert leases.held() == {B}
    second.release()
    assert Leases(layout).held() == frozenset()


def test_a_process_keeps_no_more_than_its_file_may_name(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.leases.MAX_LEASED", 1)
    leases = Leases(layout)
    lease = leases.take([A])
    with pytest.raises(LeaseTooLarge):
        lease.add(B)
    assert leases.held() == {A}


def test_a_lease_of_a_living_process_that_cannot_be_read_stops_everything(layout: Layout) -> None:
    leases = Leases(layout)
    lease = leases.take([A])
    (path,) = layout.leases.iterdir()
    path.write_text("{")
    with pytest.raises(LeaseCorrupt):
        Leases(layout).held()
    lease.release()
    assert Leases(layout).held() == frozenset()
