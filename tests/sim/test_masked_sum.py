"""Whole attempts over a network that delays, reorders and repeats."""

import random
from dataclasses import dataclass, field

import nacl.signing
import numpy as np
import pytest

from protocol.aggregate import masks, ring
from protocol.aggregate import round as machine
from protocol.aggregate.messages import (
    Attempt,
    Claim,
    Result,
    Seed,
    Upload,
    Vote,
    hear,
    say,
)
from protocol.aggregate.round import (
    Applied,
    ApplySum,
    Failed,
    Fetch,
    Fetched,
    Finished,
    Masked,
    MaskUpdate,
    Persist,
    Publish,
    Received,
    Round,
    Started,
    SumShard,
    Tick,
    Unmasked,
)
from protocol.errors import LocalProtocolError
from protocol.types import Digest, Millis, PublicKey, digest

LENGTH = 1003


@dataclass
class Peer:
    key: nacl.signing.SigningKey
    update: np.ndarray
    blobs: dict[bytes, bytes] = field(default_factory=dict)
    said: list[bytes] = field(default_factory=list)
    stored: list[bytes] = field(default_factory=list)
    end: object = None
    machine: Round | None = None
    lies: bool = False

    @property
    def name(self) -> bytes:
        return bytes(self.key.verify_key)

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message).signature


class Federation:
    """Peers, a queue in random order, and the vector work done for real."""

    def __init__(self, count: int, seed: int, attempt: int = 0):
        self.chance = random.Random(seed)
        generator = np.random.default_rng(seed)
        keys = [nacl.signing.SigningKey(bytes([i + 1]) * 32) for i in range(count)]
        self.peers = {
            bytes(k.verify_key): Peer(
                k, generator.normal(size=LENGTH).astype(np.float32) * 0.1
            )
            for k in keys
        }
        members = tuple(sorted(self.peers))
        self.attempt = Attempt(
            bytes(32),
            0,
            attempt,
            members,
            bytes(32),
            LENGTH,
            tuple(range(10, 10 + count)),
        )
        self.context = self.attempt.context()
        for peer in self.peers.values():
            peer.machine = Round(
                self.attempt,
                PublicKey(peer.name),
                peer.sign,
                digest(b"seed" + peer.name + bytes([attempt])),
                deadline=Millis(1000),
                upload_deadline=Millis(1000),
            )
        self.queue: list[tuple[bytes, object]] = [(m, Started()) for m in members]
        self.silent: set[bytes] = set()

    def run(self, now: int = 0) -> None:
        while self.queue:
            place = self.chance.randrange(len(self.queue))
            member, event = self.queue.pop(place)
            if isinstance(event, Received) and self.chance.random() < 0.2:
                self.queue.append((member, event))  # said twice
            peer = self.peers[member]
            for effect in peer.machine.handle(event, Millis(now)):
                self.do(peer, effect)

    def tick(self, now: int) -> None:
        self.queue += [(member, Tick()) for member in self.peers]
        self.run(now)

    def do(self, peer: Peer, effect: object) -> None:
        match effect:
            case Persist():
                peer.stored.append(effect.envelope)
            case Publish():
                assert effect.envelope in peer.stored, "said before it was on disk"
                peer.said.append(effect.envelope)
                if peer.name not in self.silent:
                    self.broadcast(peer.name, effect.envelope)
            case Fetch():
                data = self.peers[effect.member].blobs[effect.blob]
                assert len(data) <= effect.limit_bytes
                peer.blobs[effect.blob] = data
                self.queue.append((peer.name, Fetched(effect.blob)))
            case MaskUpdate():
                self.queue.append((peer.name, Masked(self.masked(peer, effect))))
            case SumShard():
                self.queue.append((peer.name, Unmasked(self.summed(peer, effect))))
            case ApplySum():
                mean = b"".join(peer.blobs[blob] for blob in effect.results)
                self.queue.append((peer.name, Applied(digest(mean))))
            case Finished() | Failed():
                peer.end = effect

    def broadcast(self, sender: bytes, envelope: bytes) -> None:
        heard = hear(envelope)
        self.queue += [(m, Received(heard)) for m in self.peers if m != sender]

    def masked(self, peer: Peer, effect: MaskUpdate) -> tuple[Digest, ...]:
        words = self.encoded(peer)
        secrets = {
            other: digest(b"".join(sorted((peer.name, other))))
            for other in self.peers
            if other != peer.name
        }
        out = masks.mask(words, peer.name, self.context, secrets, effect.seed)
        parts = [out[s.start : s.stop].tobytes() for s in effect.shards]
        peer.blobs.update({digest(part): part for part in parts})
        return tuple(digest(part) for part in parts)

    def encoded(self, peer: Peer) -> np.ndarray:
        index = self.attempt.members.index(peer.name)
        weight = self.attempt.weights[index] / sum(self.attempt.weights)
        return ring.encode(peer.update, weight, len(self.peers)).words

    def summed(self, peer: Peer, effect: SumShard) -> Digest:
        parts = [np.frombuffer(peer.blobs[blob], "<u4") for blob in effect.inputs]
        total = masks.unmask(
            masks.add(parts), effect.shard.start, self.context, effect.seeds
        )
        if peer.lies:
            total = total + np.uint32(1)
        peer.blobs[digest(total.tobytes())] = total.tobytes()
        return digest(total.tobytes())

    def expected(self) -> bytes:
        return masks.add([self.encoded(p) for p in self.peers.values()]).tobytes()


@pytest.mark.parametrize("seed", range(12))
def test_all_members_end_with_the_exact_sum_whatever_the_schedule(seed):
    federation = Federation(3 + seed % 4, seed)
    federation.run()
    ends = {peer.end.state for peer in federation.peers.values()}
    assert ends == {digest(federation.expected())}
    for peer in federation.peers.values():
        assert len(peer.end.claims) == len(federation.peers)


def test_the_sum_decodes_to_the_weighted_mean():
    federation = Federation(4, 5)
    total = np.frombuffer(federation.expected(), "<u4")
    weights = dict(
        zip(federation.attempt.members, federation.attempt.weights, strict=True)
    )
    mean = sum(p.update * weights[p.name] for p in federation.peers.values()) / sum(
        federation.attempt.weights
    )
    np.testing.assert_allclose(ring.decode(total), mean, atol=4 * 2.0**-25 + 1e-7)


def test_a_silent_member_fails_the_attempt_and_no_seed_leaves():
    federation = Federation(4, 1)
    gone = federation.attempt.members[2]
    federation.silent.add(gone)
    federation.run()
    federation.tick(500)
    assert all(peer.end is None for peer in federation.peers.values())
    federation.tick(1500)
    others = [p for p in federation.peers.values() if p.name != gone]
    assert all(isinstance(p.end, Failed) and gone in p.end.members for p in others)
    assert not any(isinstance(hear(e).said.body, Seed) for p in others for e in p.said)
    again = Federation(4, 1, attempt=1)
    again.run()
    assert {p.end.state for p in again.peers.values()} == {digest(again.expected())}


def test_an_attempt_shares_no_mask_with_the_one_before():
    first, second = Federation(3, 1), Federation(3, 1, attempt=1)
    first.run()
    second.run()
    for name, peer in first.peers.items():
        shown = [uploaded(peer).shards, uploaded(second.peers[name]).shards]
        assert not set(shown[0]) & set(shown[1])


def uploaded(peer: Peer) -> Upload:
    return next(b for e in peer.said if isinstance(b := hear(e).said.body, Upload))


def test_two_votes_of_one_member_are_evidence():
    federation = Federation(4, 2)
    liar = federation.peers[federation.attempt.members[0]]
    federation.run()
    fresh = Federation(4, 2)
    victim = fresh.peers[fresh.attempt.members[1]]
    one = say(liar.sign, PublicKey(liar.name), fresh.attempt, Vote(bytes(32)))
    two = say(liar.sign, PublicKey(liar.name), fresh.attempt, Vote(bytes([1]) * 32))
    assert victim.machine.handle(Received(hear(one)), Millis(0)) == []
    (failed,) = victim.machine.handle(Received(hear(two)), Millis(0))
    assert failed.members == (liar.name,)
    assert failed.evidence == (one, two)


def test_a_vote_for_other_uploads_gives_no_seed():
    federation = Federation(4, 3)
    liar = federation.peers[federation.attempt.members[0]]
    honest_sign = federation.do

    def do(peer, effect):
        if (
            peer is liar
            and isinstance(effect, Publish)
            and isinstance(hear(effect.envelope).said.body, Vote)
        ):
            other = Vote(bytes(32))
            effect = Publish(
                say(liar.sign, PublicKey(liar.name), federation.attempt, other)
            )
            peer.stored.append(effect.envelope)
        honest_sign(peer, effect)

    federation.do = do
    federation.run()
    others = [p for p in federation.peers.values() if p is not liar]
    assert all(
        isinstance(p.end, Failed) and p.end.members == (liar.name,) for p in others
    )
    assert not any(isinstance(hear(e).said.body, Seed) for p in others for e in p.said)


def test_a_seed_that_was_not_committed_is_named():
    federation = Federation(3, 4)
    liar = federation.peers[federation.attempt.members[1]]
    usual = federation.do

    def do(peer, effect):
        if (
            peer is liar
            and isinstance(effect, Publish)
            and isinstance(hear(effect.envelope).said.body, Seed)
        ):
            wrong = say(
                liar.sign, PublicKey(liar.name), federation.attempt, Seed(bytes(32))
            )
            peer.stored.append(wrong)
            effect = Publish(wrong)
        usual(peer, effect)

    federation.do = do
    federation.run()
    for peer in federation.peers.values():
        if peer is not liar:
            assert "commitment" in peer.end.reason
            assert peer.end.members == (liar.name,)


def test_owners_that_tell_members_different_sums_are_found_out():
    federation = Federation(4, 6)
    liar = federation.peers[federation.attempt.members[3]]
    federation.run()
    claims = [
        Claim(bytes(32), bytes(32)),
        Claim(bytes(32), bytes([1]) * 32),
    ]
    fresh = Federation(4, 6)
    peer = fresh.peers[fresh.attempt.members[0]]
    peer.machine.phase = machine.Phase.CLAIMING
    effects = peer.machine._say(claims[0])
    assert effects
    out = []
    for other in fresh.attempt.members[1:]:
        told = claims[1] if other == liar.name else claims[0]
        envelope = say(fresh.peers[other].sign, PublicKey(other), fresh.attempt, told)
        out = peer.machine.handle(Received(hear(envelope)), Millis(0))
    assert isinstance(out[0], Failed)
    assert out[0].members == (liar.name,)
    assert out[0].reason == "different sums"


def test_a_lying_owner_is_not_caught_by_this_version():
    """What docs/protocol.md says plainly: a wrong sum told to everyone is agreed upon."""
    federation = Federation(4, 7)
    next(iter(federation.peers.values())).lies = True
    federation.run()
    ends = {peer.end.state for peer in federation.peers.values()}
    assert len(ends) == 1
    assert ends != {digest(federation.expected())}


def test_what_an_owner_sees_of_one_member_looks_uniform():
    federation = Federation(3, 8)
    federation.run()
    peer = next(iter(federation.peers.values()))
    plain = federation.encoded(peer)
    blob = b"".join(d for d in peer.blobs.values())[: 4 * LENGTH]
    high = np.frombuffer(blob, "<u4") >> 28
    counts = np.bincount(high, minlength=16)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 60  # chi2, 15 dof
    control = np.bincount(plain >> 28, minlength=16)
    assert ((control - control.mean()) ** 2 / control.mean()).sum() > 1000


def test_two_members_may_not_sum():
    federation = Federation(3, 1)
    members = federation.attempt.members[:2]
    small = Attempt(bytes(32), 0, 0, members, bytes(32), 8, (1, 1))
    with pytest.raises(LocalProtocolError, match="2 members"):
        Round(
            small,
            PublicKey(members[0]),
            lambda _: b"",
            bytes(32),
            deadline=Millis(1),
            upload_deadline=Millis(1),
        )


def test_a_stranger_and_another_context_change_nothing():
    federation = Federation(3, 1)
    peer = federation.peers[federation.attempt.members[0]]
    stranger = nacl.signing.SigningKey(bytes([99]) * 32)
    envelope = say(
        lambda m: stranger.sign(m).signature,
        PublicKey(bytes(stranger.verify_key)),
        federation.attempt,
        Result(bytes(32)),
    )
    assert peer.machine.handle(Received(hear(envelope)), Millis(0)) == []
    other = Federation(3, 1, attempt=7)
    member = other.attempt.members[1]
    envelope = say(
        other.peers[member].sign, PublicKey(member), other.attempt, Vote(bytes(32))
    )
    assert peer.machine.handle(Received(hear(envelope)), Millis(0)) == []
    assert peer.machine.waiting_for() == ()
