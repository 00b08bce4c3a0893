"""What a member of a run over thin links keeps back: once, or not at all, whatever ends it."""

import hashlib

import pytest

from ee.spec import Column, ModelSpec
from node.adapters.blob_dir import BlobDir
from node.adapters.memory_store import MemoryStore
from node.adapters.memory_transport import MemoryNetwork, MemoryTransport
from node.compute.state import write_bytes
from node.errors import ComputeError, StorageError
from node.services import thin
from node.services.states import States
from node.services.thin import KEPT, ThinLinks, counted
from protocol import merkle
from protocol.certificate import Certificate, Kind, Slot
from protocol.rounds.events import Finished
from protocol.rounds.messages import Verdict
from protocol.runs import Plan, Thin

RUN, ME, OTHER = b"r" * 32, b"m" * 32, b"o" * 32
HERE, THERE = b"\x01" * 32, b"\x02" * 32
UPDATE = hashlib.sha256(b"update").digest()
PLAN = Plan(
    title="thin",
    spec=ModelSpec(
        columns=(Column("age", 40.0, 10.0),),
        width=16,
        layers=1,
        heads=2,
        kv_heads=2,
        inner=16,
        seed=3,
    ),
    task={},
    train={},
    thin=Thin(4),
)


def ended(number=3, *, accept=True, context=HERE, survivors=()):
    verdict = Verdict(number, accept, b"", b"", b"", context, b"", 0, ())
    slot = Slot(RUN, b"", number, 0, Kind.VERDICT, context)
    return Finished(verdict, Certificate(slot, 0, b"", ()), survivors)


def records(number=3, *contexts):
    found = {"head": b"", "prekey/ab/1": b"", f"{number}/trained": UPDATE}
    return found | {f"{number}/said/{one.hex()}/upload": b"" for one in contexts}


@pytest.mark.parametrize(
    ("mine", "end", "is_in"),
    [
        (records(3, HERE), ended(survivors=(ME, OTHER)), True),
        (records(3, HERE), ended(survivors=(OTHER,)), False),
        (records(3, HERE), ended(accept=False, survivors=(ME, OTHER)), False),
        # It was away for longer: what became of its round it never hears.
        (records(3, HERE), ended(5, context=THERE), True),
        (records(3, HERE), ended(5, accept=False, context=THERE), True),
        (records(3), ended(5, context=THERE), False),
        # Nothing of its own, or of a round that is still to end.
        ({"head": b""}, ended(), False),
        (records(4, HERE), ended(3, context=HERE), False),
    ],
)
def test_an_update_counts_as_summed_where_it_is_or_may_be(mine, end, is_in):
    number = next((int(k.split("/")[0]) for k in mine if "trained" in k), None)
    assert counted(mine, end, ME) == ((number, UPDATE) if is_in else None)


class DiedError(Exception):
    """Stands for kill -9."""


class Mortal:
    """One member's store and states, and a process that dies at its n-th step."""

    def __init__(self, folder):
        self.folder = folder / "states"
        self.folder.mkdir()
        self.store = MemoryStore()
        self.states = States(
            self.folder,
            MemoryTransport(
                network=MemoryNetwork(),
                peer="me",
                allowed=lambda _peer: True,
                blobs=BlobDir(folder / "blobs"),
                may_fetch=lambda _peer, _blob: False,
            ),
            lambda *_: True,
        )
        self.left = 1 << 30
        for where, names in (
            (self.store, ("put", "delete")),
            (self.states, ("delete",)),
        ):
            for name in names:
                setattr(where, name, self._mortal(getattr(where, name)))

    def step(self):
        self.left -= 1
        if self.left < 0:
            raise DiedError

    def _mortal(self, usual):
        def call(*given):
            self.step()
            return usual(*given)

        return call

    def started(self):
        return ThinLinks(self.store, self.states, RUN, PLAN)

    def write(self, data):
        """As the child does: whole on disk, and then its name is told."""
        self.step()
        root = write_bytes(self.folder, data)
        self.step()
        return root

    async def rest(self, number, update):
        assert update == UPDATE
        return self.write(b"left by round %d" % number)

    async def row(self):
        return await self.store.get(KEPT, RUN)

    def files(self):
        return sorted(path.name for path in self.folder.iterdir())


def left_by(number):
    """Root of what a round left, and the file it lies in."""
    root = merkle.root([b"left by round %d" % number])
    return root, f"{root.hex()}.state"


@pytest.mark.parametrize("steps", range(6))
async def test_a_kill_at_any_instant_leaves_one_rest(tmp_path, steps):
    mortal = Mortal(tmp_path)
    await mortal.started().move_on(0, UPDATE, mortal.rest)
    (old, old_file), (new, new_file) = left_by(0), left_by(1)
    assert mortal.files() == [old_file]
    mortal.left = steps
    try:
        await mortal.started().move_on(1, UPDATE, mortal.rest)
        assert steps > 3
    except DiedError:
        # Never is there a record of one rest and the file of another alone.
        row = await mortal.row()
        assert row[:32] == old
        assert old_file in mortal.files() or new_file in mortal.files()
    mortal.left = 1 << 30
    # The verdict is told again, before anything trains.
    again = mortal.started()
    await again.move_on(1, UPDATE, mortal.rest)
    assert await again.left() == new
    assert mortal.files() == [new_file]


@pytest.mark.parametrize("steps", range(4))
async def test_a_kill_while_the_run_ends_leaves_none(tmp_path, steps):
    mortal = Mortal(tmp_path)
    await mortal.started().move_on(0, UPDATE, mortal.rest)
    mortal.left = steps
    try:
        await mortal.started().end()
        assert steps > 1
    except DiedError:
        assert await mortal.row() is not None  # so that a restart knows what to delete
    mortal.left = 1 << 30
    await mortal.started().end()
    assert mortal.files() == []
    assert await mortal.row() is None


async def test_what_is_kept_already_is_not_made_again(tmp_path):
    """After a restart the verdict is told once more, and the update may be deleted."""
    mortal = Mortal(tmp_path)
    links = mortal.started()
    await links.move_on(2, UPDATE, mortal.rest)
    before = await mortal.row()

    async def gone(number, update):
        raise StorageError("blob is not here")

    await mortal.started().move_on(2, UPDATE, gone)
    await mortal.started().move_on(1, UPDATE, gone)
    assert await mortal.row() == before


async def test_what_cannot_be_made_is_tried_again_and_then_given_up(
    tmp_path, autojump_clock, capsys
):
    mortal = Mortal(tmp_path)
    links = mortal.started()
    await links.move_on(0, UPDATE, mortal.rest)
    tries = []

    async def fails(number, update):
        tries.append(number)
        raise ComputeError("the child died")

    async def fails_twice(number, update):
        if len(tries) < 2:
            await fails(number, update)
        return await mortal.rest(number, update)

    await links.move_on(1, UPDATE, fails_twice)
    assert await links.left() == left_by(1)[0]
    tries.clear()
    await links.move_on(2, UPDATE, fails)
    assert len(tries) == thin.WORK_TRIES
    # It is in the sum: kept, it would be summed a second time.
    assert await links.left() == b""
    assert mortal.files() == []
    assert "is given up" in capsys.readouterr().out
    await links.move_on(3, UPDATE, mortal.rest)
    assert await links.left() == left_by(3)[0]


async def test_a_file_that_cannot_be_deleted_is_not_kept_in_the_records(tmp_path):
    mortal = Mortal(tmp_path)
    links = mortal.started()
    await links.move_on(0, UPDATE, mortal.rest)

    def refuses(root):
        raise StorageError("read-only file system")

    usual, mortal.states.delete = mortal.states.delete, refuses
    await links.move_on(1, UPDATE, mortal.rest)
    assert await links.left() == left_by(1)[0]
    await links.end()
    assert await mortal.row() is None
    mortal.states.delete = usual


async def test_a_run_that_ends_while_a_rest_is_made_keeps_none(tmp_path):
    mortal = Mortal(tmp_path)
    links = mortal.started()
    await links.move_on(0, UPDATE, mortal.rest)

    async def meanwhile(number, update):
        root = await mortal.rest(number, update)
        await links.end()
        return root

    await links.move_on(1, UPDATE, meanwhile)
    assert mortal.files() == []
    assert await mortal.row() is None
