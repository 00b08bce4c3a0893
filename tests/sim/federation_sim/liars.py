"""Members that do not keep to the rules.  Each lie is a function that sets one up."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from federation_sim import work
from federation_sim.world import Node, World

from protocol import certificate
from protocol.aggregate import sketch
from protocol.certificate import Kind, Proposal, Step, Vote, speak
from protocol.envelope import Envelope
from protocol.rounds import events as ev
from protocol.rounds.messages import (
    GIVEN_UP,
    LIMIT_BYTES,
    Claim,
    Opening,
    PreKey,
    Release,
    Report,
    Reveal,
    Said,
    Tags,
    Upload,
    say,
)
from protocol.rounds.pairs import key_digest
from protocol.types import PublicKey, digest
from protocol.wire import decode, encode

Body = Any


def _opened(effect: Any) -> tuple[Envelope, Body] | None:
    """What a node is about to say, if it is its own."""
    if not isinstance(effect, ev.Publish | ev.Send):
        return None
    outer = decode(effect.envelope, Envelope, limit_bytes=LIMIT_BYTES)
    if outer.domain == certificate.DOMAIN:
        return outer, decode(outer.payload, Vote | Proposal, limit_bytes=LIMIT_BYTES)
    return outer, decode(outer.payload, Said, limit_bytes=LIMIT_BYTES)


def _again(node: Node, outer: Envelope, said: Said, body: Body) -> bytes:
    other = Said(said.run, said.round, said.attempt, body)
    return say(node.keys.sign, PublicKey(node.name), outer.context, other)


def _everyone(world: World, node: Node, one: bytes, other: bytes) -> list[Any]:
    """Half of the members hear one thing, half the other."""
    names = [name for name in world.nodes if name != node.name]
    return [
        ev.Send(name, one if place % 2 else other) for place, name in enumerate(names)
    ]


Change = Callable[[Node, Body], Body | None]


def _says_otherwise(change: Change, *, to_half: bool) -> Callable[..., None]:
    """Say `change(body)` in place of a body: to everyone, or to half of the members."""

    def lie(world: World, node: Node, _dice: Any) -> None:
        def instead(liar: Node, effect: Any) -> list[Any] | None:
            opened = _opened(effect) if liar is node else None
            if opened is None or opened[0].sender != node.name:
                return None
            outer, said = opened
            if isinstance(said, Said):
                body = change(node, said.body)
                if body is None:
                    return None
                forged = _again(node, outer, said, body)
            else:
                ballot = change(node, said)
                if ballot is None:
                    return None
                forged = speak(node.keys.sign, PublicKey(node.name), ballot)
            if not to_half or isinstance(effect, ev.Send):
                return (
                    [msgspec.structs.replace(effect, envelope=forged)]
                    if hasattr(effect, "__struct_fields__")
                    else [_with(effect, forged)]
                )
            return _everyone(world, node, effect.envelope, forged)

        _behave(world, node, instead)

    return lie


def _with(effect: Any, envelope: bytes) -> Any:
    if isinstance(effect, ev.Send):
        return ev.Send(effect.member, envelope)
    return ev.Publish(envelope)


def _behave(world: World, node: Node, instead: Callable[[Node, Any], Any]) -> None:
    before = world.mischief

    def mischief(liar: Node, effect: Any) -> list[Any] | None:
        found = instead(liar, effect) if liar is node else None
        return before(liar, effect) if found is None else found

    world.mischief = mischief


def _other_proposal(_node: Node, body: Body) -> Body | None:
    if not isinstance(body, Proposal):
        return None
    if body.slot.kind == Kind.OPEN:
        opening = decode(body.value, Opening)
        if len(opening.members) < 4:
            return None
        fewer = msgspec.structs.replace(
            opening, members=opening.members[1:], prekeys=opening.prekeys[1:]
        )
        return msgspec.structs.replace(body, value=encode(fewer))
    if body.slot.kind == Kind.SURVIVORS:
        return msgspec.structs.replace(body, value=encode(GIVEN_UP))
    return msgspec.structs.replace(body, value=b"\x00")


def _other_vote(_node: Node, body: Body) -> Body | None:
    if not isinstance(body, Vote):
        return None
    value = digest(b"another") if body.step == Step.PREVOTE else certificate.NOTHING
    return msgspec.structs.replace(body, value=value)


def _other_upload(_node: Node, body: Body) -> Body | None:
    if not isinstance(body, Upload):
        return None
    return Upload((*body.shards[:-1], digest(b"no such shard")), body.pairs)


def _wrong_shares(_node: Node, body: Body) -> Body | None:
    if not isinstance(body, Release):
        return None
    shares = tuple(bytes(32) if share else share for share in body.shares)
    return msgspec.structs.replace(body, shares=shares)


def _wrong_tags(_node: Node, body: Body) -> Body | None:
    return (
        Tags(tuple((v + 1) % ((1 << 61) - 1) for v in body.values))
        if isinstance(body, Tags)
        else None
    )


def _wrong_claim(_node: Node, body: Body) -> Body | None:
    if not isinstance(body, Claim):
        return None
    return msgspec.structs.replace(body, state=digest(b"mine"), accept=False)


def _bad_dealer(_node: Node, body: Body) -> Body | None:
    """Sealed shares that open to nothing."""
    if not isinstance(body, PreKey):
        return None
    return msgspec.structs.replace(
        body, sealed=tuple(bytes(len(each)) for each in body.sealed)
    )


def _false_report(_node: Node, body: Body) -> Body | None:
    """A sum that nobody can fetch."""
    if not isinstance(body, Report):
        return None
    return msgspec.structs.replace(body, sum=digest(b"nowhere" + body.sum))


def _sums_wrongly(by: int) -> Callable[..., None]:
    def lie(world: World, node: Node, _dice: Any) -> None:
        def instead(liar: Node, effect: Any) -> list[Any] | None:
            if not isinstance(effect, ev.Sum) or liar.machine is None:
                return None
            ring = world.policy.ring()
            try:
                event = work.add_up(effect, liar.blobs, ring, wrong=by)
            except KeyError:
                return []
            life = liar.life
            world.later(5, lambda: world._answer(liar, life, event))
            return []

        _behave(world, node, instead)

    return lie


def _keeps_its_tags(world: World, node: Node, dice: Any) -> None:
    """Adds up wrongly, and says nothing that would show it."""
    _sums_wrongly(1)(world, node, dice)
    _says_nothing(Tags)(world, node, dice)


def _says_nothing(kind: type) -> Callable[..., None]:
    """Everything but that."""

    def lie(world: World, node: Node, _dice: Any) -> None:
        def instead(liar: Node, effect: Any) -> list[Any] | None:
            opened = _opened(effect)
            if opened is None or opened[0].sender != liar.name:
                return None
            said = opened[1]
            return (
                [] if isinstance(said, Said) and isinstance(said.body, kind) else None
            )

        _behave(world, node, instead)

    return lie


def _answers_otherwise(
    kind: type, answer: Callable[[World, Node, Any], ev.Event | None]
) -> Callable[..., None]:
    """Do another work than the one asked for; None: none at all."""

    def lie(world: World, node: Node, _dice: Any) -> None:
        def instead(liar: Node, effect: Any) -> list[Any] | None:
            if not isinstance(effect, kind) or liar.machine is None:
                return None
            try:
                event = answer(world, liar, effect)
            except KeyError:
                return []
            life = liar.life
            if event is not None:
                world.later(5, lambda: world._answer(liar, life, event))
            return []

        _behave(world, node, instead)

    return lie


def _poison(change: Callable[[np.ndarray, World], np.ndarray]) -> Callable[..., None]:
    """Upload something else than one's update."""

    def answer(world: World, liar: Node, effect: Any) -> ev.Event:
        epoch, ring = liar.machine.epoch, world.policy.ring()  # type: ignore[union-attr] # it runs
        done = work.quantise(effect, liar.blobs, epoch, liar.name, world.numbers)
        words = work.words(liar.blobs, done.blob, ring)
        poisoned = change(ring.signed(words).astype(np.int64), world)
        return ev.Quantised(
            effect.context, work.put(liar.blobs, poisoned.astype(ring.dtype).tobytes())
        )

    return _answers_otherwise(ev.Quantise, answer)


def _longer(entries: np.ndarray, world: World) -> np.ndarray:
    limit = world.policy.ring().limit
    return np.clip(entries * 10, -limit, limit)


def _noise(entries: np.ndarray, world: World) -> np.ndarray:
    return world.numbers.integers(0, 1 << world.policy.ring_bits, entries.size)


def _sketches(change: Callable[[list[Any], World], list[Any]]) -> Callable[..., None]:
    """Say other sketches than one's own: [0] of the masked update, the others of masks."""

    def answer(world: World, liar: Node, effect: Any) -> ev.Event:
        epoch = liar.machine.epoch  # type: ignore[union-attr] # it runs
        ring, length = epoch.policy.ring(), epoch.policy.length
        done = work.draw(effect, liar.blobs, epoch)
        count = 1 + len(effect.keys)
        said = sketch.unpack(liar.blobs[done.blob], count, length, ring)
        assert said is not None
        packed = sketch.pack(change(said, world), ring)
        return ev.Drawn(effect.context, work.put(liar.blobs, packed))

    return _answers_otherwise(ev.Draw, answer)


def _denies(said: list[Any], _world: World) -> list[Any]:
    """Another weight of the first mask than it has."""
    return [said[0], said[1] + np.uint64(7), *said[2:]]


def _denies_itself(said: list[Any], _world: World) -> list[Any]:
    return [said[0] + np.uint64(7), *said[1:]]


def _denies_both(said: list[Any], world: World) -> list[Any]:
    return _denies_itself(_denies(said, world), world)


_ANOTHER_KEY = bytes(32)


def _other_digest(_node: Node, body: Body) -> Body | None:
    """Contradict the first other member about the key that both hold."""
    if not isinstance(body, Upload):
        return None
    first = next(i for i, each in enumerate(body.pairs) if each)
    digests = [
        key_digest(_ANOTHER_KEY) if i == first else each
        for i, each in enumerate(body.pairs)
    ]
    return Upload(body.shards, tuple(digests))


def _binds_to_another_key(world: World, node: Node, dice: Any) -> None:
    """Says so in its upload, in its sketches, and when it opens the key."""
    _says_otherwise(_other_digest, to_half=False)(world, node, dice)
    _sketches(_denies)(world, node, dice)
    _says_otherwise(_wrong_keys, to_half=False)(world, node, dice)


def _wrong_keys(_node: Node, body: Body) -> Body | None:
    if not isinstance(body, Reveal):
        return None
    return Reveal(tuple((place, _ANOTHER_KEY) for place, _ in body.keys))


def _sums_nothing(world: World, node: Node, _dice: Any) -> None:
    """Takes part, and never reports the sum of its slice."""

    def instead(_liar: Node, effect: Any) -> list[Any] | None:
        return [] if isinstance(effect, ev.Sum) else None

    _behave(world, node, instead)


def _silent(world: World, node: Node, _dice: Any) -> None:
    """Hears everything and answers nothing."""

    def instead(_liar: Node, effect: Any) -> list[Any] | None:
        return [] if isinstance(effect, ev.Publish | ev.Send) else None

    _behave(world, node, instead)


def _refuses(world: World, node: Node, _dice: Any) -> None:
    """Announces its parts and lets nobody have them."""

    def instead(liar: Node, effect: Any) -> list[Any] | None:
        if isinstance(effect, ev.Mask):
            event = work.mask(effect, liar.blobs, world.policy.ring())
            for shard in event.shards:
                liar.blobs.pop(shard, None)
            life = liar.life
            world.later(5, lambda: world._answer(liar, life, event))
            return []
        return None

    _behave(world, node, instead)


def _floods(world: World, node: Node, dice: Any) -> None:
    """Signed nonsense, stale and future, all the time; and everything it says, thrice."""
    spoken: list[bytes] = []

    def instead(_liar: Node, effect: Any) -> list[Any] | None:
        opened = _opened(effect)
        if opened is None or isinstance(effect, ev.Send):
            return None
        outer, said = opened
        spoken.append(effect.envelope)
        out = [effect, effect, ev.Publish(dice.choice(spoken))]
        if isinstance(said, Said):
            for _ in range(2):
                ahead = Said(
                    said.run,
                    said.round + dice.randint(0, 3),
                    said.attempt + dice.randint(0, 3),
                    Report(
                        dice.randint(0, 40),
                        dice.randint(0, 9),
                        dice.randint(1, 1 << 40),
                        digest(dice.randbytes(4)),
                        digest(dice.randbytes(4)),
                        b"",
                    ),
                )
                envelope = say(
                    node.keys.sign, PublicKey(node.name), outer.context, ahead
                )
                out.append(ev.Publish(envelope))
        else:
            far = msgspec.structs.replace(said, view=said.view + dice.randint(1, 100))
            if isinstance(far, Vote):
                out.append(ev.Publish(speak(node.keys.sign, PublicKey(node.name), far)))
        return out

    _behave(world, node, instead)


LIES: dict[str, Callable[..., None]] = {
    "proposes two things": _says_otherwise(_other_proposal, to_half=True),
    "votes twice": _says_otherwise(_other_vote, to_half=True),
    "uploads two things": _says_otherwise(_other_upload, to_half=True),
    "uploads nothing it announced": _refuses,
    "releases wrong shares": _says_otherwise(_wrong_shares, to_half=False),
    "tags wrongly": _says_otherwise(_wrong_tags, to_half=False),
    "claims another state": _says_otherwise(_wrong_claim, to_half=False),
    "deals badly": _says_otherwise(_bad_dealer, to_half=False),
    "reports a sum nobody has": _says_otherwise(_false_report, to_half=False),
    "sums nothing": _sums_nothing,
    "uploads a long update": _poison(_longer),
    "uploads noise": _poison(_noise),
    "binds itself to another key": _binds_to_another_key,
    "sketches a mask wrongly": _sketches(_denies),
    "sketches its update wrongly": _sketches(_denies_itself),
    "sketches both wrongly": _sketches(_denies_both),
    "sketches nothing": _answers_otherwise(ev.Draw, lambda _w, _n, _e: None),
    "opens wrong keys": _says_otherwise(_wrong_keys, to_half=False),
    "sums wrongly within range": _sums_wrongly(1),
    "sums wrongly beyond range": _sums_wrongly(-(1 << 15) - (1 << 31)),
    "sums wrongly and keeps its tags": _keeps_its_tags,
    "is silent": _silent,
    "floods": _floods,
}
