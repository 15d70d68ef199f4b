"""Where read prompts lie: a directory and a key for each model, gone with it, and never more than a few."""

import os
import stat
from pathlib import Path

import pytest
import trio

from identity.secrets import Secrets
from node.events import Events
from node.models.prefix_place import MAX_MODELS, PrefixPlaces, forget_gone_models
from node.ports import SystemClock
from node.threads import Threads
from protocol.digest import Digest, digest_of

SECRETS = Secrets(bytes(32), bytes(range(32)))
ONE, TWO = digest_of(b"one"), digest_of(b"two")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


def places(root: Path, max_bytes: int = 1000) -> PrefixPlaces:
    return PrefixPlaces(root, SECRETS.subkey, max_bytes)


def test_every_model_and_engine_has_its_own_place_and_key(root: Path) -> None:
    one, two, packed = (
        places(root).place(weights, digest, bits)
        for weights, digest, bits in (("a", ONE, 0), ("b", TWO, 0), ("b", TWO, 4))
    )
    assert one is not None
    assert two is not None
    assert packed is not None
    assert len({one.directory, two.directory, packed.directory}) == 3
    assert len({one.key, two.key, packed.key, SECRETS.database_key}) == 4
    assert places(root).place("a", ONE, 0) == one
    assert one.max_bytes == 1000 // MAX_MODELS
    assert stat.S_IMODE(os.stat(one.directory).st_mode) == 0o700
    # What an engine with other bits left is of no use to this one.
    assert not Path(two.directory).exists()


def test_nothing_is_kept_where_that_is_off(root: Path) -> None:
    kept = places(root).place("a", ONE, 0)
    assert kept is not None
    off = places(root, 0)
    assert off.place("a", ONE, 0) is None
    assert off.keep_only(lambda _: True) == 1
    assert not root.exists()


def test_a_place_goes_with_the_last_model_that_used_it(root: Path) -> None:
    all_of_them = places(root)
    kept = all_of_them.place("a", ONE, 0)
    assert all_of_them.place("a", TWO, 0) == kept
    assert kept is not None
    Path(kept.directory, "x").write_bytes(b"some")
    assert all_of_them.used_bytes() > 0
    assert all_of_them.keep_only(lambda digest: digest == TWO) == 0
    assert Path(kept.directory, "x").exists()
    assert all_of_them.keep_only(lambda digest: digest == ONE) == 1
    assert list(root.iterdir()) == []
    assert all_of_them.used_bytes() == 0


def test_the_longest_unused_places_give_way(root: Path) -> None:
    for number in range(MAX_MODELS + 2):
        kept = places(root).place(f"weights {number}", ONE, 0)
        assert kept is not None
        os.utime(Path(kept.directory).parent / "models", (number, number))
        assert Path(kept.directory).exists()
    assert len(list(root.iterdir())) == MAX_MODELS
    # The oldest of the four is used again, so the next one to go is another.
    again = places(root).place("weights 2", ONE, 0)
    places(root).place("one more", ONE, 0)
    assert again is not None
    assert Path(again.directory).exists()
    assert len(list(root.iterdir())) == MAX_MODELS


def test_a_place_that_cannot_be_made_is_none(root: Path) -> None:
    root.write_bytes(b"a file")
    assert places(root).place("a", ONE, 0) is None
    assert places(root).keep_only(lambda _: True) == 0
    assert places(root).used_bytes() == 0


async def test_models_that_are_removed_take_it_along(root: Path) -> None:
    there = {ONE, TWO}
    all_of_them, events = places(root), Events(SystemClock())
    for weights, digest in (("a", ONE), ("b", TWO), ("c", Digest("f" * 64))):
        assert all_of_them.place(weights, digest, 0) is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forget_gone_models, all_of_them, events, Threads(), there.__contains__)
        with trio.fail_after(10):
            while len(list(root.iterdir())) == 3:
                await trio.sleep(0.01)
            assert len(list(root.iterdir())) == 2
            there.remove(ONE)
            events.publish({"event": "linked"})
            events.publish({"event": "removed"})
            while len(list(root.iterdir())) == 2:
                await trio.sleep(0.01)
        assert len(list(root.iterdir())) == 1
        nursery.cancel_scope.cancel()
