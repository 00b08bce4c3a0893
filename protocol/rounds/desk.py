"""Where a member writes before it speaks (§7.1).

Everything a member promises goes through here: it is signed once, recorded under a key that
says where it stands, and only then sent.  Saying it again sends the recorded bytes.  After a
restart the records are all that is left, and they are enough: the law of this file is that
no place ever holds two different statements of this node.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from protocol.certificate import (
    Proposal,
    Slot,
    Step,
    Verify,
    Vote,
    check_votes,
    speak,
)
from protocol.decide import About
from protocol.envelope import SIGNATURE_BYTES, Envelope
from protocol.errors import VerificationError
from protocol.rounds.events import Accuse, Effect, Forget, Persist, Publish, Send
from protocol.rounds.messages import LIMIT_BYTES, Body, Heard, Said, say
from protocol.rounds.policy import Cohort
from protocol.types import Digest, PublicKey
from protocol.wire import Message, decode, encode

RECORD_LIMIT_BYTES = 1 << 21
"""The largest record holds an opening's certificate and 64 pre-keys of 10 KiB."""


SILENT = "silent"
"""Record of a member that lost its disk: the round from which on it votes on openings."""


class Keyring(Protocol):
    """The node's secrets and its chance, as functions."""

    def sign(self, message: bytes) -> bytes: ...

    def agree(self, seal_key: bytes) -> bytes: ...

    def fresh(self, count: int) -> bytes: ...


class Cast(Message, frozen=True, tag="cast"):
    """Record of a vote or proposal: its envelope and what it is about."""

    envelope: bytes
    value: bytes
    proof: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class Ballot:
    """A recorded vote or proposal, read back."""

    body: Vote | Proposal
    signature: bytes
    about: About


class Desk:
    """Signs, records, sends: in that order, once per place."""

    def __init__(
        self,
        me: PublicKey,
        run: bytes,
        keys: Keyring,
        verify: Verify,
        records: dict[str, bytes],
    ) -> None:
        self.me = me
        self.run = run
        self.keys = keys
        self.verify = verify
        self.records = records
        self.shunned: set[bytes] = set()
        """Members of whom this node has shown since its start what keeps others out of sums."""
        self._effects: list[Effect] = []

    def drain(self) -> list[Effect]:
        """Effects since the last call, in order."""
        out, self._effects = self._effects, []
        return out

    def do(self, effect: Effect) -> None:
        """Ask for something that needs no record."""
        self._effects.append(effect)

    def persist(self, key: str, value: bytes) -> None:
        """Record `value`; nothing asked for later is done before it is on disk."""
        self.records[key] = value
        self._effects.append(Persist(key, value))

    def forget(self, keys: Iterable[str], blobs: Iterable[Digest] = ()) -> None:
        """Delete records and blobs for good."""
        gone = tuple(sorted(key for key in set(keys) if key in self.records))
        for key in gone:
            del self.records[key]
        dropped = tuple(sorted(set(blobs)))
        if gone or dropped:
            self._effects.append(Forget(gone, dropped))

    def say(
        self, key: str, context: bytes, number: int, attempt: int, body: Body
    ) -> Heard:
        """Put `body` on record under `key` and tell everyone; a second time, the same bytes."""
        envelope = self.records.get(key)
        if envelope is not None:
            self.do(Publish(envelope))
            return self.own(envelope)
        envelope = self.sealed(context, number, attempt, body)
        self.persist(key, envelope)
        self.do(Publish(envelope))
        signature = _signature_of(envelope)
        return Heard(
            self.me, context, self.run, number, attempt, body, signature, envelope
        )

    def sealed(self, context: bytes, number: int, attempt: int, body: Body) -> bytes:
        """The envelope of `body`, without a record: for what promises nothing."""
        said = Said(self.run, number, attempt, body)
        return say(self.keys.sign, self.me, context, said)

    def own(self, envelope: bytes) -> Heard:
        """A statement of this node, as the others hear it."""
        outer = decode(envelope, Envelope, limit_bytes=LIMIT_BYTES)
        said = decode(outer.payload, Said, limit_bytes=LIMIT_BYTES)
        return Heard(
            outer.sender,
            outer.context,
            said.run,
            said.round,
            said.attempt,
            said.body,
            outer.signature,
            envelope,
        )

    def cast(self, body: Vote | Proposal, about: About) -> bytes:
        """Record a vote or proposal with what it is about, send it, return its signature."""
        key = ballot_key(body)
        record = self.records.get(key)
        if record is None:
            envelope = speak(self.keys.sign, self.me, body)
            self.persist(key, encode(Cast(envelope, about.value, about.proof)))
        else:
            envelope = decode(record, Cast, limit_bytes=RECORD_LIMIT_BYTES).envelope
        self.do(Publish(envelope))
        return _signature_of(envelope)

    def proves(
        self, cohort: Cohort, vote: Vote, votes: Sequence[tuple[int, bytes]]
    ) -> bool:
        """Are these a quorum of the cohort's signatures on `vote`?"""
        try:
            check_votes(
                vote, votes, cohort.members, cohort.thresholds.quorum, self.verify
            )
        except VerificationError:
            return False
        return True

    def newest_ballots(self, slot: Slot) -> list[bytes]:
        """Envelopes of what this node cast in the last two views it cast anything in.

        A member may be alone in the newest: the others then wait for its precommit of the one
        before.  Of those two or more behind, a quorum's precommits make more than can lie be
        ahead, which is enough to follow.
        """
        prefix = slot_prefix(slot)
        views: dict[int, list[bytes]] = {}
        for key, record in self.records.items():
            if key.startswith(prefix):
                view = int(key.removeprefix(prefix).split("/")[0])
                cast = decode(record, Cast, limit_bytes=RECORD_LIMIT_BYTES)
                views.setdefault(view, []).append(cast.envelope)
        return [each for view in sorted(views)[-2:] for each in views[view]]

    def ballots(self, prefix: str) -> list[Ballot]:
        """What this node has cast in one slot, views in order."""
        out = []
        for key, record in self.records.items():
            if key.startswith(prefix):
                out.append(
                    _ballot(decode(record, Cast, limit_bytes=RECORD_LIMIT_BYTES))
                )
        return sorted(out, key=lambda ballot: ballot.body.view)

    def send(self, member: bytes, envelopes: Iterable[bytes]) -> None:
        for envelope in envelopes:
            self.do(Send(member, envelope))

    def accuse(
        self, member: bytes, reason: str, *evidence: bytes, shun: bool = False
    ) -> None:
        """`shun`: what it did costs an honest member its place: open without it, if you can."""
        if shun:
            self.shunned.add(member)
        self.do(Accuse(member, reason, evidence))


def _signature_of(envelope: bytes) -> bytes:
    """The signature is the envelope's last field, its bytes the last of the encoding."""
    return envelope[-SIGNATURE_BYTES:]


def slot_prefix(slot: Slot) -> str:
    """Where the ballots of one slot are recorded."""
    return f"{slot.round}/ballot/{slot.name().hex()}/"


def ballot_key(body: Vote | Proposal) -> str:
    step = "proposal" if isinstance(body, Proposal) else Step(body.step).name.lower()
    return f"{slot_prefix(body.slot)}{body.view}/{step}"


def _ballot(cast: Cast) -> Ballot:
    outer = decode(cast.envelope, Envelope, limit_bytes=LIMIT_BYTES)
    body = decode(outer.payload, _Ballots, limit_bytes=LIMIT_BYTES)
    return Ballot(body, outer.signature, About(cast.value, cast.proof))


_Ballots: type[Vote | Proposal] = Vote | Proposal  # type: ignore[assignment] # a union decodes like a type
