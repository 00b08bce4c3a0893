"""What was made from what, by whom and with which tool: a chain anyone can check.

Each step is signed by the node that did it and names what it used and what it made by
digest.  Within a chain a step may use only what comes from outside or from a step
before it, and nothing is made twice, so the steps form a graph without cycles and the
last one's product is what the chain is about.  The words are W3C PROV's.
"""

import re
from collections.abc import Callable, Sequence

from protocol import merkle
from protocol.envelope import open_envelope, seal
from protocol.errors import MalformedMessageError, SignatureError, VerificationError
from protocol.types import DIGEST_BYTES, Digest, PublicKey, digest
from protocol.wire import Message, decode, encode

STEP_DOMAIN = "rexis/provenance/1"
STEPS_LIMIT = 64
"""Steps of one chain: a dataset has one or two, a model one per round and phase."""
_USED_LIMIT = 1024
_TEXT_LIMIT = 200
_ACTIVITY = re.compile(r"[a-z][a-z0-9-]{0,39}")


class Step(Message, frozen=True, tag="step"):
    """One activity: `agent` made `made` from `used`."""

    activity: str
    """A lower-case word, such as `encrypt`, `train`, `release`."""
    used: tuple[bytes, ...]
    made: bytes
    tool: str
    version: str
    agent: bytes
    """Ed25519 key of the node."""
    at: int
    """Unix seconds."""


def citation_digest(source: str) -> Digest:
    """A source outside Rexis is known by its citation; never by a hash of records."""
    return digest(b"rexis-citation-v1\x00" + source.encode())


def check_step(step: Step) -> None:
    """Raise `MalformedMessageError` unless the fields keep their rules."""
    if not _ACTIVITY.fullmatch(step.activity):
        raise MalformedMessageError(f"activity {step.activity[:40]!r} is not a word")
    if not 1 <= len(step.used) <= _USED_LIMIT:
        raise MalformedMessageError(
            f"step uses {len(step.used)} things, needs between 1 and {_USED_LIMIT}"
        )
    if any(len(one) != DIGEST_BYTES for one in (*step.used, step.made)):
        raise MalformedMessageError(f"a digest of a step has not {DIGEST_BYTES} bytes")
    if list(step.used) != sorted(set(step.used)):
        raise MalformedMessageError("what a step uses is not sorted or stands twice")
    for text in (step.tool, step.version):
        if not text or len(text) > _TEXT_LIMIT or not text.isprintable():
            raise MalformedMessageError("tool or version is not a short printable text")
    if step.at < 0:
        raise MalformedMessageError(f"step is dated {step.at}")


def seal_step(sign: Callable[[bytes], bytes], agent: PublicKey, step: Step) -> bytes:
    """The agent signs `step`, in the context of what it made."""
    check_step(step)
    return seal(sign, STEP_DOMAIN, agent, step.made, encode(step))


def open_step(data: bytes) -> Step:
    """The step in `data`, signed by the agent it names."""
    envelope = open_envelope(data, STEP_DOMAIN)
    step = decode(envelope.payload, Step)
    check_step(step)
    if envelope.sender != step.agent:
        raise SignatureError("step's signer", step.agent.hex(), envelope.sender.hex())
    if envelope.context != step.made:
        raise SignatureError("step's context", step.made.hex(), envelope.context.hex())
    return step


def chain_digest(steps: Sequence[Step]) -> Digest:
    """Merkle root over the steps, in order."""
    return merkle.root([encode(step) for step in steps])


def verify_chain(
    sealed: Sequence[bytes], *, expected: bytes, product: bytes
) -> tuple[Step, ...]:
    """All steps behind `product`, whose chain has the digest `expected`."""
    if not 1 <= len(sealed) <= STEPS_LIMIT:
        raise MalformedMessageError(
            f"chain has {len(sealed)} steps, needs between 1 and {STEPS_LIMIT}"
        )
    steps = tuple(open_step(one) for one in sealed)
    actual = chain_digest(steps)
    if actual != expected:
        raise VerificationError("provenance digest", expected.hex(), actual.hex())
    later = {step.made for step in steps}
    if len(later) != len(steps):
        raise VerificationError("provenance: one thing is made twice")
    for step in steps:
        if later.intersection(step.used):
            raise VerificationError("provenance: a step uses what is made later")
        later.remove(step.made)
    if steps[-1].made != product:
        raise VerificationError(
            "provenance's product", product.hex(), steps[-1].made.hex()
        )
    return steps
