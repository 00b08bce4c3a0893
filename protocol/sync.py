"""Fetch a state that others hold, chunk by chunk, from several of them (docs/protocol.md §7.5).

The root is known from a certificate, so nobody has to be believed: the list of chunk digests
must hash to the root, and each chunk to its digest.  A donor that fails is tried again later
and after the others, one that sends something else is not tried again.  What is on disk already is not fetched, so
a restart costs only the chunks that were on their way.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from protocol import merkle
from protocol.errors import LocalProtocolError
from protocol.types import DIGEST_BYTES, Digest, Millis
from protocol.wire import Message

CHUNK_BYTES = 1 << 20
"""What a state's Merkle leaves are made of, and what is asked for at a time."""
CHUNKS_AT_MOST = 65_536
"""64 GiB; a longer list could not be sent in one message."""
PER_DONOR = 2
"""Requests on their way to one donor: the next leaves before the last has come."""
PAUSE_MS = 2_000
"""How long a donor that failed is left alone."""

LIST_PROTOCOL, CHUNK_PROTOCOL = "/rexis/state-list/1", "/rexis/state-chunk/1"


class ListRequest(Message, frozen=True, tag="state-list"):
    """Which chunks make up this state of a run?  For its members only."""

    run: bytes
    root: bytes


class ListAnswer(Message, frozen=True, tag="state-leaves"):
    """Leaf digests (`merkle.leaf_digest`) in order."""

    leaves: tuple[bytes, ...]


class ChunkRequest(Message, frozen=True, tag="state-chunk"):
    """One chunk; the answer is its bytes."""

    run: bytes
    root: bytes
    index: int


def list_fault(leaves: Sequence[bytes], root: Digest, size_bytes: int) -> str:
    """Why these are not the leaves of the state called `root`; empty if they are.

    The root alone does not tell: two leaves of 31 and 33 bytes hash like twice 32, and the
    level above the leaves has the same root.  Who took such a list for the right one would
    find every chunk wrong, and blame whoever sent it.
    """
    count = -(-size_bytes // CHUNK_BYTES)
    if not 0 < count <= CHUNKS_AT_MOST:
        return f"a state of {size_bytes} bytes, limit is {CHUNKS_AT_MOST} chunks"
    if len(leaves) != count:
        return f"a list of {len(leaves)} chunks, need {count}"
    odd = next((leaf for leaf in leaves if len(leaf) != DIGEST_BYTES), None)
    if odd is not None:
        return f"a leaf digest of {len(odd)} bytes, need {DIGEST_BYTES}"
    return "" if merkle.root_of_digests(leaves) == root else "a list of another state"


# Events -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Begun:
    """The first event."""


@dataclass(frozen=True)
class Listed:
    """A donor's list."""

    donor: bytes
    leaves: tuple[Digest, ...]


@dataclass(frozen=True)
class Stored:
    """A chunk with the right digest is on disk."""

    donor: bytes
    index: int


@dataclass(frozen=True)
class Found:
    """These chunks of the list were on disk already."""

    indexes: frozenset[int]


@dataclass(frozen=True)
class Failed:
    """A donor did not answer, or does not hold the state; `lied`: it sent something else."""

    donor: bytes
    index: int | None
    """None: it was asked for the list."""
    lied: bool = False


@dataclass(frozen=True)
class Donors:
    """Members that say they hold the state now."""

    donors: tuple[bytes, ...]


@dataclass(frozen=True)
class Tick:
    """Time passed."""


Event = Begun | Listed | Stored | Found | Failed | Donors | Tick


# Effects ------------------------------------------------------------------------------


@dataclass(frozen=True)
class AskList:
    """Ask `donor` for the list; answer with `Listed` or `Failed`."""

    donor: bytes
    root: Digest


@dataclass(frozen=True)
class LookUp:
    """Which of these chunks are on disk?  Answer with `Found`."""

    leaves: tuple[Digest, ...]


@dataclass(frozen=True)
class AskChunk:
    """Ask for a chunk and check its leaf digest; answer with `Stored` or `Failed`."""

    donor: bytes
    root: Digest
    index: int
    leaf: Digest


@dataclass(frozen=True)
class Complete:
    """Every chunk is on disk; join them."""

    root: Digest
    leaves: tuple[Digest, ...]


Effect = AskList | LookUp | AskChunk | Complete


@dataclass
class _Donor:
    busy: set[int] = field(default_factory=set)
    again_at: int = 0
    barred: bool = False


class StateSync:
    """One download, until it is complete."""

    def __init__(self, root: Digest, size_bytes: int, donors: Sequence[bytes]) -> None:
        self.root = root
        self.leaves: tuple[Digest, ...] | None = None
        self.done = False
        self._size_bytes = size_bytes
        self._donors = {name: _Donor() for name in donors}
        self._listing: bytes | None = None
        self._missing: set[int] = set()
        self._looked = False

    @property
    def missing(self) -> int:
        """Chunks still to come, for whoever watches."""
        return len(self._missing)

    def handle(self, event: Event, now: Millis) -> list[Effect]:
        """One event; what to ask next."""
        if self.done:
            return []
        effects: list[Effect] = []
        match event:
            case Listed():
                effects += self._listed(event, now)
            case Found():
                self._missing -= event.indexes
                self._looked = True
            case Stored():
                self._missing.discard(event.index)
                self._of(event.donor).busy.discard(event.index)
            case Failed():
                self._failed(event, now)
            case Donors():
                for name in event.donors:
                    self._donors.setdefault(name, _Donor())
            case _:
                pass
        return effects + self._advance(now)

    def barred(self) -> tuple[bytes, ...]:
        """Donors that sent something else than they were asked for."""
        return tuple(name for name, donor in self._donors.items() if donor.barred)

    def _advance(self, now: Millis) -> list[Effect]:
        if self.leaves is None:
            return self._ask_list(now)
        if not self._looked:
            return []
        if not self._missing:
            self.done = True
            return [Complete(self.root, self.leaves)]
        return self._ask_chunks(self.leaves, now)

    def _ask_list(self, now: Millis) -> list[Effect]:
        if self._listing is None:
            for name in self._usable(now):
                self._listing = name
                return [AskList(name, self.root)]
        return []

    def _ask_chunks(self, leaves: tuple[Digest, ...], now: Millis) -> list[Effect]:
        under_way = {i for donor in self._donors.values() for i in donor.busy}
        waiting = iter(sorted(self._missing - under_way))
        effects: list[Effect] = []
        # One each, then a second each: the fast donor gets more only by being done earlier.
        for turn in range(PER_DONOR):
            for name in self._usable(now):
                donor = self._donors[name]
                if len(donor.busy) > turn:
                    continue
                index = next(waiting, None)
                if index is None:
                    return effects
                donor.busy.add(index)
                effects.append(AskChunk(name, self.root, index, leaves[index]))
        return effects

    def _listed(self, event: Listed, now: Millis) -> list[Effect]:
        if event.donor == self._listing:
            self._listing = None
        if self.leaves is not None:
            return []
        if list_fault(event.leaves, self.root, self._size_bytes):
            self._failed(Failed(event.donor, None, lied=True), now)
            return []
        self.leaves = event.leaves
        self._missing = set(range(len(event.leaves)))
        return [LookUp(event.leaves)]

    def _failed(self, event: Failed, now: Millis) -> None:
        donor = self._of(event.donor)
        # To the end: a donor that keeps failing is not the first one asked each time.
        self._donors[event.donor] = self._donors.pop(event.donor)
        donor.again_at = now + PAUSE_MS
        donor.barred = donor.barred or event.lied
        if event.index is None:
            if self._listing == event.donor:
                self._listing = None
        else:
            donor.busy.discard(event.index)

    def _usable(self, now: Millis) -> Iterable[bytes]:
        for name, donor in self._donors.items():
            if not donor.barred and now >= donor.again_at:
                yield name

    def _of(self, name: bytes) -> _Donor:
        donor = self._donors.get(name)
        if donor is None:
            raise LocalProtocolError(f"{name.hex()[:16]} is no donor of this state")
        return donor
