"""A question that cannot end is given up: what is freed, what stays spent, who may say so."""

import pytest
from query_world import World
from test_drop_outs import SIZES, TABLES, charges, dies_at

from node.errors import AccessError, ComputeError, TransportError
from node.rpc.results import queries as results
from protocol.queries import answer as messages
from protocol.queries.answer import FORGET_PROTOCOL, QUERY_PROTOCOL, seal_query
from protocol.queries.models import Feature, Fit, Linear
from protocol.queries.recovery import OPEN_PROTOCOL, Asked
from protocol.queries.spec import MICRO
from protocol.wire import encode

pytestmark = pytest.mark.slow

HELD = ("query-answer", "query-sealed", "query-under", "query-dealt", "query-voted")
ASKING = ("query-open", "query-training", "query-training-round")


async def held(site, kinds=HELD):
    return {kind for kind in kinds if await site.store.scan(kind)}


async def begun(world, match):
    """A question that was cut; its signed bytes, and what would go on with it."""
    with pytest.raises(TransportError, match=match):
        await world.lab.queries.ask("count", world.datasets, MICRO)
    (row,) = await world.lab.queries.open()
    query = await world.lab.queries._asking.stored(row["query"])
    return row["query"], query


async def test_what_is_held_is_freed_and_what_is_spent_stays_spent(world):
    await world.allow()
    gone = world.sites[1]
    for protocol in (QUERY_PROTOCOL, FORGET_PROTOCOL):
        dies_at(gone, protocol, after=protocol == QUERY_PROTOCOL)
    name, query = await begun(world, "1 of 3 did not answer")
    left = [(await site.queries.rows())[0]["rho_left"] for site in world.sites]
    assert await held(world.sites[0]) == {"query-answer", "query-sealed"}
    said = await world.sites[0].queries.signed()
    answer = await world.lab.queries.forget(name[:12])
    results.QueriesForget(**answer)
    assert [(one["owner"], one["rho"]) for one in answer["freed"]] == [
        ("site-0", 1.0),
        ("site-2", 1.0),
    ]
    assert [one["dataset"] for one in answer["unreached"]] == [world.datasets[1]]
    assert "site-1: gone" in answer["unreached"][0]["reason"]
    for site in (world.sites[0], world.sites[2]):
        assert await held(site) == set()
    assert await held(world.lab, ASKING) == set()
    assert await world.lab.queries.open() == []
    with pytest.raises(AccessError, match="0 unfinished questions"):
        await world.lab.queries.resume(name)
    # Not a millionth comes back, and what is known of where the data went stays known.
    assert await charges(world) == [1] * 3
    assert [(await s.queries.rows())[0]["rho_left"] for s in world.sites] == left
    assert await world.sites[0].queries.signed() == said
    # The same question again would be a second vector, with noise of its own, for one charge.
    sealed = seal_query(world.lab.key.sign, world.lab.key.public_key, query)
    for restarted in (False, True):
        if restarted:
            world.sites[0].start()
        serve = world.sites[0].transport._served[QUERY_PROTOCOL][0]
        with pytest.raises(AccessError, match="was forgotten by who asked it"):
            await serve(world.lab.key.peer_id, encode(Asked(sealed)))
        assert world.sites[0].ran == 1


async def test_of_six_the_keys_and_the_votes_go_too_and_forgetting_again_is_the_same(
    nursery, tmp_path
):
    six = World(6, tmp_path)
    await six.start(nursery, TABLES)
    await six.allow()
    for number in (1, 4):
        dies_at(six.sites[number], OPEN_PROTOCOL, after=False)
    name, query = await begun(six, "2 of 6 did not answer")
    assert await held(six.sites[0]) == set(HELD) - {"query-dealt"}
    sealed = seal_query(six.lab.key.sign, six.lab.key.public_key, query)
    answer = await six.lab.queries.forget(name)
    assert [one["rho"] for one in answer["freed"]] == [1.0] * len(SIZES)
    serve = six.sites[0].transport._served[FORGET_PROTOCOL][0]
    assert await serve(six.lab.key.peer_id, sealed) == encode(messages.Forgot(MICRO))
    for site in six.sites:
        assert await held(site) == set()
    assert await charges(six) == [1] * 6
    # Nobody is held up: the next question has its answer.
    six.sites[1].start()
    six.sites[4].start()
    found = await six.lab.queries.ask("count", six.datasets, MICRO)
    assert abs(found["result"]["count"] - sum(SIZES)) <= 6 * found["noise_sd"]


async def test_another_member_forgets_nobodys_question(world):
    await world.allow()
    dies_at(world.sites[1], QUERY_PROTOCOL)
    name, query = await begun(world, "1 of 3 did not answer")
    other, site = world.sites[2], world.sites[0]
    serve = site.transport._served[FORGET_PROTOCOL][0]
    mine = seal_query(world.lab.key.sign, world.lab.key.public_key, query)
    with pytest.raises(AccessError, match="signed by another"):
        await serve(other.key.peer_id, mine)
    with pytest.raises(AccessError, match="is another's"):
        await serve(
            other.key.peer_id, seal_query(other.key.sign, other.key.public_key, query)
        )
    world.sites[1].start()
    assert (await world.lab.queries.resume(name))["masked"]
    # One that has its result is no unfinished one.
    with pytest.raises(AccessError, match="0 unfinished questions"):
        await world.lab.queries.forget(name)


async def test_a_training_is_forgotten_with_all_its_rounds(world):
    await world.allow(["training"], epsilon=9.0)
    model = Linear((Feature("t", 0.0, 30.0),), "e", "1", (0.0, 0.0))
    run = world.sites[1].queries._run

    async def until_two(query, table):
        if query.fit.number == 2:
            raise ComputeError("killed")
        return await run(query, table)

    world.sites[1].queries._run = until_two
    with pytest.raises(TransportError, match="killed"):
        await world.lab.queries.train(
            world.datasets, MICRO, model, Fit(4, 0, 1.0, 1.0, 0.0)
        )
    assert len(await world.sites[0].store.scan("query-answer")) == 3
    (row,) = await world.lab.queries.open()
    world.sites[1].start()
    answer = await world.lab.queries.forget(row["query"])
    assert [one["rho"] for one in answer["freed"]] == [1.0] * 3
    assert await held(world.lab, ASKING) == set()
    for site in world.sites:
        assert await held(site) == set()
        # Which weights each round was asked from is kept: it is not asked from others.
        assert len(await site.store.scan("query-round")) >= 2
    assert await charges(world) == [1] * 3
