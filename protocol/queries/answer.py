"""An institution's answer: its noisy vector and a signed word for what it was made of.

The attestation binds the question, the listing and the manifest of the dataset, the digest of
the program that computed, the variance of the noise, and the words that were sent.  It is the
institution's word: a hostile one can sign what it never computed, and no mask or noise is
visible from outside.  What it cannot do is to say different things to different people
without leaving two signatures.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.aggregate.masks import apply, pair_key
from protocol.envelope import open_envelope, seal
from protocol.errors import MalformedMessageError, VerificationError
from protocol.queries.spec import ROW, Query, cells
from protocol.types import DIGEST_BYTES, Digest, PublicKey, digest
from protocol.wire import Message, decode, encode

QUERY_PROTOCOL, CHECK_PROTOCOL = "/rexis/query/4", "/rexis/query-check/4"
FORGET_PROTOCOL = "/rexis/query-forget/1"
QUERY_DOMAIN, ANSWER_DOMAIN = "rexis/query/1", "rexis/answer/1"
QUERY_LIMIT_BYTES = 1 << 18
ANSWER_LIMIT_BYTES = 1 << 18

Words = NDArray[np.uint64]


class Attestation(Message, frozen=True, tag="attestation"):
    """What an institution says of its answer."""

    query: bytes
    dataset: int
    record: bytes
    """Digest of the listing, as the chain has it."""
    manifest: bytes
    """Merkle root over the ciphertext the rows were decrypted from."""
    code: bytes
    numerator: int
    denominator: int
    """Of the noise's variance."""
    masked: bool
    words: bytes
    """Digest of the vector that was sent."""

    def check(self) -> None:
        for name in ("query", "record", "manifest", "code", "words"):
            if len(getattr(self, name)) != DIGEST_BYTES:
                raise MalformedMessageError(f"{name} is not {DIGEST_BYTES} bytes")
        if not 0 <= self.dataset < 1 << 53:
            raise MalformedMessageError(f"dataset {self.dataset}")


class Forgot(Message, frozen=True, tag="query-forgot"):
    """An institution holds nothing of a question any more, and never answers it again."""

    spent: int
    """What its dataset has paid for it, in millionths of rho; that stays paid."""


class Answer(Message, frozen=True, tag="query-answer"):
    """What travels back: the sealed attestation and the words it is about."""

    attestation: bytes
    words: bytes


def seal_query(sign: Callable[[bytes], bytes], asker: PublicKey, query: Query) -> bytes:
    """Signed by whoever asks, so that an institution can show who did."""
    query.check()
    return seal(sign, QUERY_DOMAIN, asker, query.id(), encode(query))


def open_query(data: bytes) -> tuple[Query, PublicKey]:
    """A verified question and who asks it."""
    envelope = open_envelope(data, QUERY_DOMAIN, limit_bytes=QUERY_LIMIT_BYTES)
    query = decode(envelope.payload, Query, limit_bytes=QUERY_LIMIT_BYTES)
    query.check()
    if envelope.context != query.id():
        raise MalformedMessageError("query is signed in another context")
    return query, PublicKey(envelope.sender)


def seal_answer(
    sign: Callable[[bytes], bytes], member: PublicKey, said: Attestation, words: Words
) -> bytes:
    """Signed by the institution that computed."""
    said.check()
    sealed = seal(sign, ANSWER_DOMAIN, member, said.query, encode(said))
    return encode(Answer(sealed, words.astype("<u8").tobytes()))


def open_answer(data: bytes, query: Query) -> tuple[Attestation, Words, PublicKey]:
    """An answer that fits the question: its word, its vector, who signed."""
    answer = decode(data, Answer, limit_bytes=ANSWER_LIMIT_BYTES)
    said, signer = open_attestation(answer.attestation, query)
    if digest(answer.words) != said.words or len(answer.words) != 8 * cells(query):
        raise VerificationError("words of the answer are not those that were signed")
    return said, np.frombuffer(answer.words, "<u8"), signer


def attestation(answer: bytes) -> bytes:
    """The sealed word in an answer that was verified before."""
    return decode(answer, Answer, limit_bytes=ANSWER_LIMIT_BYTES).attestation


def open_attestation(sealed: bytes, query: Query) -> tuple[Attestation, PublicKey]:
    """An institution's word about its answer to this question, and who signed it."""
    envelope = open_envelope(sealed, ANSWER_DOMAIN)
    said = decode(envelope.payload, Attestation)
    said.check()
    if envelope.context != said.query or said.query != query.id():
        raise VerificationError(
            "query of the answer", query.id().hex()[:16], said.query.hex()[:16]
        )
    if said.code != query.code:
        raise VerificationError(
            "code of the answer", query.code.hex()[:16], said.code.hex()[:16]
        )
    if (said.numerator, said.denominator) != query.sigma2.as_integer_ratio():
        raise VerificationError(
            "variance of the noise",
            query.sigma2,
            f"{said.numerator}/{said.denominator}",
        )
    named = {one.dataset: one.record for one in query.datasets}
    if named.get(said.dataset) != said.record:
        raise VerificationError("dataset of the answer is not one that was asked")
    if said.masked != (len(query.datasets) > 1):
        raise VerificationError("an answer among several is masked, and only then")
    return said, PublicKey(envelope.sender)


def mask(
    words: Words,
    query: Query,
    me: bytes,
    others: Sequence[bytes],
    secret: Callable[[bytes], bytes],
) -> None:
    """Add this member's pairwise masks, in place; they vanish in the sum over all.

    `secret` gives what this member and another agree on.  The question is in every key, so no
    two questions share a mask; and an institution answers a question once.
    """
    context = Digest(query.id())
    keys = {other: pair_key(secret(other), context, me, other) for other in others}
    apply(
        words,
        0,
        [key for other, key in keys.items() if me < other],
        [key for other, key in keys.items() if me > other],
    )


def suppressed(query: Query, noisy: Words, floor: int) -> Words:
    """An answer that nobody is added to, without its small cells: they become 0.

    Only where a cell is what will be read.  A curve or a quantile is made of small cells, and
    what protects those is the noise; a model's answer is made of all of them, so it is kept or
    dropped whole, by the rows there are of each answer to be told apart.
    """
    if len(query.datasets) > 1:
        return noisy
    cells_ = noisy.view(np.int64)
    if query.kind in {"count", "histogram"}:
        return np.where(cells_ < floor, 0, noisy)
    if query.kind == "evaluation":
        fewest = int(cells_.reshape(2, query.bins).sum(axis=1).min())
    elif query.kind == "training":
        fewest = int(cells_[0]) // ROW
    else:
        return noisy
    return np.zeros_like(noisy) if fewest < floor else noisy


def added(vectors: Sequence[Words]) -> NDArray[np.int64]:
    """The sum of all answers; their masks are gone, their noises are in it."""
    total = np.zeros_like(vectors[0])
    for words in vectors:
        np.add(total, words, out=total)
    return total.view(np.int64)
