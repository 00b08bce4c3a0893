"""A lying host loses its bond to a contract, an honest receipt survives: all in processes.

What a requester and a worker would have left behind is written into the homes beforehand: a
released trunk, five receipts of one host, and the rows behind them.  One is honest; one lies in
one number of a row; one mixed a head's values wrongly in attention and one activated wrongly (or,
of a model shaped as BERT, left a wrong base behind a norm), and both go on rightly from there and
stick to it when asked; one lies and is silent.  From there on daemons do everything: anchor, audit,
dispute, answer, ask, show, prove.
"""

import json

import pytest
import trio
from dispute_scene import ASKER, LIMIT_S, OWNER, SALT, Scene, until

from ee.integer import known
from node.adapters.evm_disputes import EvmDisputes
from node.demo import bonds
from node.errors import ContractRefusedError
from node.verifier.dispute import Prosecutor, trunk_of
from protocol.dispute import Part, Turn, claim_from
from protocol.receipt import batch_proof, batch_root
from protocol.types import digest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KINDS = {
    kind: ("row", Part.MIXED, inside, "silent", "honest")
    for kind, inside in (("table", Part.PRODUCT), ("bert", Part.BASE2))
}
"""Model to what is wrong with each receipt."""


@pytest.fixture(params=["table", pytest.param("bert", marks=pytest.mark.long)])
def scene(bench, tmp_path, request):
    trunk = (
        known.drawn_trunk(causal=True)
        if request.param == "table"
        else known.drawn_stock(known.ENCODER, causal=False)
    )
    rows = known.drawn_rows(trunk.config)
    made = Scene(bench, tmp_path, trunk, rows, KINDS[request.param])
    trio.run(made.write_homes)
    made.configure(audit__full=1.0, audit__tier="freivalds", audit__dispute=True)
    made.start("HOST", "lying_host")
    made.start("AUD")
    for name in made.homes:
        until(lambda name=name: made.connected(name))
    return made


def test_liars_are_slashed_and_an_honest_receipt_survives_a_malicious_challenger(scene):
    lies = len(scene.kinds) - 1

    def closed():
        rows = scene.disputes("AUD").values()
        return sum(row["outcome"] is not None for row in rows)

    # All but the silent one: a bent row, attention, activation.
    until(lambda: closed() == lies - 1)
    for row in scene.disputes("AUD").values():
        assert (row["host"], row["challenger"], row["layer"]) == ("HOST", "AUD", 0)
        assert row["outcome"] in (None, "upheld")
    # The verifier holds no weights: what its keys do not pass it fetches, replays and proves.
    reports = {
        row["receipt"]: (row["verdict"], row["tier"])
        for row in scene.call("AUD", "audits.list")["audits"]
    }
    verdicts = [reports[digest(one).hex()] for one in scene.sealed]
    assert verdicts == [("failed", "replay")] * lies + [("passed", "freivalds")]

    # Somebody who knows all the rows disputes the honest receipt, and shows what there is.
    number = trio.run(malicious, scene)
    rich = scene.chain(OWNER)
    moved = rich.link.web3.provider.make_request("dev_move", [hex(scene.move_s + 60)])
    assert "error" not in moved
    trio.run(bonds.give, rich, scene.coin)  # the next block
    until(lambda: scene.disputes("HOST")[number]["outcome"])
    assert scene.disputes("HOST")[number]["outcome"] == "rejected"
    until(lambda: closed() == lies + 1)
    outcomes = {n: row["outcome"] for n, row in scene.disputes("AUD").items()}
    assert [o for n, o in outcomes.items() if n != number] == ["upheld"] * lies
    # The liars inside the layer were asked for just what they bent.
    assert trio.run(asked, scene) == set(scene.kinds[1:3])
    # Of each lie a bond goes, half to who proved it; and half of the bond of who proved none.
    stake = bonds.STAKE / bonds.BOND
    held = scene.holdings("AUD")
    assert (held.challenger, held.host) == (1.5 * lies, stake - lies)
    assert scene.holdings("HOST").challenger == 0.5
    shown = scene.bench.rexis(
        "--home", scene.homes["AUD"].path, "dispute", "list", "--json"
    )
    assert len(json.loads(shown.stdout)["disputes"]) == lies + 1
    # Whoever holds a file of one of these receipts is told what the chain has.
    root = batch_root(scene.sealed).hex()
    told = scene.bench.rexis(
        *("--home", scene.homes["AUD"].path, "receipt", "anchored", "HOST", root[:9])
    )
    assert f"batch  {root}\nof     {lies + 1} receipts\n" in told.stdout


async def malicious(scene):
    """Every part of the true answer, shown as if it were wrong; the dispute's number."""
    arbiter, honest = EvmDisputes(scene.chain(ASKER.account_key)), len(scene.kinds) - 1
    number = await arbiter.accuse(
        scene.accounts["HOST"],
        batch_root(scene.sealed),
        batch_proof(scene.sealed, honest),
        scene.sealed[honest],
        trunk_of(scene.model),
        (1, 0, 5),
    )
    with trio.fail_after(LIMIT_S):
        while (await arbiter.standing(number)).turn is not Turn.CHALLENGER:
            await trio.sleep(0.2)
        while not (found := await answered(scene, number)):
            await trio.sleep(0.2)
    claim, roots = found
    prosecutor = Prosecutor(scene.model, claim, SALT, *scene.rows[1:])
    trace = prosecutor.trace()
    assert trace.roots == roots
    for part in filter(trace.has, list(Part)[:-1]):
        proof = prosecutor.proof(trace, part, 0, 0, trace.leaf(part, 0))
        with pytest.raises(ContractRefusedError, match="NotWrong"):
            await arbiter.prove(number, claim, roots, proof)
    return number


async def asked(scene):
    """Parts that were asked for in any dispute."""
    parts, closed = set(), 0
    async for event in scene.chain(OWNER).follow(0):
        if event.kind == "PartAsked":
            parts.add(event.data["part"])
        closed += event.kind == "DisputeClosed"
        if closed == len(scene.kinds):
            break
    return parts


async def answered(scene, number):
    """The claim and the host's answer, from the chain's own log."""
    claim = None
    with trio.move_on_after(10):
        async for event in scene.chain(OWNER).follow(0):
            if event.data.get("number") != number:
                continue
            if event.kind == "DisputeOpened":
                claim = claim_from(event.data)
            if event.kind == "DisputeAnswered":
                return claim, tuple(map(bytes, event.data["roots"]))
    return None
