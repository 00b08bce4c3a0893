"""Questions to a federation: answered once, charged once, refused at no cost."""

import math
from types import SimpleNamespace

import msgspec
import pytest
from query_world import TEXTS, question

from node.errors import AccessError, ComputeError, TransportError
from node.rpc.methods import METHODS
from node.rpc.results import queries as results
from node.services.queries_admin import QueriesAdmin
from protocol.queries.answer import QUERY_PROTOCOL, seal_query
from protocol.queries.bundle import Bundle
from protocol.queries.recovery import Asked
from protocol.queries.spec import MICRO, Named
from protocol.wire import decode, encode


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
            *(site.key.peer_id, QUERY_PROTOCOL, encode(Asked(sealed))),
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
    with pytest.raises(AccessError, match="needs 100") as refused:
        await ask("count", one, 1)
    assert "`rexis query count --help`" in refused.value.hint()
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
            await site.queries._answer(asked, world.lab.member(), Asked(b""))
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
        await site.queries._serve(world.lab.key.peer_id, encode(Asked(sealed)))


async def test_two_datasets_of_one_member_are_told_before_anybody_is_asked(world):
    site, first = world.sites[0], world.datasets[0]
    shown = await site.market.publish(
        [world.folder / f"{site.name}.csv"], "Again", *TEXTS[1:]
    )
    second = shown["dataset"]
    with pytest.raises(
        AccessError, match=f"{first} and {second} are both of {site.name}"
    ):
        await world.lab.queries.ask("count", [second, world.datasets[1], first], 1000)
    for one in world.sites:
        assert not [e for e in await one.store.events(0, 99) if "refused" in e.kind]


async def test_a_steward_is_told_that_the_same_rows_answer_twice(world):
    """A slice has a budget of its own, and the patient's is the sum."""
    site, whole = world.sites[0], world.datasets[0]
    path = world.folder / f"{site.name}.csv"
    column = path.read_text().split("\n", 1)[0].split(",")[0]
    shown = await site.market.publish([path], *TEXTS, columns=[column])
    admin = QueriesAdmin(SimpleNamespace(queries=site.queries, market=site.market))
    method = METHODS["queries.allow"]

    async def allow(dataset):
        said = {"dataset": dataset, "kinds": ["count"], "epsilon": 1.0}
        row = await admin.methods()[method.name](msgspec.convert(said, method.params))
        return msgspec.convert(row, method.result).same_rows

    assert await allow(whole) == []
    assert await allow(shown["dataset"]) == [whole]
    await site.queries.stop(whole)
    assert await allow(shown["dataset"]) == []
