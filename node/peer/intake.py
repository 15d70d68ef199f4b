"""Offers on their way in: bundle fetched and verified, its log followed, and only then kept (specs/0011)."""

import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

import trio

from identity.did import DeviceId
from node.errors import OfferMalformed, OfferRefused, OfferUnproven
from node.net.access import Access
from node.net.streams import PeerStream
from node.net.transport import Transport
from node.peer.origins import Origins
from node.peer.shelf import Shelf
from node.threads import Threads
from protocol.digest import Digest, digest_of
from protocol.errors import ManifestInvalid, ProvenanceInvalid
from protocol.heads import (
    MAX_BUNDLE_FRAME_BYTES,
    MAX_REQUEST_BYTES,
    PROVENANCE_PROTOCOL,
    BundleRequest,
    decode_bundle,
    decode_bundle_request,
    encode_bundle,
    encode_bundle_request,
)
from protocol.manifest import parse_manifest
from protocol.model_name import ModelName, parse_model_name
from protocol.provenance import Provenance, decode_and_verify_provenance
from protocol.refusal import RefusalCode
from store.offers import Offer, Offers

REQUEST_S: Final = 30.0
MAX_WAITING: Final = 16

_log = logging.getLogger("tilenode.offers")


@dataclass(frozen=True)
class Claim:
    """What somebody says that `peer` offers; `name` is None where it is not said, as in an announcement."""

    peer: DeviceId
    publisher: DeviceId
    name: ModelName | None
    manifest: Digest
    bundle: Digest


class Intake:
    """Turns claims into offers, and serves the bundles of this node's own offers."""

    def __init__(self, transport: Transport, origins: Origins, shelf: Shelf, offers: Offers, threads: Threads) -> None:
        self._transport = transport
        self._origins = origins
        self._shelf = shelf
        self._offers = offers
        self._threads = threads
        # Verified bundles whose logs could not be followed yet: they are not fetched again at every contact.
        self._waiting: OrderedDict[Digest, Provenance] = OrderedDict()
        transport.handle(PROVENANCE_PROTOCOL, self._serve_bundle, access=Access.LINKED)

    async def accept(self, claim: Claim) -> Offer:
        """Return the offer once everything about it is verified; it is not stored here.

        Raises:
            OfferRefused: the bundle does not verify or says something else; asking again will not help.
            OriginStopped: the publisher signed two logs.
            LogBehind, ConsistencyInvalid, PeerUnreachable, RemoteRefused, StreamClosed, TooSlowError: not now.
        """
        await self._origins.require_honest(claim.publisher)
        known = await self.known(claim)
        if known is not None:
            return known
        provenance = self._waiting.get(claim.bundle)
        if provenance is None:
            provenance = await self.fetch_provenance(claim.peer, claim.manifest, claim.bundle)
        _require_same(claim, provenance)
        self._wait(claim.bundle, provenance)
        await self._origins.follow(provenance.publisher, provenance.checkpoint)
        self._waiting.pop(claim.bundle, None)
        offer = Offer(
            peer=claim.peer,
            publisher=provenance.publisher,
            name=parse_model_name(provenance.name),
            manifest=provenance.manifest_digest,
            bundle=claim.bundle,
            size_bytes=parse_manifest(provenance.manifest).size_bytes,
            log_size=provenance.log_size,
        )
        _log.info(
            "offer_accepted", extra={"peer": claim.peer, "publisher": offer.publisher, "manifest": offer.manifest}
        )
        return offer

    async def known(self, claim: Claim) -> Offer | None:
        """Return the offer if the same bundle was verified before, whoever offered it then."""
        for offer in await self._threads.database(self._offers.of_manifest, claim.manifest):
            same = (offer.publisher, offer.bundle) == (claim.publisher, claim.bundle)
            if same and claim.name in (None, offer.name):
                return replace(offer, peer=claim.peer)
        return None

    async def fetch_provenance(self, peer: DeviceId, manifest: Digest, bundle: Digest) -> Provenance:
        """Return the verified provenance that `peer` serves under these digests.

        Raises:
            OfferRefused: what came is not that bundle, or does not verify.
            PeerUnreachable, RemoteRefused, StreamClosed, TooSlowError: it did not come.
        """
        content = await self.fetch_bundle(peer, manifest, bundle)
        try:
            return await self._threads.store(decode_and_verify_provenance, content)
        except ProvenanceInvalid as error:
            refused = OfferMalformed if isinstance(error.__cause__, ManifestInvalid) else OfferUnproven
            raise refused(peer, manifest, str(error)) from error

    async def fetch_bundle(self, peer: DeviceId, manifest: Digest, bundle: Digest) -> bytes:
        """Return the bundle with the digest `bundle`, of at most 1 MiB. Raises as `fetch_provenance`."""
        with trio.fail_after(REQUEST_S):
            async with self._transport.open(peer, PROVENANCE_PROTOCOL) as stream:
                await stream.send(encode_bundle_request(BundleRequest(manifest, bundle)))
                content = decode_bundle(await stream.receive(MAX_BUNDLE_FRAME_BYTES))
        if digest_of(content) != bundle:
            raise OfferRefused(peer, manifest, "the bundle does not hash to its name")
        return content

    def _wait(self, bundle: Digest, provenance: Provenance) -> None:
        self._waiting[bundle] = provenance
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)

    async def _serve_bundle(self, stream: PeerStream) -> None:
        with trio.fail_after(REQUEST_S):
            request = decode_bundle_request(await stream.receive(MAX_REQUEST_BYTES))
            content = await self._shelf.bundle(request.manifest, request.bundle)
            if content is None:
                await stream.refuse(RefusalCode.NOT_FOUND, "not offered here")
            else:
                await stream.send(encode_bundle(content))


def _require_same(claim: Claim, provenance: Provenance) -> None:
    if provenance.manifest_digest != claim.manifest:
        raise OfferRefused(claim.peer, claim.manifest, "the bundle is of another manifest")
    if provenance.publisher != claim.publisher:
        raise OfferRefused(claim.peer, claim.manifest, f"the bundle is by {provenance.publisher}")
    if claim.name is not None and parse_model_name(provenance.name) != claim.name:
        raise OfferRefused(claim.peer, claim.manifest, f"the bundle names it {provenance.name[:80]}")


def offer_event(offer: Offer) -> dict[str, object]:
    """Return the event that tells about a new offer."""
    return {
        "event": "offer",
        "peer": offer.peer,
        "publisher": offer.publisher,
        "name": str(offer.name),
        "manifest": offer.manifest,
        "size_bytes": offer.size_bytes,
    }
