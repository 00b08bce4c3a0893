"""Members that join a run under way, and members that leave it."""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from node.adapters.memory_signer import memory_signer
from node.errors import AccessError, RoundError
from node.ports.transport import Announcement
from protocol.runs import CONSENT_TOPIC, PROPOSAL_TOPIC, Consent, seal_consent
from protocol.seating import CHANGE_TOPIC, WISH_TOPIC, Wish, seal_wish


@asynccontextmanager
async def running(world, rounds, first=4):
    """All sites up, a run of the first few under way; gives its id."""
    async with AsyncExitStack() as stack:
        for site in world.sites:
            await stack.enter_async_context(site.up())
        yield await propose(world, rounds, first)


async def propose(world, rounds, first, known=None):
    names = [site.name for site in world.sites[:first]]
    row = await world.sites[0].runs.propose(world.plan, rounds, names, 0)
    run = bytes.fromhex(row["run"])
    for site in known or world.sites:
        await until(lambda site=site: run in site.runs._known)
    for site in world.sites[1:first]:
        await site.runs.join(run, 0)
    return run


async def until(found, seconds=60):
    with trio.fail_after(seconds):
        while not found():
            await trio.sleep(0.02)


def row(site, run):
    return site.runs.row(run)


def asks(site, run):
    return [each["member"] for each in row(site, run)["seats"] if each["wish"] == "in"]


async def everybody_at(world, run, members, done):
    """Until all of `members` have the same ones in the run and have done so many rounds."""
    names = sorted(site.name for site in members)
    for site in members:
        await until(lambda site=site: sorted(row(site, run)["members"]) == names)
        await until(lambda site=site: row(site, run)["round"] >= done)


@pytest.fixture
def count():
    return 5


@pytest.mark.slow
async def test_a_member_joins_a_run_under_way_and_trains_to_its_end(world):
    async with running(world, 6) as run:
        late, old = world.sites[4], world.sites[:4]
        await until(lambda: row(old[0], run)["round"] >= 1)
        with pytest.raises(RoundError, match="has not asked for a seat"):
            await old[0].runs.seat(run, late.name, "in")
        await late.runs.join(run, 0)
        for site in old[:3]:
            await until(lambda site=site: asks(site, run) == [late.name])
            assert row(site, run)["epoch"] == 0
            await site.runs.seat(run, late.name, "in")
        await world.until_finished(run, seconds=120)
        await everybody_at(world, run, world.sites, 6)
        assert {row(site, run)["epoch"] for site in world.sites} == {1}
        assert len({row(site, run)["state_root"] for site in world.sites}) == 1
        sums = old[0].runs.rounds(run)
        assert late.name not in sums[0]["survivors"]
        assert late.name in sums[-1]["survivors"]
        with pytest.raises(RoundError, match="finished"):
            await old[0].runs.seat(run, late.name, "out")


@pytest.mark.slow
async def test_who_hears_no_announcement_joins_by_what_members_tell_it(world):
    """It was not there when all of it was said; and one of the members is away meanwhile."""
    late, away, old = world.sites[4], world.sites[3], world.sites[:3]
    late.deaf = {PROPOSAL_TOPIC, CONSENT_TOPIC, WISH_TOPIC, CHANGE_TOPIC}
    away.deaf = {WISH_TOPIC, CHANGE_TOPIC}
    async with AsyncExitStack() as stack:
        for site in (*old, late):
            await stack.enter_async_context(site.up())
        async with away.up():
            run = await propose(world, 8, first=4, known=world.sites[:4])
            await until(lambda: row(away, run)["round"] >= 1)
        assert run not in late.runs._known
        await until(lambda: len(late.runs._tools.transport.connected()) >= 3)
        await late.runs.join(run, 0)
        for site in old:
            await until(lambda site=site: asks(site, run) == [late.name])
            await site.runs.seat(run, late.name, "in")
        for site in old:
            await until(lambda site=site: row(site, run)["epoch"] == 1)
        async with away.up():
            await everybody_at(world, run, world.sites, 8)
            assert {row(site, run)["epoch"] for site in world.sites} == {1}
            assert len({row(site, run)["state_root"] for site in world.sites}) == 1
            assert late.name in old[0].runs.rounds(run)[-1]["survivors"]


@pytest.mark.slow
async def test_a_member_leaves_and_the_others_go_on_without_it(world):
    async with running(world, 6, first=5) as run:
        leaver, stay = world.sites[4], world.sites[:4]
        await until(lambda: row(stay[0], run)["round"] >= 1)
        await leaver.runs.seat(run, "", "out")
        await world.until_finished(run, sites=stay, seconds=120)
        await everybody_at(world, run, stay, 6)
        assert len({row(site, run)["state_root"] for site in stay}) == 1
        assert leaver.name not in stay[0].runs.rounds(run)[-1]["survivors"]
        await until(lambda: leaver.runs.record(run).trainer is None)
        left = row(leaver, run)
        assert left["mine"] is False
        assert left["reason"] == "this node has left the run; the others go on"
        with pytest.raises(RoundError, match="has no seat"):
            await leaver.runs.seat(run, stay[0].name, "out")
        # What it brought is in the model: its dataset stays among those used.
        assert len(stay[0].runs.record(run).datasets) == 5


@pytest.mark.slow
async def test_members_dismiss_one_that_is_gone_and_it_learns_so_when_it_is_back(world):
    gone, stay = world.sites[4], world.sites[:4]
    async with AsyncExitStack() as stack:
        for site in stay:
            await stack.enter_async_context(site.up())
        async with gone.up():
            run = await propose(world, 8, first=5)
            await until(lambda: row(gone, run)["round"] >= 1)
        for site in stay:
            assert row(site, run)["epoch"] == 0
            await site.runs.seat(run, gone.name, "out")
        for site in stay:
            await until(lambda site=site: row(site, run)["epoch"] == 1)
        await world.until_finished(run, sites=stay, seconds=120)
        async with gone.up():
            await until(lambda: row(gone, run)["mine"] is False)
            await until(lambda: gone.runs.record(run).trainer is None)
        # And after another restart it begins nothing.
        async with gone.up():
            await trio.sleep(0.5)
            assert gone.runs.record(run).trainer is None
            assert row(gone, run)["epoch"] == 1


@pytest.mark.slow
async def test_what_members_want_is_offered_again_after_all_have_restarted(world):
    """Nothing is said any more that could remind a machine of it."""
    leaver, stay = world.sites[4], world.sites[:4]
    async with running(world, 6, first=5) as run:
        await until(lambda: row(stay[0], run)["round"] >= 1)
        for site in stay[:2]:
            await site.runs.steer(run, "pause")
        for site in world.sites:
            await until(lambda site=site: row(site, run)["phase"] == "paused")
        await trio.sleep(2.0)  # the round under way may end, none is opened
        for site in stay:
            await site.runs.seat(run, leaver.name, "out")
        for site in stay:
            await until(lambda site=site: wanted_by(site, run) == 4)
            assert row(site, run)["epoch"] == 0
    async with AsyncExitStack() as stack:
        for site in stay:
            await stack.enter_async_context(site.up())
        for site in stay[:2]:
            await site.runs.steer(run, "go")
        await world.until_finished(run, sites=stay, seconds=120)
        assert {row(site, run)["epoch"] for site in stay} == {1}


def wanted_by(site, run):
    (one,) = row(site, run)["seats"] or [{"by": ()}]
    return len(one["by"])


async def test_wishes_that_could_come_to_nothing_are_refused(world):
    async with running(world, 50, first=3) as run:
        one, stranger = world.sites[0], world.sites[3]
        await until(lambda: row(one, run)["phase"] == "training")
        with pytest.raises(RoundError, match="fewer than 3 would see"):
            await one.runs.seat(run, world.sites[1].name, "out")
        with pytest.raises(RoundError, match="fewer than 3 would see"):
            await one.runs.seat(run, "", "out")
        with pytest.raises(RoundError, match="has a seat in run"):
            await one.runs.seat(run, world.sites[1].name, "in")
        with pytest.raises(RoundError, match="this node has no seat"):
            await stranger.runs.seat(run, world.sites[1].name, "out")
        await until(lambda: run in stranger.runs._known)
        await stranger.runs.join(run, 0)
        await until(lambda: asks(one, run) == [stranger.name])
        await one.runs.seat(run, stranger.name, "in")
        with pytest.raises(RoundError, match="has said so"):
            await one.runs.seat(run, stranger.name, "in")
        assert row(one, run)["seats"] == [
            {
                "member": stranger.name,
                "wish": "in",
                "by": [one.name],
                "itself": True,
                "needed": 3,
                "exposed_by": [],
            }
        ]


async def test_who_is_no_member_of_the_federation_has_no_say_in_a_run(world):
    """Keys cost nothing: as many as one makes up would fill every node's room."""
    nobody = memory_signer(77)
    async with running(world, 1, first=3) as run:
        one, by = world.sites[0], world.sites[3].key.peer_id
        asking = Consent(run, 0, 5, nobody.seal_key)
        wishing = Wish(run, 1, world.sites[1].key.public_key, "out")
        sealed = seal_consent(nobody.sign, nobody.public_key, asking)
        with pytest.raises(AccessError, match="not a member"):
            await one.runs.heard_consent(Announcement(by, CONSENT_TOPIC, sealed))
        sealed = seal_wish(nobody.sign, nobody.public_key, wishing)
        with pytest.raises(AccessError, match="not a member"):
            await one.runs.heard_wish(Announcement(by, WISH_TOPIC, sealed))
        assert row(one, run)["seats"] == []
        assert nobody.public_key not in one.runs.record(run).course.consents
