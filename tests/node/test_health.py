"""What devices are called where several show one name."""

import pytest

from identity.did import DeviceId, short_did
from identity.testing import key_from_number
from node.health import device_names
from protocol.scope import Scope
from store.peers import LinkedPeer

ME, ANN, BOB = (key_from_number(number).did for number in (1, 2, 3))


def linked(did: DeviceId, nickname: str) -> LinkedPeer:
    return LinkedPeer(did, nickname, Scope.MODELS, (), 1)


def test_a_name_that_one_device_has_is_enough() -> None:
    assert device_names(ME, "desk", [linked(ANN, "kitchen"), linked(BOB, "laptop")]) == {
        ME: "desk",
        ANN: "kitchen",
        BOB: "laptop",
    }


@pytest.mark.parametrize("claimed", ["kitchen", "Kitchen", "ｋitchen"])
def test_a_device_that_takes_anothers_name_is_told_from_it(claimed: str) -> None:
    names = device_names(ME, "desk", [linked(ANN, "kitchen"), linked(BOB, claimed)])
    assert names[ANN] == f"kitchen ({short_did(ANN)})"
    assert names[BOB] == f"{claimed} ({short_did(BOB)})"
    assert names[ME] == "desk"


def test_nobody_passes_for_this_device() -> None:
    names = device_names(ME, "desk", [linked(ANN, "DESK")])
    assert names == {ME: f"desk ({short_did(ME)})", ANN: f"DESK ({short_did(ANN)})"}
