"""Masks that survive a drop-out: dealt keys, one certified set of survivors, then shares.

With four institutions or more, each deals a fresh pre-key for a question (`protocol.rounds.prekeys`):
a key for the pair masks and a seed for a mask of its own, both shared t-of-n among all who are
asked.  Its vector is sent under both.  Then every survivor signs **one** set of survivors, once for
ever; a quorum's signatures over the same set are its certificate, and only against that does anybody
give shares: of the seed of who is in the set, of the key of who is not.  So of nobody both are ever
opened while fewer than a third lie, and a vector that comes late stays masked by its seed.

Every survivor's own noise is whole, so less noise comes of fewer survivors, and no guarantee rests
on somebody who is gone.  The certificate needs a quorum, which is never fewer than three.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.aggregate.masks import apply, pair_key, self_key
from protocol.envelope import open_envelope, seal
from protocol.errors import MalformedMessageError, VerificationError
from protocol.queries.spec import Query, cells
from protocol.rounds import prekeys
from protocol.rounds.messages import SHARE_BYTES, PreKey, check_prekey
from protocol.rounds.policy import Cohort, Epoch, Policy, Seat
from protocol.rounds.prekeys import KEY, SEED, Dealt, Shares
from protocol.types import KEY_BYTES, Digest, PublicKey, digest
from protocol.wire import Message, decode, encode

RECOVERABLE = 4
"""Institutions from which on one may be lost; of three all are needed, or two would be summed."""
POLL_PROTOCOL, OPEN_PROTOCOL = "/rexis/query-poll/1", "/rexis/query-open/1"
READY_DOMAIN, VOTE_DOMAIN = "rexis/query-ready/1", "rexis/query-survivors/1"
READY_LIMIT_BYTES = 1 << 15
ASKED_LIMIT_BYTES = 1 << 21
OPEN_LIMIT_BYTES = 1 << 16
NUMBERS = 1 << 53
"""A pre-key's number is one of these, drawn: shares are sealed under a key of dealer, holder and
number, which may seal once, and a counter goes back with a store that is restored."""

Words = NDArray[np.uint64]
Sign = Callable[[bytes], bytes]


class Ready(Message, frozen=True, tag="query-ready"):
    """An institution would answer, under this key."""

    query: bytes
    prekey: PreKey


class Asked(Message, frozen=True, tag="query-of-all"):
    """A question as it is asked of everybody: with everybody's key, or none below four."""

    query: bytes
    readys: tuple[bytes, ...] = ()


class Survivors(Message, frozen=True, tag="query-survivors"):
    """Over whom the sum will be, as a bitmap of the institutions in the order of their keys."""

    query: bytes
    keys: bytes
    """Digest of all pre-keys, the context of every mask."""
    set: int


class Certificate(Message, frozen=True, tag="query-certificate"):
    """What a quorum signed."""

    query: bytes
    votes: tuple[bytes, ...]


class Opened(Message, frozen=True, tag="query-opened"):
    """One holder's shares, by institution: of the seed of a survivor, of the key of another."""

    shares: tuple[bytes, ...]


def cohort_of(query: Query, owners: Mapping[bytes, bytes]) -> Cohort:
    """Those who are asked; `owners` maps their node keys to their seal keys."""
    seats = tuple(Seat(key, owners[key], 1) for key in sorted(owners))
    return Cohort(Epoch(query.id(), 0, seats, Policy(length=cells(query))))


def seal_ready(sign: Sign, me: PublicKey, query: Query, made: PreKey) -> bytes:
    """Signed by who dealt it."""
    return seal(sign, READY_DOMAIN, me, query.id(), encode(Ready(query.id(), made)))


def open_ready(sealed: bytes, query: Query, cohort: Cohort) -> tuple[bytes, PreKey]:
    """One member's pre-key for this question, well formed, and whose it is."""
    envelope = open_envelope(sealed, READY_DOMAIN, limit_bytes=READY_LIMIT_BYTES)
    ready = decode(envelope.payload, Ready, limit_bytes=READY_LIMIT_BYTES)
    made, size = ready.prekey, len(cohort.members)
    if {ready.query, envelope.context} != {query.id()}:
        raise VerificationError("query of a pre-key")
    check_prekey(made)
    if made.number >= NUMBERS:
        raise MalformedMessageError(f"pre-key {made.number}, limit is {NUMBERS}")
    if made.epoch != cohort.name:
        raise VerificationError("a pre-key is for other institutions")
    if len(made.shares) != size:
        raise MalformedMessageError(f"a pre-key has not {size} shares")
    if not prekeys.is_usable(made.public):
        raise VerificationError("public key of a pre-key")
    return envelope.sender, made


def open_readys(
    sealed: Iterable[bytes], query: Query, cohort: Cohort
) -> dict[bytes, PreKey]:
    """Every member's pre-key for this question, once and well formed."""
    found = dict(open_ready(one, query, cohort) for one in sealed)
    if sorted(found) != list(cohort.members):
        raise VerificationError(
            "institutions with a pre-key", len(cohort.members), len(found)
        )
    return found


def context_of(query: Query, made: Mapping[bytes, PreKey]) -> Digest:
    """What is in every mask: the question and everybody's key."""
    names = b"".join(made[member].name() for member in sorted(made))
    return digest(b"rexis-query-keys-1" + query.id() + names)


def mask(
    words: Words, mine: Dealt, me: bytes, made: Mapping[bytes, PreKey], keys: Digest
) -> None:
    """Add this member's pair masks and its own, in place."""
    others = [member for member in sorted(made) if member != me]
    secrets = prekeys.exchanges(mine.secret, [made[one].public for one in others])
    pairs = {
        one: pair_key(secret, keys, me, one)
        for one, secret in zip(others, secrets, strict=True)
    }
    apply(
        words,
        0,
        [self_key(mine.seed, keys, me), *(pairs[one] for one in others if me < one)],
        [pairs[one] for one in others if me > one],
    )


def survivors_of(cohort: Cohort, answered: Iterable[bytes]) -> int:
    """The bitmap, if the sum may be over these."""
    places = {cohort.place(member) for member in answered}
    if len(places) < cohort.thresholds.quorum:
        raise VerificationError(
            f"{len(places)} of {len(cohort.members)} institutions have answered, a sum "
            f"needs {cohort.thresholds.quorum}"
        )
    return sum(1 << place for place in places)


def members_of(cohort: Cohort, survivors: int) -> list[bytes]:
    """Node keys in a bitmap."""
    return [m for place, m in enumerate(cohort.members) if survivors >> place & 1]


def seal_vote(sign: Sign, me: PublicKey, query: Query, said: Survivors) -> bytes:
    """Signed once for each question, whatever happens afterwards."""
    return seal(sign, VOTE_DOMAIN, me, query.id(), encode(said))


def open_vote(vote: bytes, query: Query, cohort: Cohort) -> tuple[Survivors, bytes]:
    """A set of survivors, and which of them signed it."""
    envelope = open_envelope(vote, VOTE_DOMAIN)
    said = decode(envelope.payload, Survivors)
    if {said.query, envelope.context} != {query.id()}:
        raise VerificationError("query of a vote")
    if said.set >> len(cohort.members) or envelope.sender not in members_of(
        cohort, said.set
    ):
        raise VerificationError("who votes is not in the set it votes for")
    return said, envelope.sender


def certified(votes: Sequence[bytes], query: Query, cohort: Cohort) -> Survivors:
    """The one set that a quorum of its own members signed; `VerificationError` if none."""
    signed: dict[Survivors, set[bytes]] = {}
    for vote in votes:
        said, member = open_vote(vote, query, cohort)
        signed.setdefault(said, set()).add(member)
    quorum = cohort.thresholds.quorum
    for said, members in signed.items():
        if len(members) >= quorum and said.set.bit_count() >= quorum:
            return said
    most = max((len(members) for members in signed.values()), default=0)
    raise VerificationError(f"{most} have signed the same survivors, needs {quorum}")


def released(held: Mapping[bytes, Shares], cohort: Cohort, survivors: int) -> Opened:
    """What a holder gives against a certificate, and nothing else of it, ever."""
    return Opened(
        tuple(
            held[member].of(SEED if survivors >> place & 1 else KEY)
            for place, member in enumerate(cohort.members)
        )
    )


def opened_secrets(
    opened: Mapping[bytes, Opened],
    made: Mapping[bytes, PreKey],
    cohort: Cohort,
    survivors: int,
) -> tuple[bytes, ...]:
    """The secret of each institution, from shares that are what their dealers promised.

    Raises `DealerError` for a dealer that promised shares of something else than it announced.
    """
    secrets = []
    for place, dealer in enumerate(cohort.members):
        kind = SEED if survivors >> place & 1 else KEY
        good = {}
        for holder, said in opened.items():
            if len(said.shares) != len(cohort.members):
                continue
            share, at = said.shares[place], cohort.place(holder)
            if len(share) == SHARE_BYTES and prekeys.is_share(
                cohort, dealer, made[dealer], at, kind, share
            ):
                good[at] = share
        if len(good) < cohort.thresholds.shares:
            raise VerificationError(
                f"{len(good)} good shares, {cohort.thresholds.shares} open a mask"
            )
        secrets.append(prekeys.open_secret(cohort, dealer, made[dealer], kind, good))
    return tuple(secrets)


def unmask(
    total: Words,
    secrets: Sequence[bytes],
    made: Mapping[bytes, PreKey],
    cohort: Cohort,
    said: Survivors,
) -> None:
    """Take off a sum what its members added and nobody else took off, in place."""
    keys = Digest(said.keys)
    alive = members_of(cohort, said.set)
    plus: list[bytes] = []
    minus: list[bytes] = []
    for member, secret in zip(cohort.members, secrets, strict=True):
        if len(secret) != KEY_BYTES:
            raise MalformedMessageError(
                f"the secret of {member.hex()[:16]} has {len(secret)} bytes,"
                f" needs {KEY_BYTES}"
            )
        if member in alive:
            if prekeys.seed_of(cohort, member, made[member], secret):
                minus.append(self_key(secret, keys, member))
                continue
            raise VerificationError(f"seed of {member.hex()[:16]}, a survivor")
        if prekeys.public_of(secret) != made[member].public:
            raise VerificationError(f"key of {member.hex()[:16]}, who dropped out")
        shared = prekeys.exchanges(secret, [made[one].public for one in alive])
        for one, agreed in zip(alive, shared, strict=True):
            added = pair_key(agreed, keys, one, member)
            (minus if one < member else plus).append(added)
    apply(total, 0, plus, minus)


def is_needed(query: Query) -> bool:
    """Whether so many are asked that one may be lost."""
    return len(query.datasets) >= RECOVERABLE
