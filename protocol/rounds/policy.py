"""Who takes part in an epoch of a run, and the numbers they all must share (§5.1).

The epoch's digest is in every signature and every mask key: two nodes that differ in a seat
or in one number never add up each other's shards.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from protocol.aggregate.ring import Ring
from protocol.errors import MalformedMessageError
from protocol.types import DIGEST_BYTES, KEY_BYTES, Digest, digest
from protocol.wire import Message, encode, require_length

MEMBERS_AT_LEAST = 3
"""The sum of two shows each the other's update."""
MEMBERS_AT_MOST = 64
"""Sets of members travel as one 64-bit integer; pre-keys, which carry a share for each member,
then take 10 KiB."""
LENGTH_AT_MOST = 1 << 31


class Seat(Message, frozen=True, tag="seat"):
    """One member of an epoch."""

    node_key: bytes
    """Ed25519; seats are sorted by it."""
    seal_key: bytes
    """X25519, long-term: shares are sealed to it."""
    weight: int
    """Public sample count."""


class Policy(Message, frozen=True, tag="policy"):
    """Numbers of a run.  Times are milliseconds, and local: no two clocks are compared."""

    length: int
    """Entries of the summed vector."""
    ring_bits: int = 32
    input_bits: int = 24
    noised: bool = False
    """Every update carries noise of its own (§8.1), so sums of the same base may differ in
    any set of members."""
    checked: bool = True
    """Sums are checked by a random combination before they are accepted (§5.9)."""
    sketched: bool = True
    """The updates of a rejected sum are measured behind their masks (§5.10)."""
    beat_ms: int = 1_000
    fresh_ms: int = 5_000
    """A member not heard for this long is not counted on for the next opening."""
    patience_ms: int = 2_000
    """How long a quorum that is ready waits for the others."""
    view_ms: int = 2_000
    ask_ms: int = 1_500
    """Without progress for this long, a member asks the others what it missed."""
    backup_ms: int = 3_000
    """Lateness per rank after which the next backup takes a shard."""
    upload_floor_ms: int = 2_000
    upload_cap_ms: int = 600_000
    slowest_bytes_per_s: int = 500_000
    """4 Mbit/s: what a production medical federation tests its links down to."""
    grace_ms: int = 60_000
    """How long shares of members that went away are waited for after the certificate."""
    idle_ms: int = 30_000
    """Pause after three attempts of one round led nowhere."""

    def check(self) -> None:
        """Ranges; the ring's arithmetic is checked against the number of members."""
        if not 1 <= self.length <= LENGTH_AT_MOST:
            raise MalformedMessageError(
                f"vector of {self.length} entries, limit is {LENGTH_AT_MOST}"
            )
        if self.ring_bits not in (16, 32):
            raise MalformedMessageError(
                f"ring of {self.ring_bits} bits, have 16 and 32"
            )
        times = (
            "beat_ms",
            "fresh_ms",
            "patience_ms",
            "view_ms",
            "ask_ms",
            "backup_ms",
            "upload_floor_ms",
            "upload_cap_ms",
            "slowest_bytes_per_s",
            "grace_ms",
            "idle_ms",
        )
        for name in times:
            value = getattr(self, name)
            if not 1 <= value <= 86_400_000:
                raise MalformedMessageError(
                    f"{name} is {value}, need 1 to 86400000 (a day)"
                )

    def ring(self) -> Ring:
        return Ring(self.ring_bits, self.input_bits)


class Epoch(Message, frozen=True, tag="epoch"):
    """The members between two changes of membership."""

    run: bytes
    number: int
    seats: tuple[Seat, ...]
    policy: Policy

    def name(self) -> Digest:
        return digest(b"rexis-epoch-1" + encode(self))

    def check(self) -> None:
        """Everything a member relies on without looking again."""
        require_length("run", self.run, DIGEST_BYTES)
        keys = [seat.node_key for seat in self.seats]
        for seat in self.seats:
            require_length("node key", seat.node_key, KEY_BYTES)
            require_length("seal key", seat.seal_key, KEY_BYTES)
            if not 1 <= seat.weight < 1 << 40:
                raise MalformedMessageError(f"weight {seat.weight}")
        if keys != sorted(set(keys)):
            raise MalformedMessageError("seats are not sorted, or one is named twice")
        if not MEMBERS_AT_LEAST <= len(keys) <= MEMBERS_AT_MOST:
            raise MalformedMessageError(
                f"{len(keys)} members, need {MEMBERS_AT_LEAST} to {MEMBERS_AT_MOST}"
            )
        if self.number < 0:
            raise MalformedMessageError(f"epoch {self.number}")
        self.policy.check()
        self.policy.ring().require_room(len(keys))

    @property
    def members(self) -> tuple[bytes, ...]:
        return tuple(seat.node_key for seat in self.seats)


@dataclass(frozen=True)
class Thresholds:
    """What the number of members fixes (§5.1).

    With `quorum` votes under one certificate all honest members release shares of the same
    kind, so privacy needs `shares` > colluders and nothing more; two quorums share a member
    that does not lie as long as liars are fewer than a third.
    """

    members: int

    @cached_property
    def liars(self) -> int:
        """f: the most that may lie."""
        return (self.members - 1) // 3

    @cached_property
    def shares(self) -> int:
        """t: shares that open a seed, ⌈2n/3⌉."""
        return -(-2 * self.members // 3)

    @cached_property
    def quorum(self) -> int:
        """Q: votes that decide, ⌊2n/3⌋ + 1."""
        return 2 * self.members // 3 + 1

    @cached_property
    def survivors(self) -> int:
        """The fewest updates a sum may be over: never two, never fewer than open a seed."""
        return max(self.shares, MEMBERS_AT_LEAST)


class Cohort:
    """An epoch, checked once, with what is looked up again and again."""

    def __init__(self, epoch: Epoch) -> None:
        epoch.check()
        self.epoch = epoch
        self.name = epoch.name()
        self.members = epoch.members
        self.policy = epoch.policy
        self.ring = epoch.policy.ring()
        self.thresholds = Thresholds(len(epoch.seats))
        self.total_weight = sum(seat.weight for seat in epoch.seats)
        self._places = {key: place for place, key in enumerate(epoch.members)}
        self.everyone = frozenset(epoch.members)

    def place(self, member: bytes) -> int:
        """Where a member stands in the sorted seats."""
        return self._places[member]

    def bitmap(self, members: Iterable[bytes]) -> int:
        """A set of members as it travels: bit i is the i-th seat."""
        return sum(1 << self._places[member] for member in members)

    def named(self, bitmap: int) -> tuple[bytes, ...]:
        """The members of a set, in the order of seats."""
        return tuple(m for i, m in enumerate(self.members) if bitmap >> i & 1)

    def seat(self, member: bytes) -> Seat:
        return self.epoch.seats[self._places[member]]

    def __contains__(self, member: object) -> bool:
        return member in self._places
