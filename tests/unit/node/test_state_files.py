"""Files that are whole or not there, whoever else writes them."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from node.compute.state import (
    CHUNK_BYTES,
    path_of,
    read_last,
    tidy,
    write_bytes,
    write_file,
)
from node.errors import ComputeError

DATA = bytes(range(256)) * 4096


def test_many_may_write_one_file_at_once(tmp_path):
    """As two audits of one model do; none fails, and the file is whole at every look."""
    path = tmp_path / "model.trunk"
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(write_file, path, DATA) for _ in range(40)]
        while not all(one.done() for one in done):
            assert not path.exists() or path.read_bytes() == DATA
        for one in done:
            one.result()
    assert [found.name for found in tmp_path.iterdir()] == ["model.trunk"]


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_file(tmp_path / "taken", DATA)
    assert [found.name for found in tmp_path.iterdir()] == ["taken"]


def test_leftovers_of_a_crash_are_removed_and_nothing_else(tmp_path):
    for name in ("a.trunk", "a.trunk.0123456789abcdef.part", "b.state"):
        (tmp_path / name).write_bytes(b"x")
    tidy(tmp_path)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.trunk", "b.state"]
    tidy(tmp_path / "not there yet")


@pytest.mark.parametrize("size", [5, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 9])
def test_the_last_bytes_are_read_only_where_all_are_right(tmp_path, size):
    data = (DATA * 3)[:size]
    root = write_bytes(tmp_path, data)
    assert read_last(tmp_path, root, 5) == data[-5:]
    assert read_last(tmp_path, root, size) == data
    with pytest.raises(ComputeError, match=f"has {size} bytes, needs {size + 1}"):
        read_last(tmp_path, root, size + 1)
    # The first byte is none of those asked for.
    path_of(tmp_path, root).write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(ComputeError, match="is damaged"):
        read_last(tmp_path, root, 1)
    path_of(tmp_path, root).unlink()
    with pytest.raises(ComputeError, match="is not on this node"):
        read_last(tmp_path, root, 1)
