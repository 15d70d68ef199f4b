"""Heads: the vectors, the caps, and the two-message round when nothing changed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from identity.testing import key_from_number
from protocol.checkpoint import sign_checkpoint
from protocol.digest import digest_of
from protocol.errors import CodecInvalid, FieldInvalid
from protocol.heads import (
    MAX_BUNDLE_BYTES,
    MAX_BUNDLE_FRAME_BYTES,
    MAX_HEADS_BYTES,
    MAX_NOTE_BYTES,
    MAX_OFFERS,
    MAX_OTHER_CHECKPOINTS,
    NOTHING_SEEN,
    Greeting,
    Heads,
    OfferedModel,
    answer_greeting,
    decode_answer,
    decode_bundle,
    decode_bundle_request,
    decode_greeting,
    decode_heads,
    decode_proof,
    decode_proof_request,
    encode_answer,
    encode_bundle,
    encode_heads,
    heads_digest,
)
from protocol.model_name import ModelName, parse_model_name
from protocol.tlog import EMPTY_ROOT

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0011-heads-and-gossip" / "heads.json"
ANN = key_from_number(1)


def facts_of_heads(data: bytes) -> dict[str, Any]:
    heads = decode_heads(data)
    return {
        "nickname": heads.nickname,
        "addresses": list(heads.addresses),
        "offers": [str(offer.name) for offer in heads.offers],
        "digest": heads_digest(data).hex(),
    }


def facts_of_answer(data: bytes) -> dict[str, Any]:
    answer = decode_answer(data)
    return {"mine": answer.mine.hex(), "want": answer.want, "heads": answer.heads is not None}


def facts_of_greeting(data: bytes) -> dict[str, Any]:
    greeting = decode_greeting(data)
    return {"mine": greeting.mine.hex(), "seen": greeting.seen.hex()}


DECODERS: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "heads": facts_of_heads,
    "greeting": facts_of_greeting,
    "answer": facts_of_answer,
    "get": lambda data: vars(decode_bundle_request(data)),
    "prove": lambda data: vars(decode_proof_request(data)),
    "proof": lambda data: {"hashes": len(decode_proof(data).hashes)},
}
FAILURES = {"CodecInvalid": CodecInvalid, "FieldInvalid": FieldInvalid}


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text()), ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    decode, data = DECODERS[case["input"]["kind"]], bytes.fromhex(case["input"]["hex"])
    if case["expect"] == "ok":
        assert decode(data) == case["facts"]
    else:
        with pytest.raises(FAILURES[case["expect"]]):
            decode(data)


def offer(number: int) -> OfferedModel:
    longest = ModelName("h" * 80, "n" * 80, "m" * 80, f"{number:080}")
    return OfferedModel(longest, digest_of(b"m"), ANN.did, digest_of(b"b"), MAX_BUNDLE_BYTES)


def heads(**changes: Any) -> Heads:
    plain = Heads("ann", (), sign_checkpoint(ANN, 0, EMPTY_ROOT), (), ())
    return replace(plain, **changes)


def test_the_largest_heads_fit_under_their_cap() -> None:
    largest = heads(
        nickname="n" * 64,
        addresses=("a" * 256,) * 16,
        checkpoint=bytes(MAX_NOTE_BYTES),
        others=(bytes(MAX_NOTE_BYTES),) * MAX_OTHER_CHECKPOINTS,
        offers=tuple(offer(number) for number in range(MAX_OFFERS)),
    )
    assert len(encode_heads(largest)) <= MAX_HEADS_BYTES
    assert decode_heads(encode_heads(largest)) == replace(largest, offers=tuple(sorted(largest.offers)))


def test_more_than_the_caps_is_cut_by_the_sender_and_refused_by_the_receiver() -> None:
    crowded = heads(offers=tuple(offer(number) for number in range(MAX_OFFERS + 1)))
    encoded = encode_heads(crowded)
    assert len(decode_heads(encoded).offers) == MAX_OFFERS
    with pytest.raises(FieldInvalid, match=r"offers: 257 items"):
        decode_heads(_with_one_more_offer(encoded))


def _with_one_more_offer(encoded: bytes) -> bytes:
    first = encoded.index(b"\x85\xa6bundle")
    second = encoded.index(b"\x85\xa6bundle", first + 1)
    count = encoded.index(b"\xdc\x01\x00")
    return encoded[:count] + b"\xdc\x01\x01" + encoded[count + 3 : first] + encoded[first:second] + encoded[first:]


def test_a_round_without_news_sends_no_heads() -> None:
    ann, ben = encode_heads(heads()), encode_heads(heads(nickname="ben"))
    answer = answer_greeting(Greeting(heads_digest(ann), heads_digest(ben)), ben, heads_digest(ann))
    assert answer.heads is None
    assert not answer.want
    assert len(encode_answer(answer)) < 100


def test_a_first_round_sends_both() -> None:
    ann, ben = encode_heads(heads()), encode_heads(heads(nickname="ben"))
    answer = answer_greeting(Greeting(heads_digest(ann), NOTHING_SEEN), ben, NOTHING_SEEN)
    assert answer.heads == ben
    assert answer.want
    assert decode_answer(encode_answer(answer)) == answer


def test_a_bundle_of_one_mebibyte_goes_through_and_a_larger_one_does_not() -> None:
    whole = bytes(MAX_BUNDLE_BYTES)
    assert decode_bundle(encode_bundle(whole)) == whole
    assert len(encode_bundle(whole)) <= MAX_BUNDLE_FRAME_BYTES
    with pytest.raises(FieldInvalid):
        decode_bundle(encode_bundle(whole + b"x"))


def test_offers_are_in_one_order_whatever_the_senders_was() -> None:
    two = (replace(offer(1), name=parse_model_name("b")), replace(offer(1), name=parse_model_name("a")))
    assert encode_heads(heads(offers=two)) == encode_heads(heads(offers=two[::-1]))
