"""A question that is under way: what is kept of it, who is believed, and how it ends."""

import msgspec
import pytest
import trio
from click.testing import CliRunner
from query_world import World
from test_drop_outs import SIZES, TABLES, charges, dies_at

from node.errors import AccessError, TransportError
from node.query import masking
from node.rpc.results import queries as results
from node.verifier.cli import cli
from protocol.queries.answer import CHECK_PROTOCOL, QUERY_PROTOCOL
from protocol.queries.recovery import OPEN_PROTOCOL, POLL_PROTOCOL
from protocol.queries.spec import MICRO
from protocol.rounds import prekeys
from protocol.wire import decode, encode

pytestmark = pytest.mark.slow


@pytest.fixture
async def six(nursery, tmp_path):
    made = World(6, tmp_path)
    await made.start(nursery, TABLES)
    await made.allow()
    return made


async def kinds_of(site):
    return [event.kind for event in await site.store.events(0, 1000)]


async def is_open(world):
    """The question of the lab that has no result yet, as it is shown."""
    rows = await world.lab.queries.open()
    results.QueriesList(policies=[], open=[results.OpenQuery(**row) for row in rows])
    (row,) = rows
    return row


def near(answer, expected):
    return abs(answer["result"]["count"] - expected) <= 6 * answer["noise_sd"]


def watched(site, protocol, act):
    """Put `act(peer, payload, real)` in the place of what a site does."""
    real, limit = site.transport._served[protocol]

    async def instead(peer, payload):
        return await act(peer, payload, real)

    site.transport._served[protocol] = (instead, limit)
    return lambda: site.transport._served.__setitem__(protocol, (real, limit))


async def test_an_answer_from_other_data_than_listed_is_nobodys(six, tmp_path):
    """It is left out before survivors are agreed, or the whole question is spent on it."""
    site = six.sites[1]
    attested = site.queries._attested

    class Elsewhere:
        def __init__(self, listing):
            self.digest, self.manifest = listing.digest, b"\7" * 32

    site.queries._attested = lambda query, dataset, listing, words: attested(
        query, dataset, Elsewhere(listing), words
    )
    path = tmp_path / "bundle"
    answer = await six.lab.queries.ask("count", six.datasets, MICRO, path=path)
    assert answer["dropped"] == ["site-1"]
    assert near(answer, sum(SIZES) - SIZES[1])
    done = CliRunner().invoke(cli, ["query", str(path)])
    assert f"dropped   dataset {six.datasets[1]}" in done.output


async def test_of_three_one_that_answers_from_other_data_is_named(world):
    await world.allow()
    site = world.sites[1]
    attested = site.queries._attested

    def elsewhere(query, dataset, listing, words):
        class Other:
            digest, manifest = listing.digest, b"\7" * 32

        return attested(query, dataset, Other, words)

    site.queries._attested = elsewhere
    with pytest.raises(TransportError, match="site-1: manifest of the answer"):
        await world.lab.queries.ask("count", world.datasets, MICRO)


async def test_votes_are_kept_only_once_they_certify(six):
    """A quorum that spoke rubbish, kept, would be a question nobody can go on with."""

    votes = []

    async def lie(peer, payload, real):
        """Somebody else's, or none; its own it keeps for itself."""
        votes.append(await real(peer, payload))
        return votes[0] if len(votes) > 1 else b"rubbish"

    back = [watched(six.sites[n], POLL_PROTOCOL, lie) for n in (0, 5)]
    with pytest.raises(TransportError, match="2 of 6 did not answer"):
        await six.lab.queries.ask("count", six.datasets, MICRO)
    row = await is_open(six)
    assert row["awaits"] == "votes"
    for revive in back:
        revive()
    answer = await six.lab.queries.resume(row["query"])
    assert near(answer, sum(SIZES))
    assert await charges(six) == [1] * 6
    assert await six.lab.queries.open() == []


async def test_of_two_that_go_on_with_one_question_one_is_refused(six):
    back = [dies_at(six.sites[n], QUERY_PROTOCOL) for n in (1, 4)]
    with pytest.raises(TransportError, match="2 of 6"):
        await six.lab.queries.ask("count", six.datasets, MICRO)
    row = await is_open(six)
    assert (row["awaits"], row["running"]) == ("answers", False)
    assert f"rexis query resume {row['query'][:16]}" in row["hint"]
    for revive in back:
        revive()
    asked, go_on = trio.Event(), trio.Event()

    async def slow(peer, payload, real):
        asked.set()
        await go_on.wait()
        return await real(peer, payload)

    watched(six.sites[0], QUERY_PROTOCOL, slow)
    answers = []

    async def first():
        answers.append(await six.lab.queries.resume(row["query"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await asked.wait()
        assert (await is_open(six))["running"]
        refused = pytest.raises(AccessError, match="is being asked now")
        with trio.fail_after(10), refused:
            await six.lab.queries.resume(row["query"][:12])
        go_on.set()
    assert near(answers[0], sum(SIZES))
    with pytest.raises(AccessError, match="0 unfinished questions"):
        await six.lab.queries.resume(row["query"])


async def test_one_question_does_not_hold_up_the_votes_of_another(six):
    site, lab = six.sites[0], six.lab
    polls = []

    async def note(peer, payload, real):
        polls.append(payload)
        return await real(peer, payload)

    watched(site, POLL_PROTOCOL, note)
    await lab.queries.ask("count", six.datasets, MICRO)
    computing, go_on, run = trio.Event(), trio.Event(), site.queries._run

    async def long(query, table):
        computing.set()
        await go_on.wait()
        return await run(query, table)

    site.queries._run = long
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.queries.ask, "count", six.datasets, MICRO)
        await computing.wait()
        with trio.fail_after(5):
            assert await site.queries._serve_poll(lab.key.peer_id, polls[0])
        go_on.set()


async def test_two_checks_at_once_are_dealt_for_once(six):
    """The researcher may ask as often as it likes; it sees one sealing of each share."""
    site, sent = six.sites[2], []

    async def twice(peer, payload, real):
        async def one():
            sent.append(await real(peer, payload))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            nursery.start_soon(one)
        return sent[-1]

    watched(site, CHECK_PROTOCOL, twice)
    await six.lab.queries.ask("count", six.datasets, MICRO)
    assert len(sent) == 2
    assert sent[0] == sent[1]


async def test_a_question_is_begun_before_anybody_may_have_paid(six):
    seen = []

    async def look(peer, payload, real):
        seen.append((await kinds_of(six.lab), await is_open(six)))
        return await real(peer, payload)

    watched(six.sites[0], QUERY_PROTOCOL, look)
    answer = await six.lab.queries.ask("count", six.datasets, MICRO)
    ((kinds, row),) = seen
    assert kinds[-1] == "query_begun"
    assert row["query"] == answer["query"]
    assert row["running"]
    assert (row["datasets"], row["kind"]) == (sorted(six.datasets), "count")
    assert [k for k in await kinds_of(six.lab) if k.startswith("query_")] == [
        "query_begun",
        "query_asked",
    ]


async def test_a_question_that_one_refuses_is_not_begun(six):
    await six.sites[3].queries.stop(six.datasets[3])
    with pytest.raises(AccessError, match="1 of 6 did not answer: site-3") as caught:
        await six.lab.queries.ask("count", six.datasets, MICRO)
    assert "nothing was paid" in caught.value.hint()
    assert "resume" not in caught.value.hint()
    assert await six.lab.queries.open() == []
    assert "query_begun" not in await kinds_of(six.lab)


async def test_of_three_one_may_be_away_and_the_question_goes_on_when_it_is_back(world):
    await world.allow()
    back = dies_at(world.sites[1], QUERY_PROTOCOL)
    with pytest.raises(TransportError, match="1 of 3 did not answer"):
        await world.lab.queries.ask("count", world.datasets, MICRO)
    row = await is_open(world)
    assert row["hint"].startswith("once all of them are there")
    back()
    world.lab.start()
    answer = await world.lab.queries.resume(row["query"])
    assert near(answer, 20 + 21 + 22)
    assert await charges(world) == [1] * 3
    assert [site.ran for site in world.sites] == [1] * 3


async def test_who_dealt_shares_of_another_secret_is_named_and_the_question_is_over(
    six, monkeypatch
):
    liar, real = six.sites[4], prekeys.deal

    def deal(cohort, me, *rest):
        made = real(cohort, me, *rest)
        if me != liar.key.public_key:
            return made
        forged = msgspec.structs.replace(made.prekey, seed=bytes(32))
        return prekeys.Dealt(forged, made.secret, made.seed)

    monkeypatch.setattr(masking.prekeys, "deal", deal)
    with pytest.raises(
        AccessError, match="site-4 dealt shares of another seed"
    ) as caught:
        await six.lab.queries.ask("count", six.datasets, MICRO)
    assert caught.value.hint() == "ask anew, without site-4"
    assert await six.lab.queries.open() == []
    (lost,) = [e for e in await six.lab.store.events(0, 99) if e.kind == "query_lost"]
    assert lost.data["member"] == "site-4"


@pytest.mark.parametrize("short", [b"", b"\0" * 31, b"\0" * 33])
async def test_shares_of_another_length_open_nothing_and_stop_nothing(six, short):
    async def cut(peer, payload, real):
        opened = decode(await real(peer, payload), masking.recovery.Opened)
        return encode(masking.recovery.Opened((short,) * len(opened.shares)))

    watched(six.sites[1], OPEN_PROTOCOL, cut)
    answer = await six.lab.queries.ask("count", six.datasets, MICRO)
    assert answer["dropped"] == []
    assert near(answer, sum(SIZES))
