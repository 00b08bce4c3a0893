"""What members, owners and committees try."""

from collections.abc import Callable

import pytest
from contract_chance import (
    act,
    actors,
    between,
    either,
    indices,
    often,
    one_of,
    prices,
    scopes,
    terms,
)
from contract_world import (
    CLAIM,
    HOUR_S,
    ROLES,
    World,
    raw,
    tuple_of,
)
from eth_account import Account

from node.adapters.deployment import DAY_S
from node.adapters.memory_ledger import Order, Scope
from node.bench.federation import Reverted
from node.bench.machines import key_of
from node.ports.chain import Terms


class Access(World):
    """Time, membership, datasets and grants."""

    # --- time and members ----------------------------------------------------------

    @act(
        2,
        seconds=one_of(1, 1, 1, 60, HOUR_S // 2, HOUR_S + 1, DAY_S, 3 * DAY_S),
    )
    def pass_time(self, seconds: int) -> None:
        self.move(seconds)

    @act(
        1,
        who=actors,
        act=one_of("roles", "roles", "rotate"),
        roles=one_of(0, 0, 1, 2, 8, 15),
        right=often,
        fresh=either,
        seal=one_of(0, 9),
    )
    def membership(
        self, who: str, act: str, roles: int, right: bool, fresh: bool, seal: int
    ) -> None:
        me = raw(self.at[who])
        if act == "roles":
            by = "owner" if right else who
            self.both(
                self.send(by, "registry", "setRoles", self.at[who], roles),
                lambda: self.ledger.set_roles(
                    raw(self.owner) if right else me, me, roles
                ),
            )
            return
        known = self.ledger.membership(me)
        old = known.member.node_key if known else bytes(32)
        node = bytes([len(self.ledger.used_keys) + 50]) * 32 if fresh else old
        keys = (node, bytes([seal]) * 32)
        self.both(
            self.send(who, "registry", "rotateKeys", *keys),
            lambda: self.ledger.rotate_keys(me, *keys),
        )

    @act(2, who=one_of("a", "b", "r", "q", "x", "y", "z"))
    def renew(self, who: str) -> None:
        """Back to what it was, so that federations do not die out."""
        self._roles(who, ROLES[who])

    @act(1, who=one_of("s", "s", "a", "r"), right=often, key=between(1, 12))
    def admit(self, who: str, right: bool, key: int) -> None:
        me, by = raw(self.at[who]), "owner" if right else who
        keys = (bytes([key]) * 32, bytes([200]) * 32)
        self.both(
            self.send(by, "registry", "admit", *keys, self.at[who], 2, who),
            lambda: self.ledger.admit(
                raw(self.owner) if right else me, *keys, me, 2, who
            ),
        )

    @act(3, who=actors, which=between(0, 8), number=between(0, 3))
    def trespass(self, who: str, which: int, number: int) -> None:
        """What only another contract, or the owner, may call."""
        me, scope, until = self.at[who], (1, 1, 3), self.evm.now() + DAY_S
        name, function, arguments = (
            ("datasets", "giveFor", (self.at["a"], 0, me, scope, until, 1)),
            ("market", "resolve", (number, 1)),
            ("board", "open", (number, me, self.at["a"], CLAIM)),
            ("board", "begin", (self.at["a"], self.at["b"])),
            ("board", "settle", (self.at["a"], me, 1, 1)),
            ("parameters", "set", (self.settings.values(),)),
            ("parameters", "setToken", (self.evm.at["coin"], False)),
            ("datasets", "safeTransferFrom", (self.at["a"], me, 0)),
            ("datasets", "transferFrom", (self.at["a"], me, 0)),
        )[which]
        if function.endswith("ransferFrom"):
            me = self.at["a"]  # even the owner
        with pytest.raises(Reverted) as caught:
            self.evm.send(me, name, function, *arguments)
        assert caught.value.name in {
            *("NotMarket", "NotBoard", "NotDisputes", "OwnableUnauthorizedAccount"),
            *("NotTransferable", "ERC721InsufficientApproval"),
        }
        self.asked = f"{name}.{function}"
        self.check()

    # --- datasets ------------------------------------------------------------------

    @act(
        1,
        who=one_of("a", "a", "b", "r", "s"),
        units=one_of(4, 4, 64, 0),
        price=prices,
        on=terms,
        off=one_of(0, 0, 0, 1),
    )
    def publish(self, who: str, units: int, price: int, on: Terms, off: int) -> None:
        if len(self.ledger.tokens) == 4:
            return
        mine = sum(one.owner == raw(self.at[who]) for one in self.ledger.tokens)
        record = bytes([len(self.ledger.tokens) + 1]) * 32
        self.both(
            self.send(
                *(who, "datasets", "list", record, units, mine + off),
                self.row(price, on),
            ),
            lambda: self.ledger.list_dataset(
                raw(self.at[who]), record, units, mine + off, price, self.on_coin(on)
            ),
        )

    @act(
        3,
        which=indices,
        who=actors,
        right=often,
        act=one_of(
            "version", "version", "terms", "terms", "committee", "units", "withdraw"
        ),
        units=one_of(4, 5, 64, 2, 8, 0),
        rekeyed=either,
        price=prices,
        on=terms,
        committee=one_of("a", "b", "x", "r"),
        rare=between(0, 3),
    )
    def own(
        self,
        which: int,
        who: str,
        right: bool,
        act: str,
        units: int,
        rekeyed: bool,
        price: int,
        on: Terms,
        committee: str,
        rare: int,
    ) -> None:
        which %= len(self.ledger.tokens)
        by = self.owner_of(which) if right else who
        me = raw(self.at[by])
        if act == "version":
            self._add_version(by, which, units, rekeyed)
        elif act == "terms":
            self._set_terms(by, which, price, on)
        elif act == "committee":
            to = self.at[committee]
            self.both(
                self.send(by, "datasets", "setCommittee", which, to),
                lambda: self.ledger.set_committee(me, which, raw(to)),
            )
        elif act == "units":
            self.both(
                self.send(by, "datasets", "withdrawUnits", which, units),
                lambda: self.ledger.withdraw_units(me, which, units),
            )
        elif rare == 0:
            self.both(
                self.send(by, "datasets", "withdraw", which),
                lambda: self.ledger.withdraw(me, which),
            )

    def _set_terms(self, by: str, which: int, price: int, on: Terms) -> None:
        self.both(
            self.send(by, "datasets", "setTerms", which, self.row(price, on)),
            lambda: self.ledger.set_terms(
                raw(self.at[by]), which, price, self.on_coin(on)
            ),
        )

    def _add_version(self, by: str, which: int, units: int, rekeyed: bool) -> None:
        record = bytes([self.ledger.tokens[which].version + 100]) * 32
        before = self.evm.call("datasets", "datasetOf", which)
        done = self.both(
            self.send(by, "datasets", "addVersion", which, record, units, rekeyed),
            lambda: self.ledger.add_version(
                raw(self.at[by]), which, record, units, rekeyed=rekeyed
            ),
        )
        after = self.evm.call("datasets", "datasetOf", which)
        assert after[3] == before[3] + done
        assert after[4] == before[4] + (done and rekeyed)

    # --- grants --------------------------------------------------------------------

    @act(
        2,
        which=indices,
        who=actors,
        right=often,
        to=one_of("r", "q", "b", "s"),
        scope=scopes,
        seconds=one_of(60, HOUR_S, DAY_S, DAY_S, 31 * DAY_S, 0),
    )
    def give(
        self, which: int, who: str, right: bool, to: str, scope: Scope, seconds: int
    ) -> None:
        which %= len(self.ledger.tokens)
        by = self.committee_of(which) if right else who
        until = self.evm.now() + seconds
        done = self.both(
            self.send(
                *(by, "datasets", "give", which, self.at[to]), tuple_of(scope), until
            ),
            lambda: self.ledger.give(
                raw(self.at[by]), which, raw(self.at[to]), scope, until
            ),
        )
        days = self.ledger.tokens[which].terms.max_days
        assert not done or 0 < seconds <= days * DAY_S

    @act(
        2,
        which=indices,
        who=actors,
        right=often,
        to=one_of("r", "q"),
        scope=scopes,
        issued=one_of(0, 0, -1, 5),
        deadline=one_of(HOUR_S, HOUR_S, 30),
        version=one_of(0, 0, 0, 1),
        at_once=either,
    )
    def sign(
        self,
        which: int,
        who: str,
        right: bool,
        to: str,
        scope: Scope,
        issued: int,
        deadline: int,
        version: int,
        at_once: bool,
    ) -> None:
        which %= len(self.ledger.tokens)
        now = self.evm.now()
        order = Order(
            dataset=which,
            grantee=raw(self.at[to]),
            scope=scope,
            until=now + DAY_S,
            version=self.ledger.tokens[which].version + version,
            issued=now + issued,
            deadline=now + deadline,
        )
        self.orders.append((order, self.committee_of(which) if right else who))
        if at_once:
            self._submit(len(self.orders) - 1, who)

    @act(1, which=between(0, 30), by=actors, newest=either)
    def submit(self, which: int, by: str, newest: bool) -> None:
        if not self.orders:
            return
        self._submit(len(self.orders) - 1 if newest else which % len(self.orders), by)

    def _submit(self, number: int, by: str) -> None:
        order, signer = self.orders[number]
        row = (
            *(order.dataset, "0x" + order.grantee.hex(), tuple_of(order.scope)),
            *(order.until, order.version, order.issued, order.deadline),
        )
        digest = self.evm.call("datasets", "orderDigest", row)
        signature = Account._sign_hash(digest, key_of(signer)).signature
        done = self.both(
            self.send(by, "datasets", "giveBySignature", row, bytes(signature)),
            lambda: self.ledger.give_by_signature(order, raw(self.at[signer])),
        )
        assert not (done and number in self.used), "an order counted twice"
        if done:
            self.used.add(number)

    @act(
        1,
        which=indices,
        who=actors,
        right=often,
        to=one_of("r", "q", "b"),
        act=one_of("revoke", "revoke", "cancelOrders"),
    )
    def take_back(self, which: int, who: str, right: bool, to: str, act: str) -> None:
        which %= len(self.ledger.tokens)
        by = self.owner_of(which) if right else who
        me, them, before = raw(self.at[by]), raw(self.at[to]), self.readable
        if act == "revoke":
            model: Callable[[], None] = lambda: self.ledger.revoke(me, which, them)  # noqa: E731
        else:
            model = lambda: self.ledger.cancel_orders(me, which, them)  # noqa: E731
        done = self.both(self.send(by, "datasets", act, which, self.at[to]), model)
        if act == "cancelOrders":
            assert self.readable == before
        elif done:
            assert self.evm.call("datasets", "unitsFor", which, self.at[to], 1) == 0

    @act(6, which=between(0, 9), how=between(0, 9), who=one_of("a", "b", "s"))
    def cut(self, which: int, how: int, who: str) -> None:
        """Take one of the many ways to end an access that there is."""
        live = [key for key, units in self.readable.items() if units]
        if not live:
            self.give(which % 2, who, True, "r", Scope(3, 1, 3), DAY_S)
            return
        dataset, to, purposes = live[which % len(live)]
        owner, them = self.owner_of(dataset), raw(self.at[to])
        if how == 0:
            self.both(
                self.send(owner, "datasets", "withdraw", dataset),
                lambda: self.ledger.withdraw(raw(self.at[owner]), dataset),
            )
        elif how == 1:
            units = self.readable[dataset, to, purposes]
            self.both(
                self.send(owner, "datasets", "withdrawUnits", dataset, units & -units),
                lambda: self.ledger.withdraw_units(
                    raw(self.at[owner]), dataset, units & -units
                ),
            )
        elif how in {2, 3}:
            on = Terms(allowed=4 if how == 2 else 3, required=8 * (how == 3))
            self._set_terms(owner, dataset, 0, on)
            self._set_terms(owner, dataset, 0, Terms(allowed=3, max_days=30))
        elif how == 4:
            self._roles(to, 0)
            self._roles(to, ROLES.get(to, 2))
            self.take_back(dataset, owner, True, to, "cancelOrders")
        elif how == 5:
            self._roles(owner, 2)
            self._roles(owner, ROLES.get(owner, 1))
        elif how == 6:
            self.move(max(0, self.ledger.records[dataset, them].until - self.evm.now()))
        elif how == 7:
            self.sign(dataset, who, True, to, Scope(3, 1, 3), 0, HOUR_S, 0, False)
            self.move(1)
            self.take_back(dataset, owner, True, to, "revoke")
            self.move(1)
            self._submit(len(self.orders) - 1, who)
        else:
            self.sign(dataset, who, True, to, Scope(3, 1, 3), 0, HOUR_S, 0, True)
            self._submit(len(self.orders) - 1, who)

    def _roles(self, who: str, roles: int) -> None:
        me = raw(self.at[who])
        self.both(
            self.send("owner", "registry", "setRoles", self.at[who], roles),
            lambda: self.ledger.set_roles(raw(self.owner), me, roles),
        )
