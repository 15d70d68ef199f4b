"""What linking and unlinking change here, kept together or not at all: the peer, and the own feed's word about it.

Source: specs/0005, "Link again, unlink", and specs/0013, "Trust".
"""

from protocol.scope import Scope
from store.errors import FeedBehind, FeedForked
from store.feeds import Feeds
from store.peers import LinkedPeer, Peers


class Linking:
    """Makes and ends links in the encrypted database. `peers` and `feeds` are of one database."""

    def __init__(self, peers: Peers, feeds: Feeds) -> None:
        self._peers = peers
        self._feeds = feeds

    def link(self, peer: LinkedPeer) -> None:
        """Keep a link that both people accepted, or change it; with its scope the device enters or leaves the chats.

        Raises:
            FeedForked, FeedBehind: the feed cannot say so; nothing was kept.
        """
        with self._feeds.database.transaction():
            self._peers.add(peer)
            self._feeds.note_device(peer.did, peer.nickname, added=peer.scope is Scope.OWN)

    def unlink(self, peer: LinkedPeer, now_s: int) -> bool:
        """End a link; return whether the feed says so too.

        Where it cannot, the device is refused here all the same, and `Feeds.tell_removals` says so later.
        """
        with self._feeds.database.transaction():
            self._peers.remove(peer.did, now_s)
            try:
                self._feeds.note_device(peer.did, peer.nickname, added=False)
            except (FeedForked, FeedBehind):
                return False
            return True
