"""A Merkle tree over log entries: hashes, inclusion proofs and consistency proofs (RFC 9162 §2.1, specs/0003).

Proofs are lists of 32-byte hashes from the leaf to the root, as Go's `sumdb/tlog` and C2SP tlog-tiles have them.
Provers read hashes of complete subtrees through a `HashReader`; a list, a tile store or a dict can stand behind it.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from protocol.errors import ConsistencyInvalid, InclusionInvalid

HASH_BYTES: Final = 32
MAX_SIZE: Final = 2**63 - 1
MAX_PROOF_HASHES: Final = 64
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

# (level, index) → hash of the complete subtree over the entries [index·2^level, (index+1)·2^level).
HashReader = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """Return SHA-256(00 ‖ entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_root(size: int, read: HashReader) -> bytes:
    """Return the root of the tree of the first `size` entries; SHA-256 of nothing for none."""
    return _range_root(0, size, read) if size else EMPTY_ROOT


def prove_inclusion(index: int, size: int, read: HashReader) -> list[bytes]:
    """Return the proof that the tree of `size` entries holds entry `index`.

    Raises:
        InclusionInvalid: there is no such entry.
    """
    _require_index(index, size)
    return [_range_root(lo, hi, read) for lo, hi, _ in _inclusion_path(index, size)]


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Return only if `proof` leads from the leaf hash of entry `index` to `root`, the root of `size` entries.

    Raises:
        InclusionInvalid: it does not.
    """
    _require_index(index, size)
    path = _inclusion_path(index, size)
    if len(proof) != len(path) or not _are_hashes([leaf, root, *proof]):
        raise InclusionInvalid(index, size, f"{len(proof)} hashes, expected {len(path)} of {HASH_BYTES} bytes")
    found = leaf
    for sibling, (_, _, sibling_is_left) in zip(proof, path, strict=True):
        found = node_hash(sibling, found) if sibling_is_left else node_hash(found, sibling)
    if found != root:
        raise InclusionInvalid(index, size, f"leads to the root {found.hex()[:12]}, expected {root.hex()[:12]}")


def prove_consistency(old: int, new: int, read: HashReader) -> list[bytes]:
    """Return the proof that the tree of `new` entries begins with the tree of `old` entries.

    It is empty where there is nothing to show: `old` is 0, or the sizes are equal.

    Raises:
        ConsistencyInvalid: not 0 ≤ old ≤ new.
    """
    _require_sizes(old, new)
    return [_range_root(lo, hi, read) for lo, hi, _ in _consistency_path(old, new)]


def check_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Return only if `proof` shows that the tree (new, new_root) begins with the tree (old, old_root).

    Raises:
        ConsistencyInvalid: it does not. The one who relayed the proof may have lied: that is no evidence of a fork.
    """
    implied_old, implied_new = implied_roots(old, old_root, new, new_root, proof)
    if implied_old != old_root:
        raise ConsistencyInvalid(old, new, f"leads to the old root {implied_old.hex()[:12]}, not {old_root.hex()[:12]}")
    if implied_new != new_root:
        raise ConsistencyInvalid(old, new, f"leads to the new root {implied_new.hex()[:12]}, not {new_root.hex()[:12]}")


def implied_roots(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the old and the new root to which `proof` leads, whatever the given ones are.

    The given roots are returned where the proof is empty by rule. Where the old tree is a complete subtree of the
    new one (`old` is a power of two), the proof starts from `old_root` itself.

    Raises:
        ConsistencyInvalid: the sizes or the number of hashes are impossible.
    """
    _require_sizes(old, new)
    path = _consistency_path(old, new)
    if len(proof) != len(path) or not _are_hashes([old_root, new_root, *proof]):
        raise ConsistencyInvalid(old, new, f"{len(proof)} hashes, expected {len(path)} of {HASH_BYTES} bytes")
    if old == 0:
        return EMPTY_ROOT, new_root
    if old == new:
        return new_root, old_root
    starts_inside = path[0][2] is None
    found_old = found_new = proof[0] if starts_inside else old_root
    for sibling, (_, _, sibling_is_left) in list(zip(proof, path, strict=True))[starts_inside:]:
        if sibling_is_left:
            found_old = node_hash(sibling, found_old)
            found_new = node_hash(sibling, found_new)
        else:
            found_new = node_hash(found_new, sibling)
    return found_old, found_new


def _range_root(lo: int, hi: int, read: HashReader) -> bytes:
    """Return the root over [lo, hi), a range that the recursion of RFC 9162 §2.1.1 produces."""
    hashes = [read(level, index) for level, index in _complete_subtrees(lo, hi)]
    root = hashes.pop()
    while hashes:
        root = node_hash(hashes.pop(), root)
    return root


def _complete_subtrees(lo: int, hi: int) -> Iterator[tuple[int, int]]:
    while lo < hi:
        level = (hi - lo).bit_length() - 1
        yield level, lo >> level
        lo += 1 << level


def _split(lo: int, hi: int) -> int:
    """Return where the tree over [lo, hi) splits: the largest power of two below its size, after `lo`."""
    return lo + (1 << ((hi - lo - 1).bit_length() - 1))


def _inclusion_path(index: int, size: int) -> list[tuple[int, int, bool]]:
    """Return the sibling ranges from the leaf to the root: (lo, hi, whether the sibling is on the left)."""
    lo, hi, path = 0, size, []
    while hi - lo > 1:
        middle = _split(lo, hi)
        if index < middle:
            path.append((middle, hi, False))
            hi = middle
        else:
            path.append((lo, middle, True))
            lo = middle
    return path[::-1]


def _consistency_path(old: int, new: int) -> list[tuple[int, int, bool | None]]:
    """Return the ranges of a consistency proof; None instead of a side marks the subtree that both trees share."""
    if old in (0, new):
        return []
    lo, hi, path = 0, new, list[tuple[int, int, bool | None]]()
    while old != hi:
        middle = _split(lo, hi)
        if old <= middle:
            path.append((middle, hi, False))
            hi = middle
        else:
            path.append((lo, middle, True))
            lo = middle
    if lo > 0:
        path.append((lo, hi, None))
    return path[::-1]


def _require_index(index: int, size: int) -> None:
    if not 0 <= index < size <= MAX_SIZE:
        raise InclusionInvalid(index, size, "there is no such entry")


def _require_sizes(old: int, new: int) -> None:
    if not 0 <= old <= new <= MAX_SIZE:
        raise ConsistencyInvalid(old, new, "the sizes are not in order")


def _are_hashes(hashes: Sequence[bytes]) -> bool:
    return all(len(each) == HASH_BYTES for each in hashes)
