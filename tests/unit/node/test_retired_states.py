"""The room of a state that nobody wants any more goes to the next one."""

import os

import numpy as np
import pytest

from node.compute import state
from node.errors import ComputeError, StorageError
from node.services.states import States
from node.services.syncing import partial

FIRST, SECOND = (np.full(70_000, value, "<f4") for value in (1, 2))


class Network:
    def serve(self, *_given, **_limits):
        pass


def made(folder, what):
    with state.StateFile(folder, what.nbytes) as out:
        out.write(what.data.cast("B"))
        return out.commit()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_next_state_lies_where_the_retired_one_lay(tmp_path):
    old = made(tmp_path, FIRST)
    # Open, so that its place cannot be given away under the same number.
    with state.path_of(tmp_path, old).open("rb") as file:
        state.retire(tmp_path, old)
        assert not state.path_of(tmp_path, old).exists()
        new = made(tmp_path, SECOND)
        place = state.path_of(tmp_path, new).stat()
        assert os.path.samestat(place, os.fstat(file.fileno()))
    assert (state.read(tmp_path, new, SECOND.size) == SECOND).all()
    assert names(tmp_path) == [f"{new.hex()}.state"]


def test_a_state_of_another_size_has_a_place_of_its_own(tmp_path):
    old = made(tmp_path, FIRST)
    state.retire(tmp_path, old)
    new = made(tmp_path, FIRST[:5])
    assert (state.read(tmp_path, new, 5) == FIRST[:5]).all()
    assert len(names(tmp_path)) == 2
    state.drop_spares(tmp_path)
    assert names(tmp_path) == [f"{new.hex()}.state"]


def test_one_room_is_kept_for_each_size_and_none_after_a_start(tmp_path):
    for each in (FIRST, SECOND):
        state.retire(tmp_path, made(tmp_path, each))
        state.retire(tmp_path, made(tmp_path, each[:9]))
    roots = [made(tmp_path, FIRST), made(tmp_path, SECOND)]
    for root in roots:
        state.retire(tmp_path, root)
    assert len(names(tmp_path)) == 2
    state.tidy(tmp_path)
    assert names(tmp_path) == []


def test_a_state_that_is_not_here_cannot_be_retired_and_need_not_be(tmp_path):
    state.retire(tmp_path, bytes(32))
    assert names(tmp_path) == []


def test_a_state_that_is_not_committed_takes_the_room_with_it(tmp_path):
    old = made(tmp_path, FIRST)
    state.retire(tmp_path, old)
    with state.StateFile(tmp_path, FIRST.nbytes) as out:
        out.write(SECOND[:100].data.cast("B"))
    assert names(tmp_path) == []
    assert made(tmp_path, FIRST) == old


def test_a_file_with_a_second_name_is_left_alone(tmp_path):
    old = made(tmp_path / "states", FIRST)
    copy = tmp_path / "backup"
    copy.hardlink_to(state.path_of(tmp_path / "states", old))
    state.retire(tmp_path / "states", old)
    made(tmp_path / "states", SECOND)
    assert copy.read_bytes() == FIRST.tobytes()
    assert len(names(tmp_path / "states")) == 1


def test_the_last_bytes_are_of_what_was_checked(tmp_path, monkeypatch):
    old, check = made(tmp_path, FIRST), state._require_root

    def late(*given):
        check(*given)
        state.retire(tmp_path, old)
        made(tmp_path, SECOND)

    monkeypatch.setattr(state, "_require_root", late)
    assert state.read_last(tmp_path, old, 8) == FIRST[-2:].tobytes()


def test_a_reader_of_the_retired_one_is_told_that_it_is_gone(tmp_path, monkeypatch):
    old = made(tmp_path, FIRST)
    fromfile = np.fromfile

    def late(file, kind):
        state.retire(tmp_path, old)
        made(tmp_path, SECOND)
        return fromfile(file, kind)

    monkeypatch.setattr(np, "fromfile", late)
    with pytest.raises(ComputeError, match="is not on this node"):
        state.read(tmp_path, old, FIRST.size)


def test_a_download_of_a_retired_state_goes_with_it(tmp_path):
    states = States(tmp_path, Network(), lambda *_: True)
    partial(state.path_of(tmp_path, bytes(32))).write_bytes(b"x")
    states.retire(bytes(32))
    assert names(tmp_path) == []


@pytest.mark.parametrize("ask", ["a chunk", "the list"])
def test_a_peer_never_gets_bytes_of_another_state(tmp_path, monkeypatch, ask):
    old = made(tmp_path, FIRST)
    states = States(tmp_path, Network(), lambda *_: True)
    path, looked = states._path, []

    def late(root):
        # After the file was opened and read, its name goes: so it may have been another's.
        looked.append(root)
        if len(looked) == 2:
            states.retire(old)
            made(tmp_path, SECOND)
        return path(root)

    monkeypatch.setattr(states, "_path", late)
    with pytest.raises(StorageError, match="is not here"):
        _ = states._read(old, 0) if ask == "a chunk" else states._leaves(old)
