"""Institutions that are gone before the sum is read do not take the others' answers with them."""

import math

import pytest
import trio
from query_world import World, csv_of

from node.errors import AccessError, TransportError
from node.rpc.results import queries as results
from node.verifier.lineage import query_report
from protocol.errors import VerificationError
from protocol.lineage import build
from protocol.queries.answer import QUERY_PROTOCOL
from protocol.queries.bundle import BUNDLE_LIMIT_BYTES, Bundle
from protocol.queries.recovery import OPEN_PROTOCOL, POLL_PROTOCOL, Survivors
from protocol.queries.spec import MICRO
from protocol.wire import decode, encode

pytestmark = pytest.mark.slow
SIZES = (30, 31, 32, 33, 34, 35)
TABLES = [csv_of([{"t": n, "e": n % 2} for n in range(size)]) for size in SIZES]


@pytest.fixture
async def six(nursery, tmp_path):
    made = World(6, tmp_path)
    await made.start(nursery, TABLES)
    await made.allow()
    return made


def dies_at(site, protocol, after=True):
    """The site does its part, or does not, and is gone before anybody hears of it."""
    (act, limit) = site.transport._served[protocol]

    async def act_and_die(peer, payload):
        if after:
            await act(peer, payload)
        raise TransportError("gone")

    site.transport._served[protocol] = (act_and_die, limit)
    return lambda: site.transport._served.__setitem__(protocol, (act, limit))


async def charges(world):
    return [(await site.queries.rows())[0]["questions"] for site in world.sites]


@pytest.mark.parametrize("after", [True, False])
async def test_one_that_dies_between_mask_and_sum_costs_the_others_nothing(
    six, tmp_path, after
):
    dies_at(six.sites[2], QUERY_PROTOCOL, after)
    path = tmp_path / "bundle"
    answer = await six.lab.queries.ask("count", six.datasets, MICRO, path=path)
    results.QueriesAsk(**answer)
    assert answer["dropped"] == ["site-2"]
    assert len(answer["answers"]) == 5
    assert answer["noise_sd"] == pytest.approx(math.sqrt(5 / 2))  # whole, of five
    expected = sum(SIZES) - SIZES[2]
    assert abs(answer["result"]["count"] - expected) <= 6 * answer["noise_sd"]
    assert await charges(six) == [1, 1, int(after), 1, 1, 1]
    # The bundle is checked by others, and says who was left.
    report = query_report(path.read_bytes(), None)
    assert report["result"]["count"] == answer["result"]["count"]
    assert report["dropped"] == [six.datasets[2]]
    bundle = decode(path.read_bytes(), Bundle, limit_bytes=BUNDLE_LIMIT_BYTES)
    for bad in (
        Bundle(bundle.query, bundle.answers[1:], *rest(bundle)),
        Bundle(bundle.query, bundle.answers, *rest(bundle, votes=bundle.votes[:4])),
        Bundle(
            bundle.query, bundle.answers, *rest(bundle, secrets=bundle.secrets[::-1])
        ),
    ):
        with pytest.raises(VerificationError):
            query_report(encode(bad), None)


def rest(bundle, **changes):
    names = ("seats", "readys", "votes", "secrets")
    return [changes.get(name, getattr(bundle, name)) for name in names]


async def test_the_graph_has_the_survivors_and_the_answer(six):
    dies_at(six.sites[0], QUERY_PROTOCOL)
    await six.lab.queries.ask("count", six.datasets, MICRO)
    records, facts = await six.lab.market.lineage(
        (), queries=await six.lab.queries.signed()
    )
    graph = build(records, facts)
    assert graph.doubts == []
    assert sum(edge.relation == "prov:used" for edge in graph.edges) == 5
    assert sum(vertex.kind == "answer" for vertex in graph.vertices.values()) == 1


async def test_too_few_are_no_sum_and_it_goes_on_once_they_are_back(six, monkeypatch):
    back = [dies_at(six.sites[n], QUERY_PROTOCOL) for n in (1, 4)]
    with pytest.raises(TransportError, match=r"2 of 6 did not answer") as caught:
        await six.lab.queries.ask("count", six.datasets, MICRO)
    name = caught.value.hint().split("resume ")[1].strip("`")
    for revive in back:
        revive()
    six.lab.start()
    answer = await six.lab.queries.resume(name)
    assert answer["dropped"] == []
    assert abs(answer["result"]["count"] - sum(SIZES)) <= 6 * answer["noise_sd"]
    assert await charges(six) == [1] * 6
    assert [site.ran for site in six.sites] == [1] * 6
    with pytest.raises(AccessError, match="0 unfinished questions"):
        await six.lab.queries.resume(name)


@pytest.mark.parametrize("protocol", [POLL_PROTOCOL, OPEN_PROTOCOL])
async def test_one_that_dies_while_survivors_are_agreed_or_masks_opened(six, protocol):
    dies_at(six.sites[3], protocol)
    answer = await six.lab.queries.ask("count", six.datasets, MICRO)
    assert answer["dropped"] == []  # its vector was there, and stays in the sum
    assert abs(answer["result"]["count"] - sum(SIZES)) <= 6 * answer["noise_sd"]


@pytest.mark.parametrize("protocol", [QUERY_PROTOCOL, POLL_PROTOCOL, OPEN_PROTOCOL])
async def test_one_that_answers_rubbish_is_no_more_than_one_that_is_gone(six, protocol):
    site = six.sites[1]
    _, limit = site.transport._served[protocol]

    async def lie(peer, payload):
        await trio.lowlevel.checkpoint()
        return b"rubbish"

    site.transport._served[protocol] = (lie, limit)
    answer = await six.lab.queries.ask("count", six.datasets, MICRO)
    gone = SIZES[1] if protocol == QUERY_PROTOCOL else 0
    expected = sum(SIZES) - gone
    assert abs(answer["result"]["count"] - expected) <= 6 * answer["noise_sd"]


async def test_a_node_agrees_to_one_set_of_survivors_also_after_a_restart(six):
    seen = {}
    site = six.sites[0]
    act, limit = site.transport._served[POLL_PROTOCOL]

    async def watch(peer, payload):
        seen["poll"] = decode(payload, Survivors)
        return await act(peer, payload)

    site.transport._served[POLL_PROTOCOL] = (watch, limit)
    await six.lab.queries.ask("count", six.datasets, MICRO)
    poll, lab = seen["poll"], six.lab.key.peer_id
    site.start()
    first = await site.queries._serve_poll(lab, encode(poll))
    assert await site.queries._serve_poll(lab, encode(poll)) == first
    other = Survivors(poll.query, poll.keys, poll.set ^ (1 << 5))
    mine = site.queries._masking
    for bad, why in (
        (other, "agreed to other survivors|not among the survivors"),
        (Survivors(bytes(32), poll.keys, poll.set), "was not answered here"),
    ):
        with pytest.raises(AccessError, match=why):
            await site.queries._serve_poll(lab, encode(bad))
    with pytest.raises(AccessError, match="another's"):
        await site.queries._serve_poll(six.sites[1].key.peer_id, encode(poll))
    assert await mine.asked(poll.query)
    await trio.lowlevel.checkpoint()


async def test_a_question_is_answered_under_one_set_of_keys(six):
    seen = []
    site = six.sites[0]
    act, limit = site.transport._served[QUERY_PROTOCOL]

    async def watch(peer, payload):
        seen.append(payload)
        return await act(peer, payload)

    site.transport._served[QUERY_PROTOCOL] = (watch, limit)
    await six.lab.queries.ask("count", six.datasets, MICRO)
    lab = six.lab.key.peer_id
    first = await site.queries._serve(lab, seen[0])
    assert await site.queries._serve(lab, seen[0]) == first
    from protocol.queries.recovery import Asked

    asked = decode(seen[0], Asked, limit_bytes=1 << 21)
    with pytest.raises(AccessError, match="under other keys"):
        await site.queries._serve(lab, encode(Asked(asked.query, asked.readys[:5])))
