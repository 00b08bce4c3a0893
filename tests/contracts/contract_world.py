"""The contracts in an EVM beside the rules in Python, and what always holds of the two.

Each call is made on both, and both must answer alike: the same refusal by name, or none.  After
it the state is compared, and the invariants of docs/chain.md are asked of the contracts alone, so
that a mistake that both share still has to pass them.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from node.adapters import memory_ledger
from node.adapters.deployment import Settings, create_address
from node.adapters.memory_coins import Coins, Values
from node.adapters.memory_ledger import Order, Scope
from node.adapters.memory_market import Market
from node.bench.abi import Abi, compiled
from node.bench.federation import Federation, Reverted
from node.bench.machines import Revm, account
from node.errors import ContractRefusedError
from node.ports.chain import Terms
from node.ports.market import Outcome, RequestStatus
from protocol.receipt import batch_root

NAMES = ("a", "b", "r", "q", "x", "y", "z", "s")
ROLES = {"a": 1, "b": 5, "r": 2, "q": 6, "x": 8, "y": 8, "z": 10}
RICH, BOND, HOUR_S = 10_000, 50, 3_600
# Not the time to answer, so that one is not taken for the other.
DISPUTE_S = 2 * HOUR_S
# Long enough for a second challenge after a vote that decided nothing.
CHALLENGE_S, UNBONDING_S = 4 * HOUR_S, 6 * HOUR_S
LEAVES = [b"receipt %d" % number for number in range(5)]
ROOT = batch_root(LEAVES)
CLAIM = b"\x07" * 32

ALLOWED = {
    RequestStatus.OPEN: {RequestStatus.APPROVED, RequestStatus.REFUNDED},
    RequestStatus.APPROVED: {RequestStatus.PAID, RequestStatus.DISPUTED},
    RequestStatus.DISPUTED: {
        RequestStatus.PAID,
        RequestStatus.REFUNDED,
        RequestStatus.HALVED,
    },
}


def raw(address: str) -> bytes:
    return bytes.fromhex(address[2:])


class FastLedger(memory_ledger.Ledger):
    """Time is the EVM's, which stands still until it is moved."""

    def now(self) -> int:
        return self.clock()


class World:
    """One federation with a coin, priced datasets, auditors and a stranger."""

    replace: ClassVar[dict[str, Abi]] = {}
    done: ClassVar[Counter[str]] = Counter()
    """How often each function did what it was asked, over all runs."""
    refused: ClassVar[Counter[str]] = Counter()
    """How often it refused, by function and error."""

    def deploy(self) -> None:
        machine, self.owner = Revm(), account("owner")
        coin_at = create_address(self.owner, machine.nonce(self.owner))
        assert machine.create(self.owner, compiled("DevCoin").bytecode)[0] == coin_at
        self.settings = Settings(
            token=coin_at,
            answer_s=HOUR_S,
            dispute_s=DISPUTE_S,
            challenge_s=CHALLENGE_S,
            vote_s=HOUR_S,
            unbonding_s=UNBONDING_S,
            quorum=2,
            open_requests=3,
            bond=BOND,
        )
        self.evm = Federation(machine, self.owner, self.settings, replace=self.replace)
        self.evm.know("coin", compiled("DevCoin"), coin_at)
        self.coin, self.coin_at = raw(coin_at), coin_at
        self.at = {name: account(name) for name in NAMES}
        self.ledger = FastLedger(raw(self.owner), self.evm.now)
        coins = Coins()
        self.market = Market(
            self.ledger, coins, Values(*self.settings.values()), self.coin
        )
        self.board = self.market.board
        self.board.treasury = raw(self.evm.at["council"])
        self.orders: list[tuple[Order, str]] = []
        self.used: set[int] = set()
        self.seen: dict[int, RequestStatus] = {}
        self.readable: dict[tuple[int, str, int], int] = {}
        self._admit_all()
        for name in NAMES:
            for spender in ("market", "board"):
                self.evm.send(
                    self.at[name], "coin", "approve", self.evm.at[spender], 10**30
                )
            self.evm.send(self.owner, "coin", "mint", self.at[name], RICH)
            coins.balances[self.coin][raw(self.at[name])] = RICH
        self._accept_coin()
        self._publish("a", 0)
        self._publish("b", 101)

    def _publish(self, who: str, price: int) -> None:
        """Something to begin with."""
        on = Terms(allowed=3, required=1, max_days=30)
        record = bytes([len(self.ledger.tokens) + 1]) * 32
        self.both(
            self.send(who, "datasets", "list", record, 4, 0, self.row(price, on)),
            lambda: self.ledger.list_dataset(
                raw(self.at[who]), record, 4, 0, price, self.on_coin(on)
            ),
        )

    def _admit_all(self) -> None:
        for number, (name, roles) in enumerate(ROLES.items()):
            keys = (bytes([number + 1]) * 32, bytes([number + 101]) * 32)
            row = (*keys, self.at[name], roles, name)
            self.evm.send(self.owner, "registry", "admit", *row)
            model = (*keys, raw(self.at[name]), roles, name)
            self.ledger.admit(raw(self.owner), *model)

    def _accept_coin(self) -> None:
        """By the council, since nobody else can."""
        call = self.evm.encoded("parameters", "setToken", self.coin_at, True)
        target = self.evm.at["parameters"]
        self.evm.move(1)
        self.evm.send(self.at["a"], "council", "propose", target, call, CLAIM)
        for name in ("a", "b", "r", "q"):
            self.evm.send(self.at[name], "council", "vote", 0)
        self.evm.move(self.settings.delay_s)
        self.evm.send(self.at["a"], "council", "execute", 0, call)
        self.market.accepted.add(self.coin)

    def both(
        self, on_evm: Callable[[], object], on_model: Callable[[], object]
    ) -> bool:
        """Do it twice; whether it was done."""
        before = self.readable
        expected = answer = ""
        try:
            on_model()
        except ContractRefusedError as error:
            expected = error.name
        try:
            on_evm()
        except Reverted as error:
            answer = error.name
        assert answer == expected, f"contract: {answer!r}, rules: {expected!r}"
        if not answer:
            self.done[self.asked] += 1
        else:
            self.refused[f"{self.asked} {answer}"] += 1
        self.check()
        if answer:
            assert self.readable == before, "a refused call changed access"
        return not answer

    def check(self) -> None:
        """What always holds, as far as the last call may have touched it."""
        self.access_is_what_the_rules_say()
        if self.asked.startswith(("market", "board")):
            self.a_request_only_moves_forward()
            self.the_market_holds_what_it_owes()
            self.the_board_holds_what_it_owes()
            self.the_record_is_what_happened()
        if self.asked.startswith("registry"):
            self.members_are_counted()
        if self.asked.startswith("anchors"):
            self.anchors_stand()

    def send(self, who: str, name: str, function: str, *rest: Any) -> Callable[[], Any]:
        self.asked = f"{name}.{function}"
        sender = self.owner if who == "owner" else self.at[who]
        return lambda: self.evm.send(sender, name, function, *rest)

    def access(self) -> dict[tuple[int, str, int], int]:
        """What the contracts let everybody read."""
        return {
            (dataset, name, purposes): self.evm.call(
                "datasets", "unitsFor", dataset, self.at[name], purposes
            )
            for dataset in range(len(self.ledger.tokens))
            for name in ("r", "q", "b")
            for purposes in (1, 2)
        }

    def named(self, address: bytes) -> str:
        return next(name for name in NAMES if raw(self.at[name]) == address)

    def owner_of(self, dataset: int) -> str:
        return self.named(self.ledger.tokens[dataset].owner)

    def committee_of(self, dataset: int) -> str:
        return self.named(self.ledger.tokens[dataset].committee)

    def on_coin(self, on: Terms) -> Terms:
        return Terms(on.allowed, on.required, on.max_days, self.coin)

    def row(self, price: int, on: Terms) -> tuple[Any, ...]:
        return (price, self.coin_at, on.allowed, on.required, on.max_days)

    def move(self, seconds: int) -> None:
        self.evm.move(seconds)
        self.access_is_what_the_rules_say()

    # --- what always holds ---------------------------------------------------------

    def access_is_what_the_rules_say(self) -> None:
        self.readable = self.access()
        for (dataset, name, purposes), units in self.readable.items():
            expected = self.ledger.units_for(dataset, raw(self.at[name]), purposes)
            assert units == expected, (dataset, name, purposes)

    def a_request_only_moves_forward(self) -> None:
        for number, expected in enumerate(self.market.requests):
            row = self.evm.call("market", "requestOf", number)
            status, before = RequestStatus(row[1]), self.seen.get(number)
            assert status is expected.status
            assert row[8] == expected.deadline
            if before is not None and before is not status:
                assert status in ALLOWED.get(before, set())
            self.seen[number] = status

    def the_market_holds_what_it_owes(self) -> None:
        rows = [
            self.evm.call("market", "requestOf", number)
            for number in range(len(self.market.requests))
        ]
        waiting = {1, 2, 3}
        escrow = sum(row[-1] for row in rows if row[1] in waiting)
        assert self.held("market") == escrow + self.owed("market")

    def the_board_holds_what_it_owes(self) -> None:
        cases = [
            self.evm.call("board", "caseOf", number)
            for number in range(len(self.board.cases))
        ]
        bound = sum(row[9] for row in cases if row[4] == Outcome.PENDING)
        for case, row in zip(self.board.cases, cases, strict=True):
            assert (row[4], row[10]) == (case.outcome, case.taken)
        stakes = 0
        for name in NAMES:
            free, leaving, leaves = self.evm.call("board", "stakeOf", self.at[name])
            mine = self.board.stakes[raw(self.at[name])]
            assert (free, leaving) == (mine.free, mine.leaving)
            assert leaving == 0 or leaves == mine.leaves
            stakes += free + leaving
            bonds = self.evm.call("board", "heldOf", self.coin_at, self.at[name])
            assert bonds == self.board.bonds[self.coin, raw(self.at[name])]
        assert self.held("board") == bound + stakes + self.owed("board")
        council = self.evm.call(
            "board", "credits", self.coin_at, self.evm.at["council"]
        )
        assert council == self.board.credits[self.coin, self.board.treasury]

    def the_record_is_what_happened(self) -> None:
        fields = ("delivered", "failed", "undecided", "unanswered")
        for name in NAMES:
            mine = raw(self.at[name])
            row = self.evm.call("market", "tallyOf", self.at[name])
            names = (*fields, "received", "overruled")
            assert list(row) == [self.market.tally[mine, one] for one in names]
            row = self.evm.call("board", "tallyOf", self.at[name])
            names = ("caught", "cleared", "right", "wrong", "votes")
            names = (*names, "accused", "accusing")
            assert list(row) == [self.board.tally[mine, one] for one in names]

    def members_are_counted(self) -> None:
        roles = [self.ledger.roles(raw(self.at[name])) for name in NAMES]
        assert self.evm.call("registry", "active") == sum(one != 0 for one in roles)

    def anchors_stand(self) -> None:
        for (host, root), (time, count) in self.ledger.batch_of.items():
            at = "0x" + host.hex()
            assert self.evm.call("anchors", "batchOf", at, root)[:2] == (count, time)

    def held(self, name: str) -> int:
        return int(self.evm.call("coin", "balanceOf", self.evm.at[name]))

    def owed(self, name: str) -> int:
        accounts = (*self.at.values(), self.evm.at["council"])
        return sum(
            self.evm.call(name, "credits", self.coin_at, one) for one in accounts
        )


def tuple_of(scope: Scope) -> tuple[int, int, int]:
    return (scope.units, scope.purposes, scope.acknowledged)
