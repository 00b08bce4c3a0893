"""What the admin interface sees to before a host is asked."""

from types import SimpleNamespace

import pytest

from node.errors import StorageError
from node.market.works import Works
from node.services.admin import Admin

FOUND = {"model": "", "host": "", "receipts": [], "scores": [0.5], "answers": []}


async def test_scores_that_cannot_be_written_are_not_asked_for(tmp_path):
    asked = []

    async def run(*arguments):
        asked.append((arguments, works.rows()))
        return FOUND

    works = Works()
    node = SimpleNamespace(
        market=SimpleNamespace(works=works),
        requester=SimpleNamespace(run=run),
        parts=SimpleNamespace(
            config=SimpleNamespace(node=SimpleNamespace(role="institution"))
        ),
    )
    records, out = tmp_path / "asked.csv", tmp_path / "scores.csv"
    records.write_bytes(b"a\n1\n")
    infer = Admin(node).methods()["inference.run"]

    async def answered(path):
        params = {"model": "00", "host": "KY", "path": str(records), "out": str(path)}
        return await infer(SimpleNamespace(**params))

    for path in (tmp_path / "none" / "scores.csv", tmp_path):
        with pytest.raises(StorageError, match=r"cannot be written|not a regular file"):
            await answered(path)
    assert not asked
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked.csv"]
    await answered(out)
    ((_, shown),) = asked
    assert [(row["path"], row["what"]) for row in shown] == [
        (str(records), "encrypting")
    ]
    assert works.rows() == []
    assert out.read_bytes() == b"score\n0.5\n"
