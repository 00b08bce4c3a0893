"""One fetch of one blob, over every size that its holders claim."""

import logging
from collections.abc import Sequence

from node.adapters.libp2p.collection import HOLDERS, Collection
from node.adapters.libp2p.wanted import Wanted
from node.adapters.partial_blob import earlier_size
from node.errors import AccessError, NodeError, TransportError
from node.ports.transport import Fetched
from protocol.types import PeerId

logger = logging.getLogger(__name__)


async def fetch(wanted: Wanted, peers: Sequence[PeerId]) -> Fetched:
    """Collect, check and commit; raises the one holder's error, or one naming them all.

    A size is a claim like any other.  Holders that claim the one an interrupted fetch
    was collecting come first, then that of whoever answers first, then the others.
    """
    waiting = list(dict.fromkeys(peers))[:HOLDERS]
    size = earlier_size(wanted.blobs, wanted.digest)
    otherwise: set[PeerId] = set()
    while waiting:
        collection = Collection(wanted, waiting, size)
        if await collection.run():
            wanted.liars |= otherwise
            for peer in wanted.liars:
                logger.warning("lied blob=%s peer=%s", wanted.digest.hex(), peer)
            return Fetched(dict(wanted.sources), frozenset(wanted.liars))
        otherwise |= collection.agreed
        waiting = [peer for peer in waiting if peer in collection.dissenters]
        size = None
    raise _failure(wanted)


def _failure(wanted: Wanted) -> NodeError:
    errors = wanted.errors
    if len(errors) == 1:
        return next(iter(errors.values()))
    refused = all(isinstance(error, AccessError) for error in errors.values())
    kind = AccessError if errors and refused else TransportError
    told = "; ".join(f"{peer}: {error}" for peer, error in errors.items())
    return kind(
        f"no holder gave blob {wanted.digest.hex()}: {told or 'none was named'}",
        hint="fetch it again to go on with what has arrived",
    )
