"""What members say in a round.  Each is signed by its sender in an envelope of its own.

Announcements are signed by the network as well; these signatures are the ones that can be
shown to a third party.  Votes and proposals have a domain of their own (`certificate`);
everything else is a `Said`: a body, and the round and attempt it belongs to.  The envelope's
context is the epoch's digest until an attempt is open, and the opening's digest from then on.
"""

from collections.abc import Callable, Hashable
from functools import cached_property

from protocol import certificate
from protocol.certificate import (
    Certificate,
    Proposal,
    Verify,
    Vote,
    check_shape,
    require_wire_length,
)
from protocol.envelope import (
    SIGNATURE_BYTES,
    Envelope,
    seal,
    signing_bytes,
    verified,
)
from protocol.errors import MalformedMessageError, SignatureError
from protocol.types import DIGEST_BYTES, KEY_BYTES, Digest, PublicKey, digest
from protocol.wire import Message, decode, encode

DOMAIN = "round"
LIMIT_BYTES = 1 << 16

SHARE_BYTES = 32
SEALED_SHARES_BYTES = 2 * SHARE_BYTES + 16
"""Both shares and a Poly1305 tag."""
MEMBERS_MAP_LIMIT = 1 << 64
"""MessagePack's largest integer; an epoch has no more members than it has bits."""


class PreKey(Message, frozen=True, tag="prekey"):
    """Keys of one attempt, announced before anybody knows which attempt that will be."""

    epoch: bytes
    number: int
    """Grows with every pre-key of this member in the epoch; each is used once."""
    floor: int
    """Its lowest number that is still to be used: openings should name none below."""
    public: bytes
    """X25519; the secret half makes the pair masks."""
    seed: bytes
    """Digest of the self-mask seed."""
    shares: tuple[bytes, ...]
    """Per member of the epoch, in order: digests of its seed share and of its key share."""
    sealed: tuple[bytes, ...]
    """The shares themselves, sealed to each member."""

    def name(self) -> Digest:
        return digest(b"rexis-prekey-1" + encode(self))


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    """Where I am.  The only statement a member may make anew at will."""

    head: bytes
    """Digest of the last verdict: equal heads mean equal states."""
    ready: bool
    """My update of this round is on disk."""
    asks: int
    """Above 0: I have heard nothing new for a while, and ask for the n-th time."""
    held: tuple[int, ...]
    """Per member of the epoch: the newest pre-key number whose shares I hold, or -1."""
    next_epoch: bytes
    """Digest of the epoch I am told comes next, or empty."""

    def place(self) -> tuple[bytes, bool, tuple[int, ...]]:
        """All of it that an opening depends on."""
        return self.head, self.ready, self.held


class Opening(Message, frozen=True, tag="opening"):
    """Value of an OPEN decision; its digest is the context of the attempt."""

    run: bytes
    epoch: bytes
    round: int
    attempt: int
    base: bytes
    """Root of the state that the updates are relative to."""
    scales: bytes
    """Root of the block scales, and of the velocities before them where there are any."""
    head: bytes
    """Digest of the verdict that led here."""
    members: tuple[bytes, ...]
    """Whose updates may come in, sorted."""
    prekeys: tuple[tuple[int, bytes], ...]
    """Number and digest of the pre-key each of them uses up."""

    def context(self) -> Digest:
        return digest(b"rexis-context-1" + encode(self))


class Upload(Message, frozen=True, tag="upload"):
    """My masked shards by digest, in the order of the vector, and the keys of my pair masks."""

    shards: tuple[bytes, ...]
    pairs: tuple[bytes, ...]
    """Digest of the key shared with each member of the opening, in order; empty for myself."""


class Report(Message, frozen=True, tag="report"):
    """The sum of one masked shard over `members`, by whoever holds all their parts."""

    shard: int
    turn: int
    """Counts up when the set had to shrink."""
    members: int
    """Bit i: member i of the opening."""
    inputs: bytes
    """Digest of the parts' digests."""
    sum: bytes
    """Digest of the sum in the ring."""
    carry: bytes
    """Digest of what the ring cut off (§5.9), or empty."""


class Survivors(Message, frozen=True, tag="survivors"):
    """Value of a SURVIVORS decision.  No member: the attempt is given up, nothing is released."""

    members: int
    uploads: bytes
    """Digest of the survivors' uploads."""
    reports: tuple[Report, ...]
    """One per shard, all over `members`."""
    reporters: tuple[int, ...]
    """Place in the opening of whoever made each report."""


GIVEN_UP = Survivors(0, bytes(DIGEST_BYTES), (), ())
"""The value that ends an attempt with nothing released."""


class Release(Message, frozen=True, tag="release"):
    """My share of every survivor's seed and of every other member's key, in opening order.

    Never both of one member, never for a second certificate (§5.6).
    """

    survivors: bytes
    """Digest of the certified value."""
    shares: tuple[bytes, ...]
    """Empty where I hold no good share."""


class Tags(Message, frozen=True, tag="tags"):
    """Random combination of my parts, one number per shard, under the attempt's beacon."""

    values: tuple[int, ...]


class Claim(Message, frozen=True, tag="claim"):
    """The state I came to, and whether my own hold-out likes it."""

    turn: int
    """Counts up if a sum turned out to be wrong and I came to another state."""
    state: bytes
    scales: bytes
    accept: bool
    checked: int
    """Bit s: I checked the sum of slice s, or added it up myself."""
    metric: int
    """Coarse, signed, in units the run's task defines; 0 where there is none."""


class Verdict(Message, frozen=True, tag="verdict"):
    """Value of a VERDICT decision; a chain of them is the history of a run."""

    round: int
    accept: bool
    state: bytes
    scales: bytes
    previous: bytes
    """Digest of the verdict before."""
    context: bytes
    epoch: bytes
    """Digest of the epoch from the next round on."""
    survivors: int
    """Whose updates the sum is over: a bitmap over the seats of the epoch that decides."""
    opened: tuple[int, ...]
    """All sets whose sums were opened on `state`, as such bitmaps; none if the state is new."""

    def name(self) -> Digest:
        return digest(b"rexis-verdict-1" + encode(self))


class Proof(Message, frozen=True, tag="proof"):
    """A certificate for somebody who missed the decision."""

    certificate: Certificate


class Evidence(Message, frozen=True, tag="evidence"):
    """Two envelopes of one sender that exclude each other."""

    first: bytes
    second: bytes


class Sketch(Message, frozen=True, tag="sketch"):
    """What my masked update and each pair mask of mine weigh, after a rejection (§5.10)."""

    blob: bytes


class Reveal(Message, frozen=True, tag="reveal"):
    """Keys of masks of which the other holder says something else than I do (§5.10)."""

    keys: tuple[tuple[int, bytes], ...]
    """Place of the other holder in the opening, and the key."""


Body = (
    PreKey
    | Heartbeat
    | Upload
    | Report
    | Release
    | Tags
    | Claim
    | Proof
    | Evidence
    | Sketch
    | Reveal
)


class Said(Message, frozen=True, tag="said"):
    """A body and where it belongs."""

    run: bytes
    round: int
    attempt: int
    body: Body


class Heard(Message, frozen=True, dict=True, tag="heard"):
    """A verified message: what it says and the bytes that prove it."""

    sender: bytes
    context: bytes
    run: bytes
    round: int
    attempt: int
    body: Body | Vote | Proposal
    signature: bytes
    envelope: bytes

    @cached_property
    def place(self) -> Hashable | None:
        """Where the statement stands: two different ones of one sender in one place are a lie.

        None for what may be said anew.
        """
        body = self.body
        match body:
            case Vote():
                return (self.context, "vote", body.step, body.view)
            case Proposal():
                return (self.context, "proposal", body.view)
            case PreKey():
                return (body.epoch, "prekey", body.number)
            case Upload() | Release() | Tags() | Sketch() | Reveal():
                return (self.context, type(body).__name__)
            case Report():
                return (self.context, "report", body.shard, body.turn)
            case Claim():
                return (self.context, "claim", body.turn)
            case _:
                return None


def say(
    sign: Callable[[bytes], bytes],
    sender: PublicKey,
    context: bytes,
    said: Said,
) -> bytes:
    """The envelope of `said`."""
    return seal(sign, DOMAIN, sender, context, encode(said))


def hear(data: bytes, verify: Verify | None = None) -> Heard:
    """Check size, form, signature and lengths; who may say it is the machine's business.

    `verify` stands in for Ed25519 in large simulations.
    """
    envelope = open_signed(data, verify)
    if envelope.domain == certificate.DOMAIN:
        return _decision(envelope, data)
    said = decode(envelope.payload, Said, limit_bytes=LIMIT_BYTES)
    require_wire_length("run", said.run, DIGEST_BYTES)
    require_wire_length("context", envelope.context, DIGEST_BYTES)
    if said.round < 0 or said.attempt < 0:
        raise MalformedMessageError(f"round {said.round}, attempt {said.attempt}")
    _check_lengths(said.body)
    return Heard(
        envelope.sender,
        envelope.context,
        said.run,
        said.round,
        said.attempt,
        said.body,
        envelope.signature,
        data,
    )


def open_signed(data: bytes, verify: Verify | None) -> Envelope:
    """An envelope of one of our two domains, its signature checked."""
    envelope = decode(data, Envelope, limit_bytes=LIMIT_BYTES)
    if envelope.domain not in (DOMAIN, certificate.DOMAIN):
        raise SignatureError("envelope domain", DOMAIN, envelope.domain)
    require_wire_length("sender", envelope.sender, KEY_BYTES)
    require_wire_length("signature", envelope.signature, SIGNATURE_BYTES)
    message = signing_bytes(
        envelope.domain, envelope.sender, envelope.context, envelope.payload
    )
    check = verified if verify is None else verify
    if not check(envelope.sender, message, envelope.signature):
        raise SignatureError(f"signature of a {envelope.domain} envelope")
    return envelope


Ballot: type[Vote | Proposal] = Vote | Proposal  # type: ignore[assignment] # a union decodes like a type


def _decision(envelope: Envelope, data: bytes) -> Heard:
    body = decode(envelope.payload, Ballot, limit_bytes=LIMIT_BYTES)
    check_shape(body)
    slot = body.slot
    if envelope.context != slot.name():
        raise MalformedMessageError("the envelope's context is not the vote's slot")
    return Heard(
        envelope.sender,
        envelope.context,
        slot.run,
        slot.round,
        slot.attempt,
        body,
        envelope.signature,
        data,
    )


def _check_lengths(body: Body) -> None:
    match body:
        case PreKey():
            check_prekey(body)
        case Heartbeat():
            require_wire_length("head", body.head, DIGEST_BYTES)
            if body.asks < 0:
                raise MalformedMessageError(f"heartbeat asks {body.asks} times")
        case Upload():
            for shard in body.shards:
                require_wire_length("shard digest", shard, DIGEST_BYTES)
            for pair in body.pairs:
                if pair:
                    require_wire_length("digest of a pair key", pair, DIGEST_BYTES)
        case Report():
            _check_report(body)
        case Release():
            require_wire_length("survivors", body.survivors, DIGEST_BYTES)
            for share in body.shares:
                if share:
                    require_wire_length("share", share, SHARE_BYTES)
        case Claim():
            require_wire_length("state root", body.state, DIGEST_BYTES)
            require_wire_length("scales", body.scales, DIGEST_BYTES)
            if not 0 <= body.checked < MEMBERS_MAP_LIMIT or body.turn < 0:
                raise MalformedMessageError(
                    f"claim in turn {body.turn}, slices {body.checked:x} checked"
                )
        case Sketch():
            require_wire_length("sketch blob", body.blob, DIGEST_BYTES)
        case Reveal():
            for _, key in body.keys:
                require_wire_length("pair key", key, KEY_BYTES)
        case _:
            pass


def check_prekey(body: PreKey) -> None:
    """Lengths, and as many shares as digests of them; else `MalformedMessageError`."""
    require_wire_length("epoch", body.epoch, DIGEST_BYTES)
    require_wire_length("public key", body.public, KEY_BYTES)
    require_wire_length("seed digest", body.seed, DIGEST_BYTES)
    if not 0 <= body.floor <= body.number or len(body.shares) != len(body.sealed):
        raise MalformedMessageError(
            f"pre-key {body.number}, floor {body.floor}, with {len(body.shares)} share digests"
            f" and {len(body.sealed)} sealed shares"
        )
    for pair in body.shares:
        require_wire_length("share digests", pair, 2 * DIGEST_BYTES)
    for sealed in body.sealed:
        require_wire_length("sealed shares", sealed, SEALED_SHARES_BYTES)


def _check_report(report: Report) -> None:
    require_wire_length("inputs digest", report.inputs, DIGEST_BYTES)
    require_wire_length("sum digest", report.sum, DIGEST_BYTES)
    if report.carry:
        require_wire_length("carry digest", report.carry, DIGEST_BYTES)
    if (
        report.shard < 0
        or report.turn < 0
        or not 0 < report.members < MEMBERS_MAP_LIMIT
    ):
        raise MalformedMessageError(
            f"report on shard {report.shard}, turn {report.turn},"
            f" members {report.members:x}"
        )


def exclude_each_other(one: Heard, other: Heard) -> bool:
    """Did one sender say two different things in one place?"""
    return (
        one.place is not None
        and one.sender == other.sender
        and one.place == other.place
        and one.body != other.body
    )


def inputs_digest(parts: list[bytes]) -> Digest:
    """What a report says it summed: the parts' digests in the order of the opening."""
    return digest(b"rexis-inputs-1" + encode(parts))


def uploads_digest(uploads: list[Upload]) -> Digest:
    """What a survivor set was certified with."""
    return digest(b"rexis-uploads-1" + encode(uploads))
