"""What members say in a round.  Each is signed by its sender in an envelope of its own.

Announcements are signed by the network as well; these signatures are the ones that can be
shown to a third party: a certificate is a set of them.
"""

from collections.abc import Callable

from protocol.envelope import open_envelope, seal
from protocol.errors import MalformedMessageError
from protocol.types import DIGEST_BYTES, Digest, PublicKey, digest
from protocol.wire import Message, decode, encode, require_length

DOMAIN = "round"
LIMIT_BYTES = 1 << 16


class Attempt(Message, frozen=True, tag="attempt"):
    """One try at one sum.  Its digest is the context of every mask and every signature."""

    run: bytes
    round: int
    attempt: int
    members: tuple[bytes, ...]
    base: bytes
    """State root the updates are relative to."""
    length: int
    """Words in the vector."""
    weights: tuple[int, ...]
    """Public sample counts, in the order of `members`."""

    def context(self) -> Digest:
        return digest(b"rexis-attempt-1" + encode(self))


class Upload(Message, frozen=True, tag="upload"):
    """My masked shards, by digest, in the order of the vector; and my seed's commitment."""

    shards: tuple[bytes, ...]
    seed_commitment: bytes


class Report(Message, frozen=True, tag="report"):
    """I hold every member's part of the shard I own; `uploads` is what I hold."""

    uploads: bytes


class Vote(Message, frozen=True, tag="vote"):
    """I accept exactly this set of uploads; I shall accept no other in this context."""

    uploads: bytes


class Seed(Message, frozen=True, tag="seed"):
    """My self mask, released on a full certificate."""

    seed: bytes


class Result(Message, frozen=True, tag="result"):
    """The unmasked sum of the shard I own, by digest."""

    blob: bytes


class Claim(Message, frozen=True, tag="claim"):
    """The state I came to, and the results I came to it from."""

    state: bytes
    results: bytes


Body = Upload | Report | Vote | Seed | Result | Claim


class Said(Message, frozen=True, tag="said"):
    """A body with the numbers that say where it belongs; the context is the envelope's."""

    run: bytes
    round: int
    attempt: int
    body: Body


class Heard(Message, frozen=True, tag="heard"):
    """A verified `Said` and the envelope that proves it."""

    sender: bytes
    context: bytes
    said: Said
    envelope: bytes


def say(
    sign: Callable[[bytes], bytes], sender: PublicKey, attempt: Attempt, body: Body
) -> bytes:
    """The envelope of `body`."""
    said = Said(attempt.run, attempt.round, attempt.attempt, body)
    return seal(sign, DOMAIN, sender, attempt.context(), encode(said))


def hear(data: bytes) -> Heard:
    """Verify the signature and the lengths; membership is the round's business."""
    envelope = open_envelope(data, DOMAIN, limit_bytes=LIMIT_BYTES)
    said = decode(envelope.payload, Said, limit_bytes=LIMIT_BYTES)
    require_length("run", said.run, DIGEST_BYTES)
    require_length("context", envelope.context, DIGEST_BYTES)
    if said.round < 0 or said.attempt < 0:
        raise MalformedMessageError(f"round {said.round}, attempt {said.attempt}")
    _check_lengths(said.body)
    return Heard(envelope.sender, envelope.context, said, data)


def _check_lengths(body: Body) -> None:
    match body:
        case Upload():
            require_length("seed commitment", body.seed_commitment, DIGEST_BYTES)
            for shard in body.shards:
                require_length("shard digest", shard, DIGEST_BYTES)
        case Report() | Vote():
            require_length("uploads digest", body.uploads, DIGEST_BYTES)
        case Seed():
            require_length("seed", body.seed, 32)
        case Result():
            require_length("result digest", body.blob, DIGEST_BYTES)
        case Claim():
            require_length("state root", body.state, DIGEST_BYTES)
            require_length("results digest", body.results, DIGEST_BYTES)


def uploads_digest(uploads: dict[bytes, Upload]) -> Digest:
    """What a vote is about: every member's upload, by node key."""
    return digest(encode(tuple((key, uploads[key]) for key in sorted(uploads))))


def results_digest(results: dict[bytes, Result]) -> Digest:
    """What a claim was computed from."""
    return digest(encode(tuple((key, results[key]) for key in sorted(results))))
