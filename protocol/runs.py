"""Messages of a training run before its rounds: the proposal and the consents.

A proposal fixes everything a member must agree to: who takes part, the model and its first
state, the task, the hyperparameters, the number of rounds.  Its digest is the run's id, so a
member consents to exactly that text and to no other.  Nothing trains before every member
named has consented.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from protocol.envelope import open_envelope, seal
from protocol.errors import MalformedMessageError, SignatureError
from protocol.nesting import is_deeper
from protocol.types import DIGEST_BYTES, KEY_BYTES, Digest, PublicKey, digest
from protocol.wire import Message, decode, encode, require_length

PROPOSAL_TOPIC = "run"
CONSENT_TOPIC = "run-consent"
STANCE_TOPIC = "run-stance"
ROUND_TOPIC = "round"
ROUND_PROTOCOL = "/rexis/round/2"

PROPOSAL_DOMAIN = "rexis/run/1"
CONSENT_DOMAIN = "rexis/run-consent/1"
STANCE_DOMAIN = "rexis/run-stance/1"

PROPOSAL_LIMIT_BYTES = 48 << 10
# The deepest plan there is, a column with its levels, has four.
PLAN_DEPTH_LIMIT = 32
"""A proposal is announced, and an announcement has at most 64 KiB."""
GO, PAUSE, END = WORDS = ("go", "pause", "end")
MEMBERS_AT_LEAST = 3
MEMBERS_AT_MOST = 32
ROUNDS_AT_MOST = 10_000


class Proposal(Message, frozen=True, tag="run"):
    """A run as it is proposed; `plan` is the model file's canonical JSON."""

    title: str
    plan: bytes
    initial: bytes
    """State root of the first state; every member recomputes it from the plan."""
    rounds: int
    members: tuple[bytes, ...]
    created: int

    def id(self) -> Digest:
        """What the run is called."""
        return digest(encode(self))

    def check(self) -> None:
        """Limits of this version; the plan's content is checked where it is used."""
        require_length("initial state", self.initial, DIGEST_BYTES)
        for key in self.members:
            require_length("member key", key, KEY_BYTES)
        if list(self.members) != sorted(set(self.members)):
            raise MalformedMessageError("members are not sorted, or one is named twice")
        if not MEMBERS_AT_LEAST <= len(self.members) <= MEMBERS_AT_MOST:
            raise MalformedMessageError(
                f"{len(self.members)} members, a run has {MEMBERS_AT_LEAST} to {MEMBERS_AT_MOST}:"
                " fewer would see each other's updates in the sum"
            )
        if not 1 <= self.rounds <= ROUNDS_AT_MOST:
            raise MalformedMessageError(
                f"{self.rounds} rounds, limit is {ROUNDS_AT_MOST}"
            )


class Consent(Message, frozen=True, tag="consent"):
    """A member's steward lets one dataset of its own take part in a run."""

    run: bytes
    dataset: int
    """Token id on the chain, so that everyone can see the licence it comes under."""
    samples: int
    """How many records train; public, since the mean is weighted by it."""
    seal_key: bytes
    """X25519 key of the member's node: pre-key shares are sealed to it."""


class Stance(Message, frozen=True, tag="stance"):
    """What a member's operator wants of a run now; the newest of each member counts."""

    run: bytes
    serial: int
    """Grows with every stance of this member on this run."""
    word: str
    """`go`, `pause` or `end`; an `end` is not taken back."""

    def check(self) -> None:
        if len(self.run) != DIGEST_BYTES:
            raise MalformedMessageError(
                f"run has {len(self.run)} bytes, needs {DIGEST_BYTES}"
            )
        if self.word not in WORDS:
            raise MalformedMessageError(
                f"stance {self.word[:16]!r}, have go, pause, end"
            )
        if not 1 <= self.serial < 1 << 53:
            raise MalformedMessageError(f"stance with serial {self.serial}")


def seal_proposal(
    sign: Callable[[bytes], bytes], sender: PublicKey, proposal: Proposal
) -> bytes:
    """The proposer's signature can be shown to anyone later, announced or not."""
    return seal(sign, PROPOSAL_DOMAIN, sender, proposal.id(), encode(proposal))


def open_proposal(data: bytes) -> tuple[Proposal, PublicKey]:
    """A checked proposal and who signed it; the signer takes part."""
    envelope = open_envelope(data, PROPOSAL_DOMAIN)
    proposal = decode(envelope.payload, Proposal, limit_bytes=PROPOSAL_LIMIT_BYTES)
    proposal.check()
    if envelope.context != proposal.id():
        raise SignatureError(
            "proposal's context", proposal.id().hex(), envelope.context.hex()
        )
    if envelope.sender not in proposal.members:
        raise MalformedMessageError("who proposes a run takes part in it")
    return proposal, PublicKey(envelope.sender)


def seal_consent(
    sign: Callable[[bytes], bytes], sender: PublicKey, consent: Consent
) -> bytes:
    """The steward's word that its data may train exactly this run."""
    return seal(sign, CONSENT_DOMAIN, sender, consent.run, encode(consent))


def open_consent(data: bytes) -> tuple[Consent, PublicKey]:
    """A consent and who gave it."""
    envelope = open_envelope(data, CONSENT_DOMAIN)
    consent = decode(envelope.payload, Consent)
    if len(consent.seal_key) != KEY_BYTES:
        raise MalformedMessageError(
            f"seal key has {len(consent.seal_key)} bytes, needs {KEY_BYTES}"
        )
    if envelope.context != consent.run or len(consent.run) != DIGEST_BYTES:
        raise SignatureError(
            "consent's context", consent.run.hex(), envelope.context.hex()
        )
    return consent, PublicKey(envelope.sender)


def seal_stance(
    sign: Callable[[bytes], bytes], sender: PublicKey, stance: Stance
) -> bytes:
    """Signed, so that it counts whoever passes it on."""
    return seal(sign, STANCE_DOMAIN, sender, stance.run, encode(stance))


def open_stance(data: bytes) -> tuple[Stance, PublicKey]:
    """A checked stance and whose it is."""
    envelope = open_envelope(data, STANCE_DOMAIN)
    stance = decode(envelope.payload, Stance)
    stance.check()
    if envelope.context != stance.run:
        raise SignatureError(
            "stance's context", stance.run.hex(), envelope.context.hex()
        )
    return stance, PublicKey(envelope.sender)


class Privacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Noise on every sum of a run, and what it may cost (docs/protocol.md §8.1)."""

    clip: float
    """Longest update (L2); longer ones are shortened."""
    multiplier: float
    """Standard deviation of a sum's noise, in the largest clipped and weighted update."""
    epsilon: float
    """Budget, for one patient's record of a member; no round is opened beyond it."""
    delta: float


class Thin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run over thin links: one entry in so many travels (docs/protocol.md §5.12)."""

    one_in: int


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model file: what to build, on which task, how to train it."""

    title: str
    spec: dict[str, Any]
    task: dict[str, Any]
    train: dict[str, Any]
    outer: dict[str, Any] = {}
    """The step from a round's mean: `protocol.course.Outer`."""
    sum: dict[str, Any] = {}
    """Numbers of `protocol.rounds.policy.Policy` that differ from its defaults."""
    privacy: Privacy | msgspec.UnsetType = msgspec.UNSET
    """Without it sums carry no noise, and no ε bounds what they tell."""
    thin: Thin | msgspec.UnsetType = msgspec.UNSET
    """Without it every entry of an update travels."""


def parse_plan(data: bytes) -> Plan:
    """A model file's bytes; unknown keys are refused."""
    if len(data) > PROPOSAL_LIMIT_BYTES:
        raise MalformedMessageError(
            f"model file has {len(data)} bytes, limit is {PROPOSAL_LIMIT_BYTES}"
        )
    if is_deeper(data, PLAN_DEPTH_LIMIT):
        raise MalformedMessageError(
            f"model file is nested more than {PLAN_DEPTH_LIMIT} deep"
        )
    try:
        return msgspec.json.decode(data, type=Plan)
    except msgspec.DecodeError as error:
        raise MalformedMessageError(f"model file: {error}") from error


def canonical_plan(plan: Plan) -> bytes:
    """The bytes a proposal carries: sorted keys, no spaces."""
    return msgspec.json.encode(plan, order="sorted")
