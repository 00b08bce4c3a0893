"""What a plan asks a member to do between two sums has limits, and a member says which."""

import math

import pytest

from ee.errors import EncryptionError
from ee.hyper import TrainHyper
from ee.spec import Column, ModelSpec
from node.compute import planning

SPEC = ModelSpec((Column("age"),), 8, 1, 1, 1, 8, 1).to_dict()
TASK = {"id": "id", "label": "y", "above": 0.5}
RECORDS = b"id,age,y\n" + b"".join(b"%d,%d,%d\n" % (i, i, i % 2) for i in range(20))

ABSURD = [
    ("steps", 0, "need 1 to 10000"),
    ("steps", 10_001, "need 1 to 10000"),
    ("steps", 10**18, "need 1 to 10000"),
    ("batch", -1, "need 1 to 4096"),
    ("batch", 1 << 40, "need 1 to 4096"),
    ("trunk_rate", -0.1, "need 0 to 10"),
    ("trunk_rate", math.nan, "need 0 to 10"),
    ("ends_rate", math.inf, "need 0 to 10"),
    ("decay", 10.5, "need 0 to 10"),
    ("momentum", 1.0, "need 0 to 0.999"),
    ("clip", -1.0, r"need 0 to 1e\+06"),
    ("clip", math.nan, r"need 0 to 1e\+06"),
    ("cool", 1.5, "need 0 to 1"),
]


@pytest.mark.parametrize(("name", "value", "limit"), ABSURD)
def test_who_is_asked_to_join_refuses_by_value_and_limit(name, value, limit):
    about = {"spec": SPEC, "task": TASK, "records": RECORDS}
    said = f"{name} is .*{limit}"
    with pytest.raises(EncryptionError, match=said) as caught:
        planning.check({**about, "train": {name: value}}, print)
    assert f"{value}" in str(caught.value)
    assert planning.check({**about, "train": {}}, print)["samples"] > 0


def test_the_ends_of_each_range_are_taken():
    least = {"steps": 1, "batch": 1, "trunk_rate": 0, "ends_rate": 0, "decay": 0}
    most = {"steps": 10_000, "batch": 4096, "trunk_rate": 10, "decay": 10, "clip": 1e6}
    assert TrainHyper.from_dict({**least, "momentum": 0, "clip": 0, "cool": 0}).steps
    assert TrainHyper.from_dict({**most, "momentum": 0.999, "cool": 1}).batch == 4096
