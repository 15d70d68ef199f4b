"""A fast BLAS is taken where there is one, and its absence is an answer, not an error."""

import ctypes
import sys
from types import SimpleNamespace

import pytest

from node.models import blas


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was loaded, on a Linux where only the second library exists."""
    found: list[tuple[str, int]] = []

    def load(name: str, mode: int = ctypes.DEFAULT_MODE) -> SimpleNamespace:
        if name == blas.LIBRARIES[0]:
            raise OSError(f"{name}: cannot open shared object file")
        found.append((name, mode))
        return SimpleNamespace(bli_thread_set_num_threads=lambda count: found.append(("threads", count)))

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", load)
    return found


def test_the_next_library_is_taken_when_one_is_missing(loaded: list[tuple[str, int]]) -> None:
    assert blas.preload_blas() == blas.LIBRARIES[1]
    assert loaded == [(blas.LIBRARIES[1], ctypes.RTLD_GLOBAL)]


def test_none_at_all_is_no_error(loaded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "LIBRARIES", blas.LIBRARIES[:1])
    assert blas.preload_blas() is None
    assert loaded == []


def test_other_systems_keep_their_own(loaded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert blas.preload_blas() is None
    assert loaded == []


def test_one_thread_is_asked_of_the_library_that_is_there(loaded: list[tuple[str, int]]) -> None:
    blas.use_one_thread()
    assert loaded[-1] == ("threads", 1)


def test_one_thread_asks_nothing_of_a_system_with_its_own(
    loaded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    blas.use_one_thread()
    assert loaded == []


@pytest.mark.skipif("blas.preload_blas() != blas.LIBRARIES[0]", reason="Debian: apt install libopenblas0-pthread")
def test_openblas_itself_then_has_one_thread() -> None:
    library = ctypes.CDLL(blas.LIBRARIES[0])
    before = library.openblas_get_num_threads()
    try:
        blas.use_one_thread()
        assert library.openblas_get_num_threads() == 1
    finally:
        library.openblas_set_num_threads(before)
