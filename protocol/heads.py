"""Heads: what two linked nodes tell each other at every contact (specs/0011-heads-and-gossip).

One round on `/tilenode/heads/1` serves both sides and costs two small messages when nothing changed:

    opener   → greeting {mine, seen}        digest of its own heads, digest of the other's heads that it has settled
    answerer → answer {mine, want, heads?}  its heads when `seen` differs; `want` when it does not know the opener's
    opener   → heads {heads}                only when wanted
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from identity.did import DeviceId, parse_did
from identity.errors import IdentityError
from protocol.codec import Fields, decode_message, encode_message
from protocol.digest import Digest
from protocol.errors import FieldInvalid, ModelNameInvalid
from protocol.model_name import ModelName, format_model_name, parse_model_name
from protocol.text import clean_name

HEADS_PROTOCOL: Final = "/tilenode/heads/1"
PROVENANCE_PROTOCOL: Final = "/tilenode/provenance/1"
CONSISTENCY_PROTOCOL: Final = "/tilenode/consistency/1"

MAX_HEADS_BYTES: Final = 256 * 1024
MAX_HEADS_FRAME_BYTES: Final = MAX_HEADS_BYTES + 1024
MAX_REQUEST_BYTES: Final = 1024
MAX_BUNDLE_BYTES: Final = 1024 * 1024
MAX_BUNDLE_FRAME_BYTES: Final = MAX_BUNDLE_BYTES + 1024
MAX_PROOF_FRAME_BYTES: Final = 4096
MAX_NICKNAME_BYTES: Final = 256
MAX_ADDRESSES: Final = 16
MAX_ADDRESS_BYTES: Final = 256
MAX_NOTE_BYTES: Final = 4096
MAX_OTHER_CHECKPOINTS: Final = 16
MAX_OFFERS: Final = 256
MAX_NAME_BYTES: Final = 330
MAX_DID_BYTES: Final = 64
MAX_PROOF_HASHES: Final = 63
MAX_LOG_SIZE: Final = 2**63 - 1
NOTHING_SEEN: Final = bytes(32)


@dataclass(frozen=True, order=True)
class OfferedModel:
    """A model that a node holds and serves: its signed name, its manifest and the bundle that vouches for it."""

    name: ModelName
    manifest: Digest
    publisher: DeviceId
    bundle: Digest
    bundle_bytes: int


@dataclass(frozen=True)
class Heads:
    """All that one node tells another at a contact; `checkpoint` and `others` are signed notes, not yet verified."""

    nickname: str
    addresses: tuple[str, ...]
    checkpoint: bytes
    others: tuple[bytes, ...]
    offers: tuple[OfferedModel, ...]


@dataclass(frozen=True)
class Greeting:
    """The opener's first message: what it holds and what it has settled of the other's, as digests."""

    mine: bytes
    seen: bytes


@dataclass(frozen=True)
class Answer:
    """The answer to a greeting; `heads` is None when the opener has settled them already."""

    mine: bytes
    want: bool
    heads: bytes | None


def encode_heads(heads: Heads) -> bytes:
    """Return the canonical bytes of `heads`, the input of `heads_digest`; offers beyond the caps are our own bug."""
    return encode_message(
        "heads",
        nickname=heads.nickname,
        addresses=list(heads.addresses[:MAX_ADDRESSES]),
        checkpoint=heads.checkpoint,
        others=list(heads.others[:MAX_OTHER_CHECKPOINTS]),
        offers=[_offer_fields(offer) for offer in sorted(heads.offers)[:MAX_OFFERS]],
    )


def decode_heads(data: bytes) -> Heads:
    """Return the heads that `data` holds; the nickname is cleaned for display, the notes are not verified here.

    Raises:
        CodecInvalid: larger than 256 KiB or not canonical.
        FieldInvalid: an unknown version or field, a name or DID that is not in its canonical form, a cap exceeded.
    """
    fields = _message(data, MAX_HEADS_BYTES, "heads")
    heads = Heads(
        nickname=clean_name(fields.text("nickname", max=MAX_NICKNAME_BYTES)),
        addresses=fields.texts("addresses", max=MAX_ADDRESSES, max_each=MAX_ADDRESS_BYTES),
        checkpoint=fields.bytes("checkpoint", max=MAX_NOTE_BYTES),
        others=_notes(fields),
        offers=tuple(_parse_offer(each) for each in fields.each("offers", max=MAX_OFFERS)),
    )
    fields.done()
    return heads


def heads_digest(encoded: bytes) -> bytes:
    """Return the 32 bytes by which two nodes compare heads without sending them."""
    return hashlib.sha256(encoded).digest()


def encode_greeting(greeting: Greeting) -> bytes:
    """Return the opener's first message."""
    return encode_message("greeting", mine=greeting.mine, seen=greeting.seen)


def decode_greeting(data: bytes) -> Greeting:
    """Return the greeting in `data`.

    Raises:
        CodecInvalid, FieldInvalid: anything but the two 32-byte digests.
    """
    fields = _message(data, MAX_REQUEST_BYTES, "greeting")
    greeting = Greeting(fields.bytes("mine", length=32), fields.bytes("seen", length=32))
    fields.done()
    return greeting


def answer_greeting(greeting: Greeting, own: bytes, settled: bytes) -> Answer:
    """Return the answer to `greeting`; `own` are this node's encoded heads, `settled` what it settled of the opener."""
    mine = heads_digest(own)
    return Answer(mine, want=greeting.mine != settled, heads=None if greeting.seen == mine else own)


def encode_answer(answer: Answer) -> bytes:
    """Return the answer as a message."""
    optional = {} if answer.heads is None else {"heads": answer.heads}
    return encode_message("answer", mine=answer.mine, want=answer.want, **optional)


def decode_answer(data: bytes) -> Answer:
    """Return the answer in `data`; its heads, if any, hash to `mine`.

    Raises:
        CodecInvalid, FieldInvalid: not an answer, or heads that are not what `mine` says.
    """
    fields = _message(data, MAX_HEADS_FRAME_BYTES, "answer")
    heads = fields.bytes("heads", max=MAX_HEADS_BYTES) if fields.has("heads") else None
    answer = Answer(fields.bytes("mine", length=32), fields.bool("want"), heads)
    fields.done()
    if heads is not None and heads_digest(heads) != answer.mine:
        raise fields.invalid("heads", "do not hash to mine")
    return answer


@dataclass(frozen=True)
class BundleRequest:
    """Asks for one provenance bundle of a manifest, by its own digest."""

    manifest: Digest
    bundle: Digest


def encode_bundle_request(request: BundleRequest) -> bytes:
    """Return the request for a provenance bundle."""
    return encode_message("get", manifest=bytes.fromhex(request.manifest), bundle=bytes.fromhex(request.bundle))


def decode_bundle_request(data: bytes) -> BundleRequest:
    """Return the request in `data`.

    Raises:
        CodecInvalid, FieldInvalid: not such a request.
    """
    fields = _message(data, MAX_REQUEST_BYTES, "get")
    manifest, bundle = fields.bytes("manifest", length=32), fields.bytes("bundle", length=32)
    fields.done()
    return BundleRequest(Digest(manifest.hex()), Digest(bundle.hex()))


def encode_bundle(bundle: bytes) -> bytes:
    """Return the answer that carries a provenance bundle."""
    return encode_message("bundle", bundle=bundle)


def decode_bundle(data: bytes) -> bytes:
    """Return the bundle in `data`, not yet verified.

    Raises:
        CodecInvalid, FieldInvalid: not such an answer, or a bundle of more than 1 MiB.
    """
    fields = _message(data, MAX_BUNDLE_FRAME_BYTES, "bundle")
    bundle = fields.bytes("bundle", max=MAX_BUNDLE_BYTES)
    fields.done()
    return bundle


@dataclass(frozen=True)
class ProofRequest:
    """Asks the origin of a log to prove that its tree of `new` entries extends its tree of `old` entries."""

    origin: DeviceId
    old: int
    new: int


def encode_proof_request(request: ProofRequest) -> bytes:
    """Return the request for a consistency proof."""
    return encode_message("prove", origin=request.origin, old=request.old, new=request.new)


def decode_proof_request(data: bytes) -> ProofRequest:
    """Return the request in `data`; 0 ≤ old ≤ new.

    Raises:
        CodecInvalid, FieldInvalid: not such a request.
    """
    fields = _message(data, MAX_REQUEST_BYTES, "prove")
    new = fields.int("new", 0, MAX_LOG_SIZE)
    request = ProofRequest(_did(fields, "origin"), fields.int("old", 0, new), new)
    fields.done()
    return request


@dataclass(frozen=True)
class Proof:
    """A consistency proof; `old_root` is the root that the prover gives the smaller tree, evidence if it is another."""

    hashes: tuple[bytes, ...]
    old_root: bytes


def encode_proof(proof: Proof) -> bytes:
    """Return the answer that carries a consistency proof."""
    return encode_message("proof", hashes=list(proof.hashes), old_root=proof.old_root)


def decode_proof(data: bytes) -> Proof:
    """Return the proof in `data`: at most 63 hashes of 32 bytes each.

    Raises:
        CodecInvalid, FieldInvalid: not such an answer.
    """
    fields = _message(data, MAX_PROOF_FRAME_BYTES, "proof")
    hashes = _byte_strings(fields, "hashes", MAX_PROOF_HASHES, 32)
    old_root = fields.bytes("old_root", length=32)
    fields.done()
    if any(len(item) != 32 for item in hashes):
        raise fields.invalid("hashes", "expected hashes of 32 bytes")
    return Proof(tuple(hashes), old_root)


def _message(data: bytes, max_bytes: int, kind: str) -> Fields:
    found, fields = decode_message(data, max_bytes)
    if found != kind:
        raise FieldInvalid("message.t", f"expected {kind!r}, found {found!r}")
    return fields


def _offer_fields(offer: OfferedModel) -> dict[str, object]:
    return {
        "name": format_model_name(offer.name),
        "manifest": bytes.fromhex(offer.manifest),
        "publisher": offer.publisher,
        "bundle": bytes.fromhex(offer.bundle),
        "bundle_bytes": offer.bundle_bytes,
    }


def _parse_offer(fields: Fields) -> OfferedModel:
    offer = OfferedModel(
        name=_model_name(fields),
        manifest=Digest(fields.bytes("manifest", length=32).hex()),
        publisher=_did(fields, "publisher"),
        bundle=Digest(fields.bytes("bundle", length=32).hex()),
        bundle_bytes=fields.int("bundle_bytes", 1, MAX_BUNDLE_BYTES),
    )
    fields.done()
    return offer


def _model_name(fields: Fields) -> ModelName:
    text = fields.text("name", max=MAX_NAME_BYTES)
    try:
        name = parse_model_name(text)
    except ModelNameInvalid as error:
        raise fields.invalid("name", error.reason) from None
    if format_model_name(name) != text:
        raise fields.invalid("name", "not the canonical spelling")
    return name


def _did(fields: Fields, name: str) -> DeviceId:
    try:
        return parse_did(fields.text(name, max=MAX_DID_BYTES))
    except IdentityError:
        raise fields.invalid(name, "not a did:key of an Ed25519 key") from None


def _notes(fields: Fields) -> tuple[bytes, ...]:
    return tuple(_byte_strings(fields, "others", MAX_OTHER_CHECKPOINTS, MAX_NOTE_BYTES))


def _byte_strings(fields: Fields, name: str, max_items: int, max_each: int) -> list[bytes]:
    result: list[bytes] = []
    for index, value in enumerate(fields.list(name, max=max_items)):
        if not isinstance(value, bytes) or len(value) > max_each:
            raise fields.invalid(f"{name}[{index}]", f"expected at most {max_each} bytes")
        result.append(value)
    return result
