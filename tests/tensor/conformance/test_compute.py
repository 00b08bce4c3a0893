"""What every `Compute` must do: the real child and the one in this process."""

from contextlib import asynccontextmanager

import pytest

from ee.spec import Column, ModelSpec
from node.adapters.compute_child import open_compute_child
from node.adapters.memory_compute import MemoryCompute
from node.errors import ComputeError

SPEC = ModelSpec(
    columns=(Column("age"),), width=8, layers=1, heads=1, kv_heads=1, inner=8, seed=1
)


@asynccontextmanager
async def in_memory():
    yield MemoryCompute()


@pytest.fixture(params=[pytest.param("child", marks=pytest.mark.slow), "memory"])
def compute(request):
    return open_compute_child() if request.param == "child" else in_memory()


async def test_a_method_gives_its_result_and_leaves_a_file(compute, tmp_path):
    async with compute as port:
        params = {"spec": SPEC.to_dict(), "folder": str(tmp_path)}
        made = await port.call("model.create", params)
        assert (tmp_path / f"{made['root'].hex()}.state").is_file()
        assert await port.call("model.create", params) == made


async def test_an_unknown_method_a_bad_value_and_a_missing_file_are_told(
    compute, tmp_path
):
    async with compute as port:
        with pytest.raises(ComputeError, match=r"no method 'fly'"):
            await port.call("fly", {})
        bad = {**SPEC.to_dict(), "width": 0}
        with pytest.raises(ComputeError, match="width is 0"):
            await port.call("model.create", {"spec": bad, "folder": str(tmp_path)})
        lost = {
            "spec": SPEC.to_dict(),
            "task": {"id": "i", "label": "y", "above": 0.5, "held_out_percent": 1},
            "train": {},
            "folder": str(tmp_path),
            "root": bytes(32),
            "records": b"i,age,y\n1,3,0\n2,4,1\n",
            "blobs": str(tmp_path / "blobs"),
        }
        with pytest.raises(ComputeError, match="is not on this node") as caught:
            await port.call("train.local", lost)
        assert caught.value.hint()
