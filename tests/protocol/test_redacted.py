"""Redacted text never shows itself."""

import copy
import json
import pickle

import pytest

from protocol.redacted import Redacted

CANARY = "canary-é"
SHOWN = "<redacted 9 bytes>"


@pytest.mark.parametrize(
    "shown",
    [
        str(Redacted(CANARY)),
        repr(Redacted(CANARY)),
        f"{Redacted(CANARY)}",
        " ".join(map(str, [Redacted(CANARY)])),
        f"{Redacted(CANARY)!r:}",
    ],
)
def test_every_way_to_format_shows_the_size_alone(shown: str) -> None:
    assert shown == SHOWN


def test_containers_do_not_show_it_either() -> None:
    assert str([Redacted(CANARY)]) == f"[{SHOWN}]"
    assert f"{Redacted(CANARY):>20}" == SHOWN.rjust(20)


def test_what_would_write_it_down_fails() -> None:
    with pytest.raises(TypeError):
        json.dumps({"text": Redacted(CANARY)})
    with pytest.raises(TypeError):
        pickle.dumps(Redacted(CANARY))
    with pytest.raises(TypeError):
        copy.deepcopy(Redacted(CANARY))
    assert not hasattr(Redacted(CANARY), "__dict__")


def test_the_owner_gets_the_text() -> None:
    assert Redacted(CANARY).reveal() == CANARY
    assert Redacted("a") == Redacted("a") != Redacted("b")
    assert len({Redacted("a"), Redacted("a")}) == 1
    assert Redacted("a") != "a"


def test_a_lone_surrogate_has_a_size_too() -> None:
    assert Redacted("\ud800").size_bytes == 3
