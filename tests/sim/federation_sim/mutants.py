"""The machine with one rule taken out at a time: the laws must notice each.

A mutant that no seed catches means that the laws, or the scenarios, do not cover its rule.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from federation_sim import scenario

from protocol import decide
from protocol.rounds import (
    attempt,
    desk,
    gather,
    history,
    machine,
    policy,
    settle,
    stock,
)
from protocol.rounds import events as ev
from protocol.rounds.messages import Release
from protocol.rounds.prekeys import KEY

SEEDS_AT_MOST = 400


@contextlib.contextmanager
def _patched(owner: Any, name: str, new: Any) -> Iterator[None]:
    old = owner.__dict__[name]
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


def _method(owner: Any, name: str, make: Callable[[Any], Any]) -> Any:
    return lambda: _patched(owner, name, make(owner.__dict__[name]))


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
    def verdict(self: Any, *, accept: bool) -> Any:
        out = old(self, accept=accept)
        if not accept and self.settling is not None and self.settling.outcome:
            return msgspec.structs.replace(out, state=self.settling.outcome.state)
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
    def is_mine(self: Any, each: Any, _target: int, _now: Any) -> bool:
        return each.order[0] == self._desk.me

    return is_mine


def _never_asks(_old: Any) -> Any:
    return lambda _self, _cohort, _now: False


desk.Desk.drops = False  # type: ignore[attr-defined] # state of one mutant

MUTANTS: dict[str, tuple[Any, str]] = {
    "says before it records": (
        _method(desk.Desk, "say", _says_before_it_records),
        "recorded before said",
    ),
    "signs anew after a restart": (
        _method(desk.Desk, "say", _signs_anew),
        "the same bytes again",
    ),
    "forgets its votes at a restart": (
        _method(decide.Decide, "resume", _forgets_its_votes),
        "",
    ),
    "rounds again under the same mask": (
        _method(attempt.Attempt, "_resume", _rounds_again),
        "one mask, one text",
    ),
    "members release different kinds of share": (
        _method(settle.Settling, "_kind", _both_kinds),
        "one kind of share per member",
    ),
    "releases before the certificate": (
        _method(attempt.Attempt, "advance", _releases_before_certificate),
        "released only what is certified",
    ),
    "keeps its secrets": (
        _method(desk.Desk, "forget", _keeps_secrets),
        "secrets go with the verdict",
    ),
    "lets two be enough for a sum": (
        _method(policy.Thresholds, "survivors", _two_are_enough),
        "",
    ),
    "decides with half of the votes": (
        _method(policy.Thresholds, "quorum", _small_quorum),
        "",
    ),
    "opens what singles a member out": (
        _method(history.History, "isolates", _never_isolates),
        "sums of one base single nobody out",
    ),
    "takes sums unchecked": (
        _method(settle.Settling, "covered", _no_check),
        "every survivor's update counts once",
    ),
    "keeps a rejected state": (
        _method(attempt.Attempt, "_verdict_of", _accepts_on_reject),
        "a rejection changes nothing",
    ),
    "votes although it lost its disk": (
        _method(machine.Rounds, "abstains", _lost_but_speaks),
        "",
    ),
    "has no backups": (
        _method(gather.Gathering, "_is_mine", _no_backup),
        "everyone finishes",
    ),
    "never asks": (
        _method(machine.Talk, "asks", _never_asks),
        "everyone finishes",
    ),
    "uses a pre-key again": (
        _method(stock.Stock, "is_free", _any_pre_key),
        "",
    ),
}
"""Per mutant: how to make it, and the law it breaks ("" where several may)."""


def caught_by(name: str, seeds: int = SEEDS_AT_MOST) -> tuple[int, str] | None:
    """The first seed that catches a mutant, and how; None if none does."""
    make, _ = MUTANTS[name]
    with make():
        for seed in range(seeds):
            drawn = hard(seed)
            try:
                drawn.run()
            except Exception as error:
                return seed, str(error).split("\n")[0][:90] or type(error).__name__
    return None


def hard(seed: int) -> scenario.Scenario:
    """Small federations with every kind of fault more often than in a campaign."""
    return scenario.draw(100_000 + seed, members=(4, 4, 3, 5)[seed % 4], hard=True)


def main() -> int:
    """Print the table; 1 if a mutant lives."""
    alive = 0
    for name, (_, law) in MUTANTS.items():
        found = caught_by(name)
        alive += found is None
        how = "NOT CAUGHT" if found is None else f"seed {found[0]}: {found[1]}"
        print(f"{name:45s} {how}", flush=True)
        if found is not None and law and law not in found[1]:
            print(f"{'':45s} expected: {law}")
    return 1 if alive else 0
