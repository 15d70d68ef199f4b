"""A fast BLAS is taken where there is one, and its absence is an answer, not an error."""

import ctypes
import sys

import pytest

from node.models import blas


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was loaded, on a Linux where only the second library exists."""
    found: list[tuple[str, int]] = []

    def load(name: str, mode: int) -> None:
        if name == blas.LIBRARIES[0]:
            raise OSError(f"{name}: cannot open shared object file")
        found.append((name, mode))

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
