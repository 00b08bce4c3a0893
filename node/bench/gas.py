"""What the contracts cost: one federation on the development chain's ledger, gas from receipts.

Every figure is of an operation that is not the first of its kind for the accounts concerned,
unless its name says `first`: a first write to a slot costs 17,100 gas more on every chain.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from node.adapters.deployment import (
    ARTIFACTS,
    DAY_S,
    NO_TOKEN,
    Settings,
    create_address,
)
from node.bench import disputes
from node.bench.abi import compiled
from node.bench.federation import Federation, first
from node.bench.machines import PyEvm, key_of
from protocol import merkle
from protocol.receipt import batch_root

RECEIPTS = 1024
PRICE = 10**18
BOND = 10**17
FREE = (0, NO_TOKEN, 0b11111, 0b11, 365)
SCOPE = (0b111, 0b1, 0b11)

MEMBERS = {
    "clinic": 1,
    "other": 1,
    "researcher": 2,
    "host": 4,
    "first": 8,
    "second": 8,
    "third": 8,
}


def digest(number: int) -> bytes:
    """A digest without zero bytes, as digests are."""
    return bytes([number % 255 + 1]) * 32


def measure() -> dict[str, int]:
    """Operation to gas."""
    with TemporaryDirectory() as folder:
        machine = PyEvm(Path(folder))
        try:
            gas = _Measured(machine).all()
        finally:
            machine.close()
    with TemporaryDirectory() as folder:
        machine = PyEvm(Path(folder))
        try:
            for name in (*disputes.ACCOUNTS, "owner"):
                machine.know(name)
            return gas | disputes.measure(machine)
        finally:
            machine.close()


class _Measured:
    def __init__(self, machine: PyEvm) -> None:
        self.gas: dict[str, int] = {}
        self._owner = machine.know("owner")
        self._accounts = {name: machine.know(name) for name in MEMBERS}
        # The coin comes first, because the board's token is fixed when it is deployed.
        coin_at = create_address(self._owner, machine.nonce(self._owner))
        coin = compiled("DevCoin")
        assert machine.create(self._owner, coin.bytecode)[0] == coin_at
        self._federation = Federation(
            machine, self._owner, Settings(token=coin_at, bond=BOND)
        )
        self._federation.know("coin", coin, coin_at)
        self._coin = coin_at

    def all(self) -> dict[str, int]:
        self._deployments()
        self._members()
        self._council()
        self._datasets()
        self._signed()
        self._market()
        self._anchors()
        self._board()
        return self.gas

    def _do(self, label: str, who: str, name: str, function: str, *rest: Any) -> Any:
        sender = self._owner if who == "owner" else self._accounts[who]
        sent = self._federation.send(sender, name, function, *rest)
        if label:
            self.gas[label] = sent.gas
        return sent.events

    def _deployments(self) -> None:
        for name, gas in self._federation.deployed.items():
            if name in ARTIFACTS:
                self.gas[f"deploy_{name}"] = gas

    def _members(self) -> None:
        for number, (name, roles) in enumerate(MEMBERS.items()):
            row = (digest(2 * number), digest(2 * number + 1))
            label = "admit" if number else "admit_first"
            self._do(
                label,
                "owner",
                "registry",
                "admit",
                *row,
                self._accounts[name],
                roles,
                name,
            )
        who = self._accounts["clinic"]
        self._do("set_roles", "owner", "registry", "setRoles", who, 3)
        self._do(
            "rotate_keys", "clinic", "registry", "rotateKeys", digest(90), digest(91)
        )
        for name in MEMBERS:
            self._do("", name, "coin", "mint", self._accounts[name], 1000 * PRICE)
            for spender in ("market", "board"):
                at = self._federation.at[spender]
                self._do("", name, "coin", "approve", at, 1000 * PRICE)

    def _council(self) -> None:
        call = self._federation.encoded("parameters", "setToken", self._coin, True)
        target = self._federation.at["parameters"]
        for label in ("", "propose"):
            self._do(label, "first", "council", "propose", target, call, digest(1))
        self._federation.move(1)
        for name in ("clinic", "other", "first"):
            self._do("vote_council", name, "council", "vote", 0)
        self._do("", "second", "council", "vote", 0)
        self._federation.move(Settings().delay_s)
        self._do("execute", "first", "council", "execute", 0, call)

    def _datasets(self) -> None:
        clinic = "clinic"
        priced = (PRICE, self._coin, *FREE[2:])
        for nth, label in enumerate(("publish_free_first", "publish_free")):
            self._do(label, clinic, "datasets", "list", digest(nth), 64, nth, FREE)
        self._do("publish", clinic, "datasets", "list", digest(5), 64, 2, priced)
        until = self._federation.now() + 30 * DAY_S
        to = self._accounts["researcher"]
        self._do("grant", clinic, "datasets", "give", 0, to, SCOPE, until)
        self._do("grant_again", clinic, "datasets", "give", 0, to, SCOPE, until + 1)
        self._do("revoke", clinic, "datasets", "revoke", 0, to)
        for label in ("", "new_version"):
            self._do(label, clinic, "datasets", "addVersion", 0, digest(7), 64, True)
        self._do("set_terms", clinic, "datasets", "setTerms", 0, FREE)
        self._do("withdraw_units", clinic, "datasets", "withdrawUnits", 0, 1 << 9)

    def _signed(self) -> None:
        from eth_account import Account  # slow to import, and only this needs it

        now = self._federation.now()
        to = self._accounts["other"]
        order = (0, to, SCOPE, now + 30 * DAY_S, 3, now, now + DAY_S)
        found = self._federation.call("datasets", "orderDigest", order)
        signature = bytes(Account._sign_hash(found, key_of("clinic")).signature)  # noqa: SLF001
        self._do(
            "grant_signed", "host", "datasets", "giveBySignature", order, signature
        )

    def _market(self) -> None:
        def ask(dataset: int, record: int, price: int, token: str, label: str) -> int:
            wanted = (dataset, digest(record), SCOPE, 30, price, token)
            events = self._do(label, "researcher", "market", "request", wanted)
            return int(first(events, "AccessRequested")["request"])

        ask(2, 5, PRICE, self._coin, "request_first")
        paid = ask(2, 5, PRICE, self._coin, "request")
        free = ask(1, 1, 0, NO_TOKEN, "request_free")
        self._do("approve", "clinic", "market", "approve", free, digest(3))
        self._do("", "clinic", "market", "approve", 0, digest(3))
        self._do("", "researcher", "market", "accept", 0)
        self._do("approve_again", "clinic", "market", "approve", paid, digest(3))
        self._do("accept", "researcher", "market", "accept", paid)
        self._do("collect", "clinic", "market", "collect", self._coin)
        last = ask(2, 5, PRICE, self._coin, "")
        self._do("cancel", "researcher", "market", "cancel", last)
        last = ask(2, 5, PRICE, self._coin, "")
        self._do("", "clinic", "market", "approve", last, digest(3))
        self._do("dispute", "researcher", "market", "dispute", last, digest(4))
        self._federation.move(1)
        self._do("vote_board", "first", "board", "vote", 0, True, digest(6))
        self._do("vote_board_closing", "second", "board", "vote", 0, True, digest(6))

    def _anchors(self) -> None:
        for number, suffix in enumerate(("_first", "")):
            root = digest(number)
            self._do(
                f"anchor_model{suffix}", "host", "anchors", "anchorModel", root, root
            )
            self._do(
                f"anchor_round{suffix}", "host", "anchors", "anchorRound", root, 1, root
            )
            self._do(
                f"anchor_batch_{RECEIPTS}{suffix}",
                *("host", "anchors", "anchorReceipts", root, RECEIPTS),
            )

    def _board(self) -> None:
        leaves = [b"%d" % number for number in range(RECEIPTS)]
        root = batch_root(leaves)
        self._do("", "host", "anchors", "anchorReceipts", root, RECEIPTS)
        self._do("stake", "host", "board", "stake", 3 * BOND)
        for index, label in enumerate(("challenge_first", "challenge")):
            self._do(
                label,
                *("researcher", "board", "challenge", self._accounts["host"], root),
                *(merkle.leaf_digest(leaves[index]), index),
                *(merkle.inclusion_proof(leaves, index), digest(8)),
            )
        self._do("unstake", "host", "board", "unstake", BOND)
