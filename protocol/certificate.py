"""Votes on one slot, and the certificate a quorum of them makes (docs/protocol.md §6.1).

A slot is a question with one answer for ever: which members open an attempt, whose updates
are summed, whether the sum is accepted.  A certificate is the answer with a quorum's
signatures under it; whoever knows the members can check it without having been there.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache

from protocol.envelope import SIGNATURE_BYTES, seal, signing_bytes
from protocol.errors import MalformedMessageError, VerificationError
from protocol.types import DIGEST_BYTES, Digest, PublicKey, digest
from protocol.wire import Message, encode

DOMAIN = "decide"
VALUE_LIMIT_BYTES = 1 << 15
"""Half of what an announcement may carry; the other half is room for the proof."""

SLOTS_KEPT = 128
"""Names remembered: an attempt asks three questions, and every vote on one names it.  Each is of a
message's size at most, so all together of 8 MiB, whatever a liar fills them with."""
VALUES_KEPT = 64
"""The same of values, which are looked at with every vote: 4 MiB of them at most."""

NOTHING = b""
"""A vote for no value in this view."""

Verify = Callable[[bytes, bytes, bytes], bool]
"""(key, message, signature) -> does it hold; Ed25519 outside of large simulations."""


class Kind(IntEnum):
    """The three questions of a round, in the order they are asked."""

    OPEN = 1
    SURVIVORS = 2
    VERDICT = 3


class Step(IntEnum):
    """The two votes a member has in one view."""

    PREVOTE = 1
    PRECOMMIT = 2


_KINDS, _STEPS = frozenset(Kind), frozenset(Step)


class Slot(Message, frozen=True, tag="slot"):
    """Where an answer belongs."""

    run: bytes
    epoch: bytes
    """Digest of the membership that votes."""
    round: int
    attempt: int
    kind: int
    context: bytes
    """Digest of the opening; for the opening itself, 32 zero bytes."""

    def name(self) -> Digest:
        return _slot_name(self)


@lru_cache(SLOTS_KEPT)
def _slot_name(slot: Slot) -> Digest:
    return digest(b"rexis-slot-1" + encode(slot))


class Vote(Message, frozen=True, tag="vote"):
    """`value` is the digest of the value voted for, or `NOTHING`."""

    slot: Slot
    step: int
    view: int
    value: bytes


class Proposal(Message, frozen=True, tag="proposal"):
    """A value for a view; `proof` are prevotes of an earlier view `valid_view`, or none (-1)."""

    slot: Slot
    view: int
    value: bytes
    valid_view: int
    proof: tuple[tuple[int, bytes], ...]


class Certificate(Message, frozen=True, tag="certificate"):
    """A decided value and a quorum of precommits: (place in the sorted members, signature)."""

    slot: Slot
    view: int
    value: bytes
    votes: tuple[tuple[int, bytes], ...]

    def check(self, members: Sequence[bytes], quorum: int, verify: Verify) -> None:
        """Raise `VerificationError` unless a quorum of `members` signed this value."""
        vote = Vote(self.slot, Step.PRECOMMIT, self.view, value_name(self.value))
        check_votes(vote, self.votes, members, quorum, verify)


@lru_cache(VALUES_KEPT)
def value_name(value: bytes) -> Digest:
    """What votes call a value."""
    return digest(b"rexis-value-1" + value)


def speak(
    sign: Callable[[bytes], bytes], sender: PublicKey, body: Vote | Proposal
) -> bytes:
    """The envelope of a vote or a proposal; its context is the slot."""
    return seal(sign, DOMAIN, sender, body.slot.name(), encode(body))


def check_votes(
    vote: Vote,
    votes: Sequence[tuple[int, bytes]],
    members: Sequence[bytes],
    quorum: int,
    verify: Verify,
) -> None:
    """Raise unless `votes` are a quorum of distinct members' signatures on `vote`."""
    places = [place for place, _ in votes]
    if places != sorted(set(places)) or not all(0 <= p < len(members) for p in places):
        raise VerificationError("certificate voters", "distinct members", places)
    if len(places) < quorum:
        raise VerificationError("certificate votes", quorum, len(places))
    context, payload = vote.slot.name(), encode(vote)
    for place, signature in votes:
        message = signing_bytes(DOMAIN, members[place], context, payload)
        if not verify(members[place], message, signature):
            raise VerificationError(f"signature of voter {place}")


def check_shape(body: Vote | Proposal) -> None:
    """Lengths and ranges, before anything is looked up."""
    slot = body.slot
    for name in ("run", "epoch", "context"):
        require_wire_length(name, getattr(slot, name), DIGEST_BYTES)
    if min(slot.round, slot.attempt, body.view) < 0 or slot.kind not in _KINDS:
        raise MalformedMessageError(
            f"slot {slot.round}/{slot.attempt}/{slot.kind}, view {body.view}"
        )
    if isinstance(body, Vote):
        if body.step not in _STEPS:
            raise MalformedMessageError(f"vote in step {body.step}")
        if body.value != NOTHING:
            require_wire_length("value digest", body.value, DIGEST_BYTES)
        return
    if len(body.value) > VALUE_LIMIT_BYTES:
        raise MalformedMessageError(
            f"value has {len(body.value)} bytes, limit is {VALUE_LIMIT_BYTES}"
        )
    if not -1 <= body.valid_view < body.view:
        raise MalformedMessageError(
            f"proposal of view {body.view} cites view {body.valid_view}"
        )
    for _, signature in body.proof:
        require_wire_length("signature", signature, SIGNATURE_BYTES)


def require_wire_length(name: str, value: bytes, length: int) -> None:
    """Refuse a stranger's field of the wrong length."""
    if len(value) != length:
        raise MalformedMessageError(f"{name} has {len(value)} bytes, needs {length}")


def places(
    votes: Mapping[bytes, bytes], members: Sequence[bytes]
) -> tuple[tuple[int, bytes], ...]:
    """Signatures by member as (place, signature), in order."""
    return tuple((i, votes[key]) for i, key in enumerate(members) if key in votes)
