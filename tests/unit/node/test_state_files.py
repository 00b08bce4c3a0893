"""Files that are whole or not there, whoever else writes them."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from node.compute.state import tidy, write_file

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
