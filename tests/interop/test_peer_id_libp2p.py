"""libp2p derives the same peer id from the same seed, so a connection's authenticated key is a device's name."""

import pytest

from identity.did import did_of_peer_id, peer_id_of
from identity.testing import key_from_number


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5])
def test_the_peer_id_is_libp2ps(number: int) -> None:
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    key = key_from_number(number)
    theirs = ID.from_pubkey(create_new_key_pair(key.seed).public_key)
    assert str(theirs) == peer_id_of(key.did)
    assert did_of_peer_id(str(theirs)) == key.did
