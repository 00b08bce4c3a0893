"""What grantees, hosts and auditors try."""

from contract_access import Access
from contract_chance import (
    act,
    actors,
    between,
    either,
    indices,
    often,
    one_of,
    scopes,
)
from contract_world import (
    CHALLENGE_S,
    CLAIM,
    DISPUTE_S,
    HOUR_S,
    LEAVES,
    RICH,
    ROOT,
    UNBONDING_S,
    raw,
    tuple_of,
)

from node.adapters.deployment import DAY_S
from node.adapters.memory_ledger import Scope
from node.adapters.memory_market import Wanted
from node.ports.market import Outcome, RequestStatus
from protocol import merkle

FITTING = {
    RequestStatus.OPEN: ("approve", "approve", "approve", "cancel", "expire", "reject"),
    RequestStatus.APPROVED: ("accept", "dispute", "dispute", "settle"),
}


class Deals(Access):
    """Requests, receipts and cases."""

    # --- requests ------------------------------------------------------------------

    @act(
        3,
        which=indices,
        who=one_of("r", "q", "r", "q", "a", "s"),
        scope=scopes,
        days=one_of(1, 2, 30, 30, 0, 31),
        fresh=often,
        limit=one_of(100, 10**6, 10**6),
        approved=either,
    )
    def request(
        self,
        which: int,
        who: str,
        scope: Scope,
        days: int,
        fresh: bool,
        limit: int,
        approved: bool,
    ) -> None:
        which %= len(self.ledger.tokens)
        record = self.ledger.tokens[which].record if fresh else b"\xee" * 32
        row = (which, record, tuple_of(scope), days, limit, self.coin_at)
        wanted = Wanted(which, record, scope, days, limit, self.coin)
        done = self.both(
            self.send(who, "market", "request", row),
            lambda: self.market.request(raw(self.at[who]), wanted),
        )
        if done and approved:
            self._answer(len(self.market.requests) - 1, "approve", None)

    @act(5, which=between(0, 9), how=between(0, 9), late=either)
    def answer_well(self, which: int, how: int, late: bool) -> None:
        """Something that fits the request's status, by whoever may do it."""
        waiting = [one.request for one in self.market.requests if one.status in FITTING]
        if not waiting:
            return
        number = waiting[which % len(waiting)]
        fitting = FITTING[self.market.requests[number].status]
        name = fitting[how % len(fitting)]
        if late and name in {"expire", "settle"}:
            self.move(DISPUTE_S + 1)
        self._answer(number, name, None)

    @act(
        1,
        which=between(0, 9),
        who=actors,
        act=one_of(
            "approve", "reject", "cancel", "expire", "accept", "settle", "dispute"
        ),
    )
    def answer(self, which: int, who: str, act: str) -> None:
        self._answer(which % (len(self.market.requests) + 1), act, who)

    def _answer(self, which: int, act: str, who: str | None) -> None:
        """`who` None: whoever may."""
        by = who or "s"
        if who is None:
            found = self.market.requests[which]
            decides = act in {"approve", "reject"}
            asked = self.named(found.grantee)
            by = self.committee_of(found.dataset) if decides else asked
        extra = (CLAIM,) if act in {"approve", "dispute"} else ()
        me = () if act in {"expire", "settle"} else (raw(self.at[by]),)
        self.both(
            self.send(by, "market", act, which, *extra),
            lambda: getattr(self.market, act)(*me, which, *extra),
        )

    @act(6, which=between(0, 9), who=one_of("r", "q"), how=between(0, 13), other=actors)
    def deal(self, which: int, who: str, how: int, other: str) -> None:
        """A request that is fine, and what may go wrong with it afterwards."""
        dataset = which % len(self.ledger.tokens)
        token = self.ledger.tokens[dataset]
        units = ((1 << token.units) - 1) & ~token.withdrawn
        scope = Scope(units, token.terms.allowed, token.terms.required)
        days = token.terms.max_days
        if how == 10:
            self.give(dataset, other, True, who, scope, days * DAY_S)
            days = 1
        if how == 11:
            who = self.owner_of(dataset)
        if how == 12:
            for _ in range(4):
                self.request(dataset, who, scope, days, True, 10**6, False)
            return
        before = len(self.market.requests)
        limit = token.price - 1 if how == 13 and token.price else 10**6
        self.request(dataset, who, scope, days, True, limit, how > 3)
        if len(self.market.requests) == before:
            return
        if how == 0:
            self._answer(before, "cancel", other)
            self._answer(before, "cancel", None)
        elif how == 1:
            self._answer(before, "reject", other)
            self._answer(before, "reject", None)
        elif how == 2:
            self.move(HOUR_S + 1)
            self._answer(before, "approve", None)
            self._answer(before, "expire", other)
        elif how == 3:
            owner = self.owner_of(dataset)
            self._add_version(owner, dataset, token.units, True)
            self._answer(before, "approve", None)
        elif how == 4:
            self._answer(before, "accept", other)
            self._answer(before, "accept", None)
            self._answer(before, "accept", None)
        elif how == 5:
            self._answer(before, "settle", other)
            self.move(DISPUTE_S)
            self._answer(before, "settle", other)
            self.move(1)
            self._answer(before, "settle", other)
        elif how == 6:
            self.move(DISPUTE_S + 1)
            self._answer(before, "dispute", None)
            self._answer(before, "settle", other)
        else:
            self._answer(before, "dispute", None)
            if how == 7:
                self._vote(len(self.board.cases) - 1, "x", True)
                self.close(len(self.board.cases) - 1, other, True, True)
            else:
                self.decide(0, how == 8)
        for name in ("market", "board"):
            self.collect(who, name, False)

    @act(1, who=actors, name=one_of("market", "board"), due=often)
    def collect(self, who: str, name: str, due: bool) -> None:
        model = self.market if name == "market" else self.board
        # The council has its share too, and fetches it by a vote (test_dispute_courses).
        owed = [one for _, one in model.credits if one != self.board.treasury]
        if due and owed:
            who = self.named(owed[0])
        self.both(
            self.send(who, name, "collect", self.coin_at),
            lambda: model.collect(raw(self.at[who]), self.coin),
        )
        held = self.evm.call("coin", "balanceOf", self.at[who])
        assert held == self.market.coins.balances[self.coin][raw(self.at[who])]

    # --- receipts and cases --------------------------------------------------------

    @act(
        1,
        who=one_of("b", "q", "q", "s"),
        act=one_of("stake", "stake", "unstake", "release"),
        amount=one_of(20, 60, 200, RICH + 1),
    )
    def stake(self, who: str, act: str, amount: int) -> None:
        rest = () if act == "release" else (amount,)
        self.both(
            self.send(who, "board", act, *rest),
            lambda: getattr(self.board, act)(raw(self.at[who]), *rest),
        )

    @act(
        3,
        who=one_of("r", "a", "q", "s"),
        host=one_of("b", "q"),
        index=between(0, len(LEAVES)),
        true=often,
        anchored=either,
    )
    def challenge(
        self, who: str, host: str, index: int, true: bool, anchored: bool
    ) -> None:
        if anchored:
            self.anchor(host)
        leaf = LEAVES[index % len(LEAVES)] if true else b"forged"
        proof = merkle.inclusion_proof(LEAVES, index % len(LEAVES))
        self.both(
            self.send(
                *(who, "board", "challenge", self.at[host], ROOT),
                *(merkle.leaf_digest(leaf), index, proof, CLAIM),
            ),
            lambda: self.board.challenge(
                raw(self.at[who]), raw(self.at[host]), ROOT, leaf, index, proof, CLAIM
            ),
        )

    @act(1, who=actors)
    def anchor(self, who: str) -> None:
        self.both(
            self.send(who, "anchors", "anchorReceipts", ROOT, len(LEAVES)),
            lambda: self.ledger.anchor_receipts(raw(self.at[who]), ROOT, len(LEAVES)),
        )

    @act(5, who=one_of("r", "a"), host=one_of("b", "q"), how=between(0, 8))
    def audit(self, who: str, host: str, how: int) -> None:
        """A challenge that is fine, and what may go wrong with it afterwards."""
        index = len(self.board.cases) % len(LEAVES)
        self.stake(host, "stake", 60)
        if how == 0:
            self.stake(host, "unstake", self.board.stakes[raw(self.at[host])].free)
        if how == 1:
            self.anchor(host)
            self.move(CHALLENGE_S + 1)
        before = len(self.board.cases)
        self.challenge(who, host, index, True, True)
        if len(self.board.cases) == before:
            return
        if how == 2:
            self.challenge(who, host, index, True, False)
        if how == 3:
            self._roles("y", 8)
            self.move(1)
            self._roles("y", 8)
        if how == 4:
            self.move(HOUR_S)
            self._vote(before, "x", False)
            self.move(1)
        if how == 6:
            self.close(before, who, False, False)
        if how == 5:
            self._vote(before, "y", True)
            self.move(HOUR_S + 1)
            self.close(before, who, False, False)
            self.challenge(who, host, index, True, False)
            return
        for voter in ("x", "x", host, "y", "z"):
            self._vote(before, voter, how % 2 == 0)
        if how == 8:
            self.stake(host, "unstake", self.board.stakes[raw(self.at[host])].free)
            self.stake(host, "release", 0)
            self.move(UNBONDING_S)
        self.stake(host, "release", 0)
        for name in (who, host):
            self.collect(name, "board", False)

    @act(
        2,
        which=between(0, 9),
        who=one_of("x", "y", "z", "x", "y", "z", "r", "b"),
        uphold=either,
        pending=often,
    )
    def vote(self, which: int, who: str, uphold: bool, pending: bool) -> None:
        self._vote(self._case(which, pending), who, uphold)

    @act(1, which=between(0, 9), uphold=either)
    def decide(self, which: int, uphold: bool) -> None:
        """Two auditors agree."""
        for who in ("x", "y"):
            self._vote(self._case(which, True), who, uphold)

    @act(
        1,
        which=between(0, 9),
        who=actors,
        late=either,
        pending=often,
    )
    def close(self, which: int, who: str, late: bool, pending: bool) -> None:
        number = self._case(which, pending)
        if late:
            self.move(HOUR_S + 1)
        self.both(
            self.send(who, "board", "close", number), lambda: self.board.close(number)
        )

    def _case(self, which: int, pending: bool) -> int:
        runs = [c.case for c in self.board.cases if c.outcome is Outcome.PENDING]
        if pending and runs:
            return runs[which % len(runs)]
        return which % (len(self.board.cases) + 1)

    def _vote(self, number: int, who: str, uphold: bool) -> None:
        self.both(
            self.send(who, "board", "vote", number, uphold, CLAIM),
            lambda: self.board.vote(raw(self.at[who]), number, CLAIM, uphold=uphold),
        )
