"""All of it is written, in its place, whatever the system takes at once."""

import os

import pytest

from node.disk import PIECE_BYTES, write_all

DATA = os.urandom(2 * PIECE_BYTES + 5)


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("offset", [None, 0, 3])
def test_all_is_written(tmp_path, monkeypatch, offset, short):
    sizes = []

    def taking_less(call):
        def write(file, data, *place):
            sizes.append(len(data))
            return call(file, data[: -(-len(data) // 3)] if short else data, *place)

        return write

    for name in ("write", "pwrite"):
        monkeypatch.setattr(os, name, taking_less(getattr(os, name)))
    path = tmp_path / "file"
    path.write_bytes(b"abcdef")
    file = os.open(path, os.O_WRONLY)
    write_all(file, DATA, offset)
    os.close(file)
    assert path.read_bytes() == b"abcdef"[: offset or 0] + DATA
    assert max(sizes) == PIECE_BYTES
    assert (len(sizes) == 3) != short
