"""Leases: kept while somebody holds them, and gone with whoever forgot them."""

import gc

from protocol.digest import digest_of
from store.leases import Leases

A, B = digest_of(b"a"), digest_of(b"b")


def test_a_lease_keeps_until_its_block_ends() -> None:
    leases = Leases()
    with leases.take([A]) as lease:
        lease.add(B)
        assert leases.held() == {A, B}
    assert leases.held() == frozenset()


def test_two_leases_on_one_blob_are_two() -> None:
    leases = Leases()
    first, second = leases.take([A]), leases.take([A])
    first.release()
    assert leases.held() == {A}
    second.release()
    assert leases.held() == frozenset()


def test_a_lease_that_nobody_holds_keeps_nothing() -> None:
    leases = Leases()
    leases.take([A])
    gc.collect()
    assert leases.held() == frozenset()
