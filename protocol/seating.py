"""Who has a seat in the next epoch of a run: asked for, agreed to, and shown (docs/protocol.md §7.4).

Nobody admits or expels anybody.  Every member's operator says whom the run should seat, signed,
and from the same statements all members derive the same next epoch; it begins once a quorum of
their machines has said its name (§7.4).  That it began is shown by the verdict that led to it,
under the signatures of a quorum of the members before: whoever knows a run's proposal can follow
its seats from there, and needs to trust nobody for it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from protocol.certificate import Certificate, Kind, Verify
from protocol.envelope import open_envelope, seal, verified
from protocol.errors import (
    GossipReject,
    MalformedMessageError,
    ProtocolError,
    SignatureError,
    VerificationError,
)
from protocol.rounds.messages import Verdict
from protocol.rounds.policy import Epoch, Seat, Thresholds
from protocol.runs import MEMBERS_AT_LEAST, MEMBERS_AT_MOST, Consent
from protocol.types import DIGEST_BYTES, KEY_BYTES, PublicKey
from protocol.wire import Message, decode, encode

WISH_TOPIC = "run-wish"
CHANGE_TOPIC = "run-change"
WISH_DOMAIN = "rexis/run-wish/1"
STORY_PROTOCOL = "/rexis/run-story/1"

IN, OUT, EXPOSE = WORDS = ("in", "out", "expose")
"""`expose` says `out`, and that it need not wait for a sum with that member (§5.7)."""
GOING = (OUT, EXPOSE)
CHANGE_LIMIT_BYTES = 48 << 10
"""64 seats and as many signatures are a quarter of it; an announcement has at most 64 KiB."""
WISHES_AT_MOST = 4 * MEMBERS_AT_MOST
"""Of one member, about as many seats of a run."""
CHANGES_AT_MOST = 1_000
"""Of one run: what follows one by one must end."""


class Wish(Message, frozen=True, tag="wish"):
    """What a member's operator wants of a seat, its own or another's; the newest counts."""

    run: bytes
    serial: int
    """Grows with every wish of this member about this seat."""
    member: bytes
    """Whose seat."""
    word: str
    """`in`, `out` or `expose`."""

    def check(self) -> None:
        for name, size in (("run", DIGEST_BYTES), ("member", KEY_BYTES)):
            found = len(getattr(self, name))
            if found != size:
                raise MalformedMessageError(f"{name} has {found} bytes, needs {size}")
        if self.word not in WORDS:
            have = ", ".join(WORDS)
            raise MalformedMessageError(f"wish {self.word[:16]!r}, have {have}")
        if not 1 <= self.serial < 1 << 53:
            raise MalformedMessageError(f"wish with serial {self.serial}")


class Change(Message, frozen=True, tag="change"):
    """An epoch, and the certified verdict of the one before that led to it."""

    epoch: Epoch
    certificate: Certificate


class AskStory(Message, frozen=True, tag="ask-story"):
    """What has become of a run, from one of its changes on?"""

    run: bytes
    after: int
    """Changes the asker has."""


class Story(Message, frozen=True, tag="story"):
    """All that was signed about a run, and of its changes as many as fit; nothing where unknown."""

    proposal: bytes = b""
    consents: tuple[bytes, ...] = ()
    wishes: tuple[bytes, ...] = ()
    changes: tuple[Change, ...] = ()


def seal_wish(sign: Callable[[bytes], bytes], sender: PublicKey, wish: Wish) -> bytes:
    """Signed, so that it counts whoever passes it on."""
    return seal(sign, WISH_DOMAIN, sender, wish.run, encode(wish))


def open_wish(data: bytes) -> tuple[Wish, PublicKey]:
    """A checked wish and whose it is."""
    envelope = open_envelope(data, WISH_DOMAIN)
    wish = decode(envelope.payload, Wish)
    wish.check()
    if envelope.context != wish.run:
        raise SignatureError("wish's context", wish.run.hex(), envelope.context.hex())
    return wish, PublicKey(envelope.sender)


def require_led(
    members: Sequence[bytes], change: Change, verify: Verify = verified
) -> None:
    """Raise `VerificationError` unless a quorum of `members` decided that `change.epoch` follows.

    `members`: of the epoch before, sorted; for the first change, those of the proposal.
    """
    certificate, epoch = change.certificate, change.epoch
    try:
        epoch.check()
        verdict = decode(certificate.value, Verdict)
    except ProtocolError as error:
        raise VerificationError(f"change of members: {error}") from error
    slot = certificate.slot
    if slot.kind != Kind.VERDICT or slot.run != epoch.run:
        raise VerificationError("change of members: no verdict of its run")
    if verdict.epoch != epoch.name() or slot.epoch == epoch.name():
        raise VerificationError(
            "epoch that a verdict leads to", epoch.name().hex(), verdict.epoch.hex()
        )
    certificate.check(members, Thresholds(len(members)).quorum, verify)


@dataclass
class Seating:
    """One run's wishes, newest of each about each, and its changes in order."""

    run: bytes
    first: tuple[bytes, ...]
    """Members of the proposal, sorted."""
    wishes: dict[tuple[bytes, bytes], Wish] = field(default_factory=dict)
    """By who says it, and about whom."""
    changes: list[Change] = field(default_factory=list)

    @property
    def members(self) -> tuple[bytes, ...]:
        """Who has a seat now, sorted."""
        return self.changes[-1].epoch.members if self.changes else self.first

    @property
    def ever(self) -> frozenset[bytes]:
        """Everyone who has or had a seat: theirs are the data in the run's states."""
        later = (change.epoch.members for change in self.changes)
        return frozenset(self.first).union(*later)

    # Wishes --------------------------------------------------------------------------------

    def is_newer(self, who: bytes, wish: Wish) -> bool:
        """Would the wish be news?  Those of members count, and a seat may be heard of later."""
        if wish.run != self.run:
            raise GossipReject("the wish is about another run")
        known = self.wishes.get((who, wish.member))
        if known is not None:
            return wish.serial > known.serial
        said = sum(1 for each, _ in self.wishes if each == who)
        if said >= WISHES_AT_MOST:
            raise GossipReject(
                f"{said} wishes of one member, limit is {WISHES_AT_MOST}"
            )
        return True

    def wish(self, who: bytes, wish: Wish) -> bool:
        """Take a wish; whether it is news."""
        news = self.is_newer(who, wish)
        if news:
            self.wishes[who, wish.member] = wish
        return news

    def serial(self, who: bytes, about: bytes) -> int:
        """Of this member's next wish about that seat."""
        known = self.wishes.get((who, about))
        return 1 if known is None else known.serial + 1

    def said(self, who: bytes, about: bytes) -> str:
        """The newest word, or "" where none was said."""
        known = self.wishes.get((who, about))
        return "" if known is None else known.word

    def wanting(self, about: bytes, word: str) -> tuple[bytes, ...]:
        """Present members that want this of a seat, its holder aside."""
        words = GOING if word == OUT else (word,)
        return tuple(
            each
            for each in self.members
            if each != about and self.said(each, about) in words
        )

    @property
    def needed(self) -> int:
        """Members that must want a seat taken or given: as many as decide anything in a round."""
        return Thresholds(len(self.members)).quorum

    # Epochs --------------------------------------------------------------------------------

    def next(self, present: Epoch, consents: Mapping[bytes, Consent]) -> Epoch | None:
        """What the statements make of the present epoch; None: it stays as it is.

        A seat is free once its holder, or a quorum of the members, wants so; one is given to
        whoever has consented with data and is wanted by a quorum.  Nobody leaves a run of three:
        two would see each other's updates.
        """
        stays = [seat for seat in present.seats if not self._goes(seat.node_key)]
        comes = [
            Seat(member, consents[member].seal_key, consents[member].samples)
            for member in self.admitted(consents, set(present.members))
        ]
        seats = tuple(sorted((*stays, *comes), key=lambda seat: seat.node_key))
        if seats == present.seats or not (
            MEMBERS_AT_LEAST <= len(seats) <= MEMBERS_AT_MOST
        ):
            return None
        epoch = Epoch(self.run, present.number + 1, seats, present.policy)
        try:
            epoch.check()
        except MalformedMessageError:
            return None  # a ring that has no room for so many
        return epoch

    def _goes(self, member: bytes) -> bool:
        return self.gives_up(member) or len(self.wanting(member, OUT)) >= self.needed

    def gives_up(self, member: bytes) -> bool:
        """Does it want its own seat no more?"""
        return self.said(member, member) in GOING

    def exposed(self, present: Epoch) -> frozenset[bytes]:
        """Members that go, and whose updates need not be hidden: as a quorum of the others says.

        Its members could pool their shares and read them anyway; so many may decide that those of
        a member that spoils every round, or is gone for good, keep nobody from going on.
        """
        return frozenset(
            member
            for member in present.members
            if len(self.wanting(member, EXPOSE)) >= self.needed
        )

    def admitted(
        self, consents: Mapping[bytes, Consent], seated: Collection[bytes]
    ) -> list[bytes]:
        """Who has no seat and would get one."""
        return [
            member
            for member in self.applicants(consents, seated)
            if len(self.wanting(member, IN)) >= self.needed
        ]

    def applicants(
        self, consents: Mapping[bytes, Consent], seated: Collection[bytes]
    ) -> list[bytes]:
        """Who has consented, never had a seat, and has not said that it wants none.

        Whoever had one does not come back: its machine was told to forget what it had said, and
        could contradict itself.
        """
        ever = self.ever.union(seated)
        return [
            member
            for member in sorted(consents)
            if member not in ever and not self.gives_up(member)
        ]

    def follows(self, change: Change, verify: Verify = verified) -> bool:
        """Is it the next change?  False where it is known or comes after one that is not.

        Raises `VerificationError` where the members before it did not decide so.
        """
        known = len(self.changes)
        if change.epoch.run != self.run or change.epoch.number != known + 1:
            return False
        if known >= CHANGES_AT_MOST:
            raise VerificationError("changes of a run", CHANGES_AT_MOST, known + 1)
        decided_in = change.certificate.slot.epoch
        if self.changes and decided_in != self.changes[-1].epoch.name():
            raise VerificationError(
                "epoch that decided",
                self.changes[-1].epoch.name().hex(),
                decided_in.hex(),
            )
        require_led(self.members, change, verify)
        return True

    def take(self, change: Change) -> bool:
        """Go on to a change that follows; False where it came meanwhile."""
        if change.epoch.number != len(self.changes) + 1:
            return False
        self.changes.append(change)
        return True
