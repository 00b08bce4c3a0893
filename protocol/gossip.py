"""Announcements: what a node keeps, refuses, and asks its neighbours for.

Every announcement is an envelope of domain "gossip" whose context is the topic and whose
payload is a `Note`: a number that grows by one per announcement of its sender, and the
content.  The log here is a pure value machine.  It never sends; it says what is new, what
a neighbour lacks, and what to ask for.  Pushing is only a short cut: whatever a push
loses, the comparison of number ranges (`known`, `missing`) brings back.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable

import msgspec

from protocol.envelope import open_envelope, seal
from protocol.errors import GossipIgnore, GossipReject, LocalProtocolError
from protocol.types import Digest, Millis, PublicKey, digest
from protocol.wire import Message, decode, encode

DOMAIN = "gossip"
TOPIC_LIMIT_BYTES = 256
PAYLOAD_LIMIT_BYTES = 1 << 16
SEALED_LIMIT_BYTES = PAYLOAD_LIMIT_BYTES + 1024
"""Announcements are small; bulk travels as blobs and only its digest is announced."""

KEEP_NOTES = 512
KEEP_BYTES = 1 << 20
"""What is kept per sender for repair.  64 members cost at most 64 MiB."""

BATCH_LIMIT_BYTES = 1 << 19
FUTURE_LIMIT_MS = 86_400_000
"""Numbers start at the sender's clock; one further ahead than a day is refused, so that
a broken clock cannot push a sender's window out of everybody's reach."""


class Note(Message, frozen=True, tag="note"):
    """The signed payload of an announcement."""

    number: int
    content: bytes


class Known(Message, frozen=True, tag="known"):
    """What a node has of one sender: all below `floor`, and the closed `runs`."""

    sender: bytes
    floor: int
    runs: tuple[tuple[int, int], ...]


class Pull(Message, frozen=True, tag="pull"):
    """Ask for what this list lacks."""

    known: tuple[Known, ...]


class Batch(Message, frozen=True, tag="batch"):
    """Sealed announcements; `more` says that the answer was cut at its limit."""

    sealed: tuple[bytes, ...]
    more: bool


class Heard(msgspec.Struct, frozen=True):
    """A valid announcement that was not known before."""

    sender: PublicKey
    number: int
    topic: str
    content: bytes
    sealed: bytes


class _Window:
    """The newest announcements of one sender, by number."""

    def __init__(self) -> None:
        self.floor = 0
        self.size = 0
        self.notes: dict[int, bytes] = {}

    def add(self, number: int, sealed: bytes) -> list[bytes]:
        """Keep one and return those that had to go."""
        self.notes[number] = sealed
        self.size += len(sealed)
        gone: list[bytes] = []
        while len(self.notes) > KEEP_NOTES or self.size > KEEP_BYTES:
            oldest = min(self.notes)
            gone.append(self.notes.pop(oldest))
            self.size -= len(gone[-1])
            self.floor = oldest + 1
        return gone

    def runs(self) -> tuple[tuple[int, int], ...]:
        runs: list[tuple[int, int]] = []
        for number in sorted(self.notes):
            if runs and runs[-1][1] == number - 1:
                runs[-1] = (runs[-1][0], number)
            else:
                runs.append((number, number))
        return tuple(runs)


class GossipLog:
    """One node's announcements, its own and those of the other members."""

    def __init__(
        self,
        own: PublicKey,
        sign: Callable[[bytes], bytes],
        is_member: Callable[[PublicKey], bool],
        start: Millis,
    ) -> None:
        """`start` is the wall clock: a restarted node goes on above its old numbers."""
        self._own = own
        self._sign = sign
        self._is_member = is_member
        self._next = int(start)
        self._windows: dict[PublicKey, _Window] = {}
        self._seen: set[Digest] = set()

    def announce(self, topic: str, content: bytes) -> bytes:
        """Number, seal and keep a message of our own."""
        if not 0 < len(topic.encode()) <= TOPIC_LIMIT_BYTES:
            raise LocalProtocolError(
                f"topic has {len(topic.encode())} bytes, limit is {TOPIC_LIMIT_BYTES}"
            )
        if len(content) > PAYLOAD_LIMIT_BYTES:
            raise LocalProtocolError(
                f"announcement has {len(content)} bytes, limit is {PAYLOAD_LIMIT_BYTES}"
            )
        note = encode(Note(self._next, content))
        sealed = seal(self._sign, DOMAIN, self._own, topic.encode(), note)
        self._keep(self._own, self._next, sealed)
        self._next += 1
        return sealed

    def inspect(self, sealed: bytes, now: Millis) -> Heard:
        """Check a message from the network; it counts as known only after `record`.

        Raises `GossipIgnore` for what is known, too old, ours or from a stranger;
        `GossipReject`, `MalformedMessageError` or `SignatureError` for what no honest
        node sends.
        """
        if digest(sealed) in self._seen:
            raise GossipIgnore("known already")
        envelope = open_envelope(sealed, DOMAIN, limit_bytes=SEALED_LIMIT_BYTES)
        sender = PublicKey(envelope.sender)
        note = decode(envelope.payload, Note)
        if not 0 <= note.number <= now + FUTURE_LIMIT_MS:
            raise GossipReject(f"number {note.number} is outside 0..now + one day")
        if len(note.content) > PAYLOAD_LIMIT_BYTES:
            raise GossipReject(f"announcement has {len(note.content)} bytes")
        if sender == self._own:
            self._adopt(note.number, sealed)
            raise GossipIgnore("our own")
        if not self._is_member(sender):
            raise GossipIgnore(f"sender {sender.hex()} is not a member")
        window = self._windows.get(sender)
        if window is not None and note.number < window.floor:
            raise GossipIgnore(f"number {note.number} is below {window.floor}")
        if window is not None and note.number in window.notes:
            raise GossipReject(f"number {note.number} has two different contents")
        return Heard(
            sender, note.number, _topic(envelope.context), note.content, sealed
        )

    def record(self, heard: Heard) -> None:
        """Keep an inspected message; from here on it is known."""
        self._keep(heard.sender, heard.number, heard.sealed)

    def forget_strangers(self) -> None:
        """Drop what former members said."""
        for sender in [key for key in self._windows if not self._may_keep(key)]:
            window = self._windows.pop(sender)
            self._seen.difference_update(map(digest, window.notes.values()))

    def known(self) -> Pull:
        """What we have, to ask a neighbour for the rest."""
        return Pull(
            tuple(
                Known(sender, window.floor, window.runs())
                for sender, window in sorted(self._windows.items())
            )
        )

    def missing(self, pull: Pull) -> Batch:
        """What we have and `pull` lacks, oldest first per sender, up to the limit."""
        has = {PublicKey(entry.sender): entry for entry in pull.known}
        chosen: list[bytes] = []
        size = 0
        for sender, window in sorted(self._windows.items()):
            for number in _lacking(sorted(window.notes), has.get(sender)):
                sealed = window.notes[number]
                size += len(sealed)
                if size > BATCH_LIMIT_BYTES:
                    return Batch(tuple(chosen), more=True)
                chosen.append(sealed)
        return Batch(tuple(chosen), more=False)

    def _may_keep(self, sender: PublicKey) -> bool:
        return sender == self._own or self._is_member(sender)

    def _adopt(self, number: int, sealed: bytes) -> None:
        """Our words from an earlier life: our clock stood further on then."""
        self._next = max(self._next, number + 1)
        window = self._windows.get(self._own)
        if window is None or (number >= window.floor and number not in window.notes):
            self._keep(self._own, number, sealed)

    def _keep(self, sender: PublicKey, number: int, sealed: bytes) -> None:
        window = self._windows.setdefault(sender, _Window())
        self._seen.add(digest(sealed))
        self._seen.difference_update(map(digest, window.add(number, sealed)))


def _topic(context: bytes) -> str:
    if not 0 < len(context) <= TOPIC_LIMIT_BYTES:
        raise GossipReject(f"topic has {len(context)} bytes")
    try:
        return context.decode()
    except UnicodeDecodeError as error:
        raise GossipReject("topic is not UTF-8") from error


def _lacking(numbers: Iterable[int], known: Known | None) -> list[int]:
    if known is None:
        return list(numbers)
    runs = sorted(known.runs)
    starts = [first for first, _ in runs]

    def covered(number: int) -> bool:
        index = bisect_right(starts, number) - 1
        return number < known.floor or (index >= 0 and number <= runs[index][1])

    return [number for number in numbers if not covered(number)]
