"""The machine with one rule taken out at a time: the laws must notice each.

A mutant that no seed catches means that the laws, or the scenarios, do not cover its rule.  Each
has a scene in which its rule decides, and the laws that may catch it; a mutant that changes
something the machine does not call is an error of its own (`IdleError`).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from federation_sim import scenes
from federation_sim.invariants import BrokenError
from federation_sim.scenario import Scenario

from protocol import decide
from protocol.rounds import (
    attempt,
    desk,
    gather,
    history,
    judgement,
    machine,
    pairs,
    policy,
    settle,
    sketching,
    stock,
    talk,
)
from protocol.rounds import events as ev
from protocol.rounds.messages import Release, Reveal, hear
from protocol.rounds.prekeys import KEY, SEED

SEEDS_AT_MOST = 150
"""Every scene shows its mutant within eighty seeds, most in the first; the rest is room for changes
of the draw."""


class IdleError(AssertionError):
    """A mutant changes something that nothing calls."""


@dataclass(frozen=True)
class Change:
    """One attribute of one class, made anew from what it is."""

    owner: Any
    name: str
    make: Callable[[Any], Any]

    @contextlib.contextmanager
    def made(self) -> Iterator[Callable[[], int]]:
        """The change in place; yields how often it has been called."""
        calls = 0

        def counted(function: Any) -> Any:
            @functools.wraps(function)
            def call(*args: Any, **named: Any) -> Any:
                nonlocal calls
                calls += 1
                return function(*args, **named)

            return call

        old = self.owner.__dict__[self.name]
        new = self.make(old)
        changed = (
            property(counted(new.fget)) if isinstance(new, property) else counted(new)
        )
        setattr(self.owner, self.name, changed)
        try:
            yield lambda: calls
        finally:
            setattr(self.owner, self.name, old)


@dataclass(frozen=True)
class Mutant:
    """Changes that take out one rule, the laws that may notice, and where they do."""

    changes: tuple[Change, ...]
    laws: tuple[str, ...]
    scene: Callable[[int], Scenario] = scenes.hard


@dataclass(frozen=True)
class Caught:
    """The seed that caught a mutant, the law it broke, and how."""

    seed: int
    law: str
    detail: str


def _hides_all(old: Any) -> Any:
    def offer(self: Any, epoch: Any, _exposed: Any = frozenset()) -> None:
        old(self, epoch)

    return offer


def _says_before_it_records(old: Any) -> Any:
    def say(
        self: Any, key: str, context: bytes, number: int, at: int, body: Any
    ) -> Any:
        heard = old(self, key, context, number, at, body)
        effects = self._effects
        if len(effects) > 1 and isinstance(effects[-2], ev.Persist):
            effects[-2:] = [effects[-1], effects[-2]]
        return heard

    return say


def _forgets_its_votes(_old: Any) -> Any:
    return lambda _self, _said: None


def _signs_anew(old: Any) -> Any:
    """After a restart, a new statement in the old one's place."""

    def say(
        self: Any, key: str, context: bytes, number: int, at: int, body: Any
    ) -> Any:
        self.records.pop(key, None)
        if key.endswith("/release"):
            body = msgspec.structs.replace(
                body, shares=tuple(b"" if self.drops else s for s in body.shares)
            )
            self.drops = not self.drops
        return old(self, key, context, number, at, body)

    return say


def _rounds_again(_old: Any) -> Any:
    """Quantise anew although a rounded update is on record."""

    def resume(self: Any, now: Any) -> None:
        _old(self, now)
        self._quantised = None

    return resume


def _both_kinds(old: Any) -> Any:
    """Members see different survivors: each takes its own view of who is gone."""

    def kind(self: Any, member: bytes) -> int:
        place = self._cohort.place(self._desk.me)
        return KEY if place % 2 else old(self, member)

    return kind


def _other_kinds(old: Any) -> Any:
    """All release what opens the masks that nobody takes off: of each the other kind."""
    return lambda self, member: KEY + SEED - old(self, member)


def _sketches_noise(_old: Any) -> Any:
    return lambda _policy: True


def _two_by_two(_old: Any) -> Any:
    """A sum is held against each one before it, and not against all of them together."""

    def isolates(self: Any, members: frozenset[bytes]) -> bool:
        floor = max(3, self.cohort.thresholds.liars + 2)
        return any(0 < len(members ^ each) < floor for each in self.opened)

    return isolates


def _follows_anything(_old: Any) -> Any:
    return lambda _self, _epoch, *, moves: True


def _follows_its_own_offer(_old: Any) -> Any:
    """Without hearing of a quorum that it was offered the same."""

    def next_epoch(self: Any, *, moves: bool) -> bytes:
        cohort, offered = self._history.cohort, self._history.next
        return cohort.name if offered is None or not moves else offered.name()

    return next_epoch


def _changes_always(_old: Any) -> Any:
    return lambda _self, *, moves: True


def _keeps_former_prekeys(_old: Any) -> Any:
    return lambda _self: []


def _keeps_secrets(_old: Any) -> Any:
    return lambda _self, _keys, _blobs=(): None


def _any_pre_key(_old: Any) -> Any:
    return lambda _self, _member, _number, _slot: True


def _small_quorum(_old: Any) -> Any:
    return property(lambda self: max(1, self.members // 2))


def _two_are_enough(_old: Any) -> Any:
    return property(lambda _self: 2)


def _no_check(_old: Any) -> Any:
    return lambda self: self.every_slice


def _never_isolates(_old: Any) -> Any:
    return lambda _self, _members: False


def _lost_but_speaks(_old: Any) -> Any:
    return property(lambda _self: False)


def _accepts_on_reject(old: Any) -> Any:
    def verdict(self: Any, settling: Any, epoch: bytes, *, accept: bool) -> Any:
        out = old(self, settling, epoch, accept=accept)
        if not accept and settling.outcome:
            return msgspec.structs.replace(out, state=settling.outcome.state)
        return out

    return verdict


def _releases_before_certificate(old: Any) -> Any:
    def advance(self: Any, now: Any) -> None:
        value = None if self.settling else self.gathering.proposal()
        if value is not None and not getattr(self, "leaked", False):
            self.leaked = True
            shares = tuple(
                k.shares.seed if k.shares else b""
                for k in (self.used[m] for m in self.opening.members)
            )
            setting = self._setting
            self._desk.say(
                setting.key("release"),
                self.context,
                setting.round,
                setting.attempt,
                Release(bytes(32), shares),
            )
        old(self, now)

    return advance


def _no_backup(_old: Any) -> Any:
    return lambda self, _target, _now: self._owned


def _tells_its_newest_view(old: Any) -> Any:
    """What it cast in the last view alone, of the two that others may need."""

    def newest(self: Any, slot: Any) -> list[bytes]:
        cast = old(self, slot)
        bodies = [hear(envelope, self.verify).body for envelope in cast]
        last = max((body.view for body in bodies), default=0)
        return [e for e, body in zip(cast, bodies, strict=True) if body.view == last]

    return newest


def _never_asks(_old: Any) -> Any:
    return lambda _self, _cohort, _now: 0


def _checks_nothing(_old: Any) -> Any:
    """Nobody has a slice to check."""
    return lambda _self: {}


def _trusts_all(_old: Any) -> Any:
    return lambda _self, _shard, _author: True


def _trusts_nobody(_old: Any) -> Any:
    return lambda _self, _shard, _author: False


def _no_quarrels(_old: Any) -> Any:
    return lambda _one, _at, _other, _there: True


def _sketches_all(_old: Any) -> Any:
    def close(self: Any, now: Any, *, sketch: bool, alone: bool) -> bool:
        if self.sketching is None:
            if not sketch or self.settling is None:
                return True
            self._begin_sketch(self.verdict.certificate, self.settling, now)
        self.sketching.advance(now, alone=alone)
        return self.sketching.over

    return close


def _never_sketched(_old: Any) -> Any:
    return property(lambda _self: True)


def _reveals_all(_old: Any) -> Any:
    """Open all masks as soon as a single one is denied."""

    def reveal(self: Any) -> None:
        if self._differ and self._keys and self._place() not in self._revealed:
            named = [m for m in self._members if m != self._desk.me]
            keys = tuple((self._setting.place(m), self._keys[m]) for m in named)
            self.hear(self._say("reveal", Reveal(keys)))

    return reveal


def _believes(old: Any) -> Any:
    """Never look at the parts."""

    def weighed(self: Any, event: Any) -> None:
        old(self, event)
        self._audits = False

    return weighed


def _one_digest(_old: Any) -> Any:
    """All keys have the same digest."""
    return lambda _key: bytes(32)


desk.Desk.drops = False  # type: ignore[attr-defined] # state of one mutant


def _one(owner: Any, name: str, make: Callable[[Any], Any]) -> tuple[Change, ...]:
    return (Change(owner, name, make),)


_FORKS = ("one value per slot", "one certificate per context", "one history")

MUTANTS: dict[str, Mutant] = {
    "says before it records": Mutant(
        _one(desk.Desk, "say", _says_before_it_records), ("recorded before said",)
    ),
    "signs anew after a restart": Mutant(
        _one(desk.Desk, "say", _signs_anew), ("the same bytes again",)
    ),
    "forgets its votes at a restart": Mutant(
        _one(decide.Decide, "resume", _forgets_its_votes),
        ("a certificate convinces everyone", *_FORKS),
        scenes.decided_by_one_that_goes,
    ),
    "rounds again under the same mask": Mutant(
        _one(attempt.Attempt, "_resume", _rounds_again), ("one mask, one text",)
    ),
    "members release different kinds of share": Mutant(
        _one(settle.Settling, "_kind", _both_kinds),
        # One of the two kinds is not the certified one: whoever speaks first decides which law.
        ("one kind of share per member", "released only what is certified"),
    ),
    "releases the other kind of share": Mutant(
        _one(settle.Settling, "_kind", _other_kinds),
        ("released only what is certified",),
        scenes.dies_before_its_upload,
    ),
    "releases before the certificate": Mutant(
        _one(attempt.Attempt, "advance", _releases_before_certificate),
        ("released only what is certified",),
    ),
    "keeps its secrets": Mutant(
        _one(desk.Desk, "forget", _keeps_secrets), ("secrets go with the verdict",)
    ),
    "lets two be enough for a sum": Mutant(
        (
            Change(policy.Thresholds, "survivors", _two_are_enough),
            # The rule on singling out would stop a sum of two as well.
            Change(history.History, "isolates", _never_isolates),
        ),
        ("no sum of fewer than three",),
        scenes.dies_before_its_upload,
    ),
    "decides with half of the votes": Mutant(
        _one(policy.Thresholds, "quorum", _small_quorum), _FORKS
    ),
    "opens what singles a member out": Mutant(
        _one(history.History, "isolates", _never_isolates),
        ("sums of one base single nobody out",),
        scenes.away_after_a_rejection,
    ),
    "compares sums two by two": Mutant(
        _one(history.History, "isolates", _two_by_two),
        ("sums of one base single nobody out",),
        scenes.three_sums_of_one_base,
    ),
    "takes sums without waiting for the check": Mutant(
        _one(settle.Settling, "covered", _no_check),
        ("every survivor's update counts once",),
        scenes.wrong_sum_whose_checker_dies,
    ),
    "takes sums unchecked": Mutant(
        (
            Change(settle.Settling, "_ranks", _checks_nothing),
            Change(settle.Settling, "covered", _no_check),
        ),
        ("every survivor's update counts once",),
        scenes.wrong_sum,
    ),
    "takes everybody's word where tags are missing": Mutant(
        _one(settle.Settling, "_is_authors_alone", _trusts_all),
        ("every survivor's update counts once",),
        scenes.wrong_sum_while_another_is_silent,
    ),
    "waits for what a member that is gone alone knew": Mutant(
        _one(settle.Settling, "_is_authors_alone", _trusts_nobody),
        ("everyone finishes",),
        scenes.owner_gone_before_its_tags,
    ),
    "follows whoever offers an epoch first": Mutant(
        (
            Change(machine.Rounds, "next_epoch", _follows_its_own_offer),
            Change(machine.Rounds, "may_follow", _follows_anything),
        ),
        ("members change as a quorum was told",),
        scenes.hears_slowly_of_a_change,
    ),
    "changes members with a rejection": Mutant(
        _one(history.History, "may_change", _changes_always),
        ("a rejection changes nothing",),
        scenes.rejects_while_members_change,
    ),
    "keeps pre-keys of an epoch that is over": Mutant(
        _one(machine.Rounds, "_former_prekeys", _keeps_former_prekeys),
        ("pre-keys go with their epoch",),
        scenes.changes_members,
    ),
    "keeps a rejected state": Mutant(
        _one(judgement.Judgement, "_verdict", _accepts_on_reject),
        ("a rejection changes nothing",),
    ),
    "votes although it lost its disk": Mutant(
        _one(machine.Rounds, "abstains", _lost_but_speaks),
        ("the same bytes again", *_FORKS),
        scenes.disk_lost_after_each_record,
    ),
    "has no backups": Mutant(
        _one(gather.Gathering, "_mine", _no_backup),
        ("everyone finishes",),
        scenes.owner_that_never_sums,
    ),
    "never asks": Mutant(
        _one(talk.Talk, "asks", _never_asks),
        ("everyone finishes",),
        scenes.apart_at_first,
    ),
    "tells the votes of its newest view only": Mutant(
        _one(desk.Desk, "newest_ballots", _tells_its_newest_view),
        ("everyone finishes",),
        scenes.alone_in_a_view,
    ),
    "certifies members that are at odds over a key": Mutant(
        _one(pairs, "agree", _no_quarrels),
        ("no honest member is accused", "no honest member stands out"),
        scenes.framed,
    ),
    "leaves one of two at odds out of a sum that is not sketched": Mutant(
        _one(machine.Rounds, "fresh_base", lambda _old: lambda _self: True),
        ("everyone finishes",),
        scenes.bound_elsewhere_after_a_rejection,
    ),
    "waits for a member that may be exposed": Mutant(
        _one(history.History, "offer", _hides_all),
        ("everyone finishes",),
        scenes.silent_after_a_rejection,
    ),
    "never looks again at a set that it refused": Mutant(
        _one(attempt.Attempt, "reconsider", lambda _old: lambda _self, _now: None),
        ("everyone finishes",),
        scenes.keeps_its_parts_after_a_rejection,
    ),
    "sketches what was accepted": Mutant(
        _one(attempt.Attempt, "close", _sketches_all),
        ("only what is rejected is sketched",),
        scenes.accepted,
    ),
    "sketches what carries noise": Mutant(
        _one(attempt, "applies", _sketches_noise),
        ("nothing noised is sketched",),
        scenes.noised_and_rejected,
    ),
    "sketches the same updates again": Mutant(
        _one(history.History, "unsketched", _never_sketched),
        ("one base is sketched once",),
        scenes.rejected_twice,
    ),
    "opens every mask": Mutant(
        _one(sketching.Sketching, "_reveal", _reveals_all),
        ("no mask between honest members is opened",),
        scenes.hidden_in_a_mask,
    ),
    "believes what is said of a masked update": Mutant(
        _one(sketching.Sketching, "weighed", _believes),
        ("a liar is named",),
        scenes.hidden_in_its_sum,
    ),
    "takes any key for the one that was uploaded": Mutant(
        _one(pairs, "key_digest", _one_digest),
        ("no honest member is accused", "no honest member stands out"),
        scenes.hidden_in_both,
    ),
    "uses a pre-key again": Mutant(
        _one(stock.Stock, "is_free", _any_pre_key),
        ("a pre-key opens one attempt",),
        scenes.no_sum_at_first,
    ),
}


def catch(mutant: Mutant, seeds: int = SEEDS_AT_MOST) -> Caught | None:
    """The first seed that catches a mutant; None if none does.

    Raises `IdleError` where a change of it was never called.
    """
    with contextlib.ExitStack() as stack:
        calls = [stack.enter_context(change.made()) for change in mutant.changes]
        found = _first(mutant, seeds)
        for change, count in zip(mutant.changes, calls, strict=True):
            if not count():
                raise IdleError(
                    f"{change.owner.__name__}.{change.name} is changed and never called"
                )
    return found


def _first(mutant: Mutant, seeds: int) -> Caught | None:
    for seed in range(seeds):
        drawn = mutant.scene(seed)
        try:
            drawn.run()
        except BrokenError as error:
            return Caught(seed, error.law, str(error).split("\n")[0][:90])
        except Exception as error:
            return Caught(seed, type(error).__name__, str(error).split("\n")[0][:90])
    return None


def main() -> int:
    """Print the table; 1 if a mutant lives, or dies of something else than its law."""
    wrong = 0
    for name, mutant in MUTANTS.items():
        found = catch(mutant)
        how = "NOT CAUGHT" if found is None else f"seed {found.seed}: {found.detail}"
        print(f"{name:42s} {how}", flush=True)
        if found is None or found.law not in mutant.laws:
            wrong += 1
            print(f"{'':42s} expected: {', or '.join(mutant.laws)}")
    return 1 if wrong else 0
