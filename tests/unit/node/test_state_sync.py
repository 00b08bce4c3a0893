"""A state from several donors: real services over the memory network, and a real kill."""

import errno
import hashlib
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.adapters.blob_dir import BlobDir
from node.adapters.memory_transport import MemoryNetwork, MemoryTransport
from node.compute.state import CHUNK_BYTES, path_of, root_of, write_file
from node.errors import ComputeError, NodeError, StorageError
from node.services import syncing
from node.services.states import LISTS_KEPT, States
from protocol import merkle
from protocol.sync import CHUNK_PROTOCOL, LIST_PROTOCOL, ListAnswer, ListRequest
from protocol.wire import decode, encode

RUN = bytes(32)
CHUNKS = 9
DATA = b"".join(
    hashlib.shake_256(bytes([i])).digest(CHUNK_BYTES) for i in range(CHUNKS)
)[:-1000]
PIECES = [DATA[i : i + CHUNK_BYTES] for i in range(0, len(DATA), CHUNK_BYTES)]
ROOT = merkle.root(PIECES)
PEERS = [f"donor-{i}" for i in range(4)]


class Site:
    """One node's states, and how often it was asked for a chunk."""

    def __init__(self, network, folder: Path, peer: str, *, holds: bool) -> None:
        self.peer, self.folder = peer, folder / peer
        self.transport = MemoryTransport(
            network=network,
            peer=peer,
            allowed=lambda _peer: True,
            blobs=BlobDir(folder / "blobs" / peer),
            may_fetch=lambda _peer, _blob: False,
        )
        self.given: list[int] = []
        self.states = States(self.folder, self.transport, lambda *_: True)
        if holds:
            self.folder.mkdir(parents=True)
            write_file(path_of(self.folder, ROOT), DATA)
        self._usual = self.transport._served[CHUNK_PROTOCOL][0]
        self.answer(CHUNK_PROTOCOL, self._counted)

    def answer(self, protocol, function):
        _, limit = self.transport._served[protocol]
        self.transport._served[protocol] = (function, limit)

    async def _counted(self, peer, payload):
        self.given.append(len(self.given))
        return await self._usual(peer, payload)


@asynccontextmanager
async def sites(folder: Path, count: int):
    """A member without the state, and `count` that hold it."""
    network = MemoryNetwork()
    mine = Site(network, folder, "me", holds=False)
    donors = [Site(network, folder, peer, holds=True) for peer in PEERS[:count]]
    async with trio.open_nursery() as nursery:
        for site in (mine, *donors):
            await nursery.start(site.transport.run)
        for site in donors:
            mine.transport.keep_connected(site.peer, ("/memory",))
            site.transport.keep_connected(mine.peer, ("/memory",))
        yield mine, donors
        nursery.cancel_scope.cancel()


def is_whole(site: Site) -> bool:
    names = sorted(found.name for found in site.folder.iterdir())
    path = path_of(site.folder, ROOT)
    return names == [path.name] and path.read_bytes() == DATA


async def fetch(site: Site, donors) -> None:
    with trio.fail_after(60):
        await site.states.fetch(RUN, ROOT, len(DATA), [d.peer for d in donors])


async def test_all_donors_give_and_no_chunk_comes_twice(tmp_path):
    async with sites(tmp_path, 3) as (mine, donors):
        await fetch(mine, donors)
        assert is_whole(mine)
        assert all(donor.given for donor in donors)
        assert sum(len(donor.given) for donor in donors) == CHUNKS


async def test_a_donor_that_stops_costs_nothing_but_its_share(tmp_path, monkeypatch):
    monkeypatch.setattr(syncing, "TIMEOUT_S", 0.5)
    async with sites(tmp_path, 3) as (mine, donors):
        usual = donors[0]._counted

        async def stops(peer, payload):
            answer = await usual(peer, payload)
            if len(donors[0].given) > 1:
                await trio.sleep_forever()
            return answer

        donors[0].answer(CHUNK_PROTOCOL, stops)
        await fetch(mine, donors)
        assert is_whole(mine)


async def test_a_donor_that_lies_about_a_chunk_is_left_alone(tmp_path):
    async with sites(tmp_path, 2) as (mine, donors):
        asked = []

        async def lies(_peer, _payload):
            asked.append(1)
            return bytes(CHUNK_BYTES)

        donors[0].answer(CHUNK_PROTOCOL, lies)
        await fetch(mine, donors)
        assert is_whole(mine)
        assert 1 <= len(asked) <= 2  # those on their way when it was found out


@pytest.mark.parametrize("leaves", [PIECES[:3], [b"another"] * CHUNKS])
async def test_a_donor_that_lies_about_the_list_is_not_believed(tmp_path, leaves):
    async with sites(tmp_path, 2) as (mine, donors):

        async def lies(_peer, _payload):
            return encode(ListAnswer(tuple(map(merkle.leaf_digest, leaves))))

        donors[0].answer(LIST_PROTOCOL, lies)
        await fetch(mine, donors)
        assert is_whole(mine)
        assert donors[0].given == []


async def test_what_came_is_kept_when_nobody_gives_the_rest(tmp_path):
    async with sites(tmp_path, 1) as (mine, donors):
        usual = donors[0]._counted

        async def half(peer, payload):
            if len(donors[0].given) >= 4:
                return b"something else"
            return await usual(peer, payload)

        donors[0].answer(CHUNK_PROTOCOL, half)
        with pytest.raises(ComputeError, match=r"not chunk \d"):
            await fetch(mine, donors)
        assert not mine.states.has(ROOT)
        donors[0].answer(CHUNK_PROTOCOL, usual)
        await fetch(mine, donors)
        assert is_whole(mine)
        assert len(donors[0].given) == CHUNKS


async def test_a_chunk_damaged_on_disk_is_fetched_again(tmp_path):
    async with sites(tmp_path, 1) as (mine, donors):
        mine.folder.mkdir()
        kept = bytearray(DATA)
        kept[3 * CHUNK_BYTES] ^= 1
        syncing.partial(path_of(mine.folder, ROOT)).write_bytes(kept)
        await fetch(mine, donors)
        assert is_whole(mine)
        assert len(donors[0].given) == 1


async def test_chunks_of_another_state_are_forgotten_after_a_day(tmp_path):
    async with sites(tmp_path, 1) as (mine, donors):
        mine.folder.mkdir()
        old, new = mine.folder / "a.state.chunks", mine.folder / "b.state.chunks"
        for path in (old, new):
            path.write_bytes(b"x")
        os.utime(old, (0, 0))
        await fetch(mine, donors)
        assert not old.exists()
        assert new.exists()


async def test_nobody_to_ask_is_an_error_that_says_so(tmp_path):
    async with sites(tmp_path, 0) as (mine, donors):
        with pytest.raises(ComputeError, match="none asked"):
            await fetch(mine, donors)


async def test_a_disk_that_takes_less_than_it_is_given_is_given_the_rest(
    tmp_path, monkeypatch
):
    whole = os.pwrite

    def short(file, data, offset):
        return whole(file, data[: 1 + len(data) // 3], offset)

    monkeypatch.setattr(os, "pwrite", short)
    async with sites(tmp_path, 2) as (mine, donors):
        await fetch(mine, donors)
        assert is_whole(mine)


@pytest.mark.parametrize("call", ["open", "ftruncate", "pwrite", "pread", "fsync"])
async def test_a_full_disk_is_told_of_as_one_and_blamed_on_nobody(
    tmp_path, monkeypatch, call
):
    async with sites(tmp_path, 1) as (mine, donors):
        mine.folder.mkdir()
        syncing.partial(path_of(mine.folder, ROOT)).write_bytes(DATA[: 2 * CHUNK_BYTES])
        usual = getattr(os, call)

        def full(at, *rest):
            if call == "open" and not str(at).endswith(".chunks"):
                return usual(at, *rest)
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, call, full)
            with pytest.raises(StorageError, match="no space left on disk"):
                await fetch(mine, donors)
        await fetch(mine, donors)
        assert is_whole(mine)


async def test_what_another_process_takes_away_meanwhile_is_not_missed(tmp_path):
    async with sites(tmp_path, 1) as (mine, donors):
        mine.folder.mkdir()
        # Its name is listed, and there is nothing behind it.
        (mine.folder / "gone.state.chunks").symlink_to(mine.folder / "nowhere")
        await fetch(mine, donors)
        (mine.folder / "gone.state.chunks").unlink()
        assert is_whole(mine)


@pytest.mark.parametrize("instead", [None, bytes(len(DATA))])
async def test_only_the_file_that_the_chunks_went_to_gets_the_name(tmp_path, instead):
    """Somebody deletes it meanwhile, or deletes it and begins anew."""
    async with sites(tmp_path, 1) as (mine, donors):
        usual, kept = donors[0]._counted, syncing.partial(path_of(mine.folder, ROOT))

        async def taken_away(peer, payload):
            if len(donors[0].given) == CHUNKS - 1:
                kept.unlink()
                if instead is not None:
                    kept.write_bytes(instead)
            return await usual(peer, payload)

        donors[0].answer(CHUNK_PROTOCOL, taken_away)
        with pytest.raises(StorageError, match="not here"):
            await fetch(mine, donors)
        assert not mine.states.has(ROOT)
        await fetch(mine, donors)
        assert is_whole(mine)


def listing(root):
    return encode(ListRequest(RUN, root))


async def test_lists_are_hashed_one_at_a_time_and_not_for_every_asker(
    tmp_path, monkeypatch
):
    """As often and as fast as a peer may ask, a state is read once, and one state at a time."""
    async with sites(tmp_path, 1) as (mine, (donor,)):
        roots = [ROOT]
        for number in range(3):
            data = DATA[: CHUNK_BYTES * (number + 1)]
            roots.append(root_of(data))
            write_file(path_of(donor.folder, roots[-1]), data)
        hashed, at_once, most = [], 0, 0
        usual = merkle.leaf_digest

        def counted(chunk):
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            time.sleep(0.01)
            hashed.append(len(chunk))
            at_once -= 1
            return usual(chunk)

        with monkeypatch.context() as patched:
            patched.setattr(merkle, "leaf_digest", counted)
            answers = {root: [] for root in roots}

            async def ask(root):
                answer = await mine.transport.request(
                    donor.peer,
                    LIST_PROTOCOL,
                    listing(root),
                    timeout_s=30,
                    limit_bytes=1 << 20,
                )
                answers[root].append(decode(answer, ListAnswer).leaves)

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    for root in roots:
                        nursery.start_soon(ask, root)
        assert len(hashed) == CHUNKS + 1 + 2 + 3
        assert most == 1
        for root, found in answers.items():
            assert len(set(found)) == 1
            assert merkle.root_of_digests(found[0]) == root
        assert len(found) == 5


async def test_a_state_that_a_disk_has_changed_is_not_listed(tmp_path):
    """Whoever got such a list would take this member for a liar."""
    async with sites(tmp_path, 1) as (mine, (donor,)):
        path = path_of(donor.folder, ROOT)

        async def listed():
            return await mine.transport.request(
                donor.peer,
                LIST_PROTOCOL,
                listing(ROOT),
                timeout_s=30,
                limit_bytes=1 << 20,
            )

        before = await listed()
        changed = bytearray(DATA)
        changed[5 * CHUNK_BYTES] ^= 1
        path.write_bytes(changed)
        with pytest.raises(NodeError, match="damaged"):
            await listed()
        path.unlink()
        with pytest.raises(NodeError, match="not here"):
            await listed()
        write_file(path, DATA)
        assert await listed() == before


async def test_a_bit_that_a_disk_loses_without_a_word_is_found_on_looking(tmp_path):
    """The file's times and size say that nothing has changed; its list was asked for before."""
    async with sites(tmp_path, 1) as (mine, (donor,)):
        request = encode(ListRequest(RUN, ROOT))
        await mine.transport.request(
            *(donor.peer, LIST_PROTOCOL, request), timeout_s=10, limit_bytes=1 << 20
        )
        assert await donor.states.is_whole(ROOT)
        assert not await mine.states.is_whole(ROOT)
        path = path_of(donor.folder, ROOT)
        before = path.stat()
        with path.open("r+b") as file:
            file.seek(CHUNK_BYTES + 5)
            file.write(bytes([DATA[CHUNK_BYTES + 5] ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert not await donor.states.is_whole(ROOT)


async def test_no_more_lists_are_kept_than_are_asked_for(tmp_path):
    async with sites(tmp_path, 1) as (mine, (donor,)):
        for number in range(LISTS_KEPT + 3):
            data = bytes([number]) * 10
            root = root_of(data)
            write_file(path_of(donor.folder, root), data)
            await mine.transport.request(
                donor.peer,
                LIST_PROTOCOL,
                listing(root),
                timeout_s=30,
                limit_bytes=1 << 20,
            )
        assert len(donor.states._lists) == LISTS_KEPT


async def test_a_folder_that_is_none_is_an_error_of_ours(tmp_path):
    async with sites(tmp_path, 1) as (mine, donors):
        mine.folder.write_bytes(b"")
        with pytest.raises(StorageError, match="File exists"):
            await fetch(mine, donors)
        with pytest.raises(StorageError, match="Not a directory"):
            mine.states.delete(ROOT)


KILLED = """
import os, signal, sys, trio
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_state_sync as t
from protocol.sync import CHUNK_PROTOCOL

async def main():
    async with t.sites(Path(sys.argv[1]), 2) as (mine, donors):
        def dying(donor):
            async def dies(peer, payload, usual=donor._counted):
                # Each donor has two requests at a time: with the fifth one chunk has come.
                if sum(len(each.given) for each in donors) >= 5:
                    os.kill(os.getpid(), signal.SIGKILL)
                return await usual(peer, payload)
            return dies
        for donor in donors:
            donor.answer(CHUNK_PROTOCOL, dying(donor))
        await t.fetch(mine, donors)

trio.run(main)
"""


async def test_after_a_kill_only_what_is_missing_is_fetched(tmp_path):
    ended = await trio.run_process(
        [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)],
        check=False,
        capture_stderr=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = syncing.partial(path_of(tmp_path / "me", ROOT))
    assert left.exists()
    kept = left.read_bytes()
    here = sum(kept[i * CHUNK_BYTES :][: len(p)] == p for i, p in enumerate(PIECES))
    assert 0 < here < CHUNKS
    for peer in PEERS[:2]:
        path_of(tmp_path / peer, ROOT).unlink()
        (tmp_path / peer).rmdir()
    async with sites(tmp_path, 2) as (mine, donors):
        await fetch(mine, donors)
        assert is_whole(mine)
        assert sum(len(donor.given) for donor in donors) == CHUNKS - here
