"""What the trusted child does for a round, from updates to the next state, on real files."""

import numpy as np
import pytest

from ee.spec import Column, ModelSpec, size
from node.adapters.blob_dir import BlobDir
from node.compute import rounds, state, stepping, thin
from node.errors import ComputeError
from protocol.aggregate import coordinates
from protocol.aggregate.ring import WORD_BYTES, Ring, mean_factor
from protocol.aggregate.shards import slices
from protocol.types import Digest

RING = Ring(16, 12)
SPEC = ModelSpec(
    columns=(Column("x"),), width=64, layers=7, heads=8, kv_heads=8, inner=128, seed=1
)
LENGTH = size(SPEC)
MEMBERS = [b"a", b"b", b"c", b"d"]
SLICES = slices(LENGTH, 2, MEMBERS, b"context")
BOUNDS = [[each.start, each.stop] for each in SLICES]
BEACON = b"b" * 32
SEEDS = {name: name * 32 for name in MEMBERS}


class Node:
    """One folder, and the child's methods on it."""

    def __init__(self, folder) -> None:
        self.blobs = BlobDir(folder / "blobs")
        self.folder = folder / "states"
        self.common = {
            "ring": [RING.bits, RING.input_bits],
            "blobs": str(folder / "blobs"),
        }
        self.scales = rounds.scales(
            {"length": LENGTH, "velocities": 0, "folder": str(self.folder)}, print
        )["root"]
        first = np.random.default_rng(7).standard_normal(LENGTH, np.float32)
        self.base = state.write(self.folder, first)

    def call(self, method, **params):
        return method({**self.common, "folder": str(self.folder), **params}, print)

    def masked(self, name, update, thin=None, bounds=BOUNDS):
        found = self.call(
            rounds.mask,
            update=self.blobs.put(update.astype("<f4").tobytes()),
            scales=self.scales,
            weight=1,
            total=4,
            members=4,
            noise=None,
            thin=thin,
            seed=name * 32,
            noise_seed=b"",
            slices=bounds,
            plus=[SEEDS[name]],
            minus=[],
        )
        return found["shards"]

    def sums(self, shards, cut=SLICES):
        return [
            self.call(
                rounds.add_up,
                inputs=[each[s.index] for each in shards],
                size=s.size,
                carry=True,
            )
            for s in cut
        ]

    def apply(self, sums, **other):
        return self.call(
            stepping.apply,
            **{
                "sums": sums,
                "slices": BOUNDS,
                "plus": [],
                "minus": list(SEEDS.values()),
                "base": self.base,
                "scales": self.scales,
                "here": 4,
                "weight": 4,
                "members": 4,
                "survivors": 4,
                "rate": 1.0,
                "momentum": 0.0,
                "tolerance": 0.5,
                "thin": None,
                "spec": SPEC.to_dict(),
                "task": {"id": "id", "label": "y", "above": 0.5},
                "records": RECORDS,
                **other,
            },
        )


RECORDS = (
    "id,x,y\n" + "".join(f"{i},{i / 100},{i % 2}\n" for i in range(100))
).encode()


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


@pytest.fixture
def updates():
    chance = np.random.default_rng(3)
    return {name: chance.standard_normal(LENGTH) * 2.0**-6 for name in MEMBERS}


def test_the_state_is_the_base_and_the_mean_update(node, updates):
    assert LENGTH > 2 * stepping._STEP  # several stretches, and a short last one
    assert LENGTH % stepping._STEP
    shards = [node.masked(name, update) for name, update in updates.items()]
    sums = node.sums(shards)
    found = node.apply([each["sum"] for each in sums])
    after = state.read(node.folder, found["state"], LENGTH)
    before = state.read(node.folder, node.base, LENGTH)
    mean = sum(updates.values()) / 4
    assert np.abs(after - before - mean).max() < 2.0**rounds.FIRST_EXPONENT
    assert found["held_out"] > 0
    assert found["loss"] > 0
    # The same whole vector at once, from what the functions of the protocol say.
    total = np.concatenate([read(node, each["sum"]) for each in sums])
    for seed in SEEDS.values():
        stepping.Masks(total.dtype, 0, [], [seed]).apply(total)
    scales = np.frombuffer(
        state.path_of(node.folder, node.scales).read_bytes(), np.int8
    )
    whole = before + RING.decode(total, scales, mean_factor(4, 4, 4))
    assert state.state_root(whole) == found["state"]
    following = RING.next_exponents(total, scales, 4)
    assert state.root_of(following.tobytes()) == found["scales"]


@pytest.mark.parametrize("one_in", [2, 7])
def test_over_thin_links_the_chosen_entries_step_and_the_others_stay(
    node, updates, one_in
):
    choice = {"seed": coordinates.seed(b"r" * 32, 5), "one_in": one_in}
    many = coordinates.count(LENGTH, one_in)
    cut = slices(many, 2, MEMBERS, b"context")
    bounds = [[each.start, each.stop] for each in cut]
    node.scales = node.call(rounds.scales, length=many, velocities=0)["root"]
    shards = [
        node.masked(name, update, choice, bounds) for name, update in updates.items()
    ]
    sums = [each["sum"] for each in node.sums(shards, cut)]
    found = node.apply(sums, slices=bounds, thin=choice)
    before = state.read(node.folder, node.base, LENGTH)
    after = state.read(node.folder, found["state"], LENGTH)
    places = coordinates.Chosen(choice["seed"], LENGTH, one_in).places()
    assert len(set(places)) == many
    mean = sum(updates.values())[places] / 4
    assert (
        np.abs(after[places] - before[places] - mean).max() < 2.0**rounds.FIRST_EXPONENT
    )
    others = np.setdiff1d(np.arange(LENGTH), places)
    assert np.array_equal(after[others], before[others])
    # What did not travel is kept, what did is not: nothing is counted twice, nothing lost.
    update = updates[MEMBERS[0]].astype("<f4")
    root = node.call(thin.keep, update=node.blobs.put(update.tobytes()), thin=choice)[
        "root"
    ]
    left = state.read(node.folder, root, LENGTH)
    assert not left[places].any()
    assert np.array_equal(left[others], update[others])


@pytest.mark.parametrize("one_in", [1, 7])
def test_with_momentum_velocities_stand_before_the_scales_and_move_on(
    node, updates, one_in
):
    """Two rounds; over thin links an entry that is not chosen keeps its velocity as well."""
    many = coordinates.count(LENGTH, one_in)
    cut = slices(many, 2, MEMBERS, b"context")
    bounds = [[each.start, each.stop] for each in cut]
    node.scales = node.call(rounds.scales, length=many, velocities=LENGTH)["root"]
    wanted = state.read(node.folder, node.base, LENGTH)
    speed = np.zeros(LENGTH, "<f4")
    exponents = np.full(-(-many // 4096), rounds.FIRST_EXPONENT, np.int8)
    assert held(node, node.scales) == speed.tobytes() + exponents.tobytes()
    rate, mu = np.float32(0.7), np.float32(0.9)
    for number in range(2):
        drawn = coordinates.seed(b"r" * 32, number)
        choice = None if one_in == 1 else {"seed": drawn, "one_in": one_in}
        places = coordinates.Chosen(drawn, LENGTH, one_in).places()
        shards = [
            node.masked(name, update, choice, bounds)
            for name, update in updates.items()
        ]
        sums = [each["sum"] for each in node.sums(shards, cut)]
        found = node.apply(
            sums,
            slices=bounds,
            thin=choice,
            rate=float(rate),
            momentum=float(mu),
        )
        total = np.concatenate([read(node, name) for name in sums])
        for seed in SEEDS.values():
            stepping.Masks(total.dtype, 0, [], [seed]).apply(total)
        mean = RING.decode(total, exponents, mean_factor(4, 4, 4))
        exponents = RING.next_exponents(total, exponents, 4)
        speed[places] = mu * speed[places] + mean
        wanted[places] = rate * (mu * speed[places] + mean) + wanted[places]
        assert held(node, found["state"]) == wanted.tobytes()
        assert held(node, found["scales"]) == speed.tobytes() + exponents.tobytes()
        node.base, node.scales = found["state"], found["scales"]
    assert speed[places].any()
    never = np.ones(LENGTH, bool)
    for number in range(2):
        drawn = coordinates.seed(b"r" * 32, number)
        never[coordinates.Chosen(drawn, LENGTH, one_in).places()] = False
    assert (one_in == 1) != never.any()
    assert not speed[never].any()


def test_other_velocities_give_another_state_and_other_scales(node, updates):
    moving = node.call(rounds.scales, length=LENGTH, velocities=LENGTH)["root"]
    node.scales = moving
    shards = [node.masked(name, update) for name, update in updates.items()]
    sums = [each["sum"] for each in node.sums(shards)]
    usual = {"momentum": 0.9, "rate": 0.7}
    first = node.apply(sums, **usual)
    raw = bytearray(held(node, moving))
    raw[4 * (LENGTH - 1)] ^= 1  # the last velocity by the smallest number there is
    raw[3] = 0x3C  # the first is 1/128 and not 0
    other = node.apply(sums, scales=state.write_bytes(node.folder, raw), **usual)
    assert other["state"] != first["state"]
    assert other["scales"] != first["scales"]


def test_damaged_velocities_are_noticed_before_an_update_is_rounded(node, updates):
    node.scales = node.call(rounds.scales, length=LENGTH, velocities=LENGTH)["root"]
    path = state.path_of(node.folder, node.scales)
    raw = bytearray(path.read_bytes())
    raw[5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ComputeError, match="is damaged"):
        node.masked(MEMBERS[0], updates[MEMBERS[0]])


@pytest.mark.parametrize("count", [0, LENGTH - 1])
def test_scales_of_another_size_than_momentum_needs_are_refused(node, count):
    other = node.call(rounds.scales, length=LENGTH, velocities=count)["root"]
    needed = WORD_BYTES * LENGTH + -(-LENGTH // 4096)
    with pytest.raises(ComputeError, match=f"needs {needed}"):
        node.apply([], scales=other, slices=[], momentum=0.9)


def test_a_sum_out_of_range_leaves_no_velocities(node, updates):
    node.scales = node.call(rounds.scales, length=LENGTH, velocities=LENGTH)["root"]
    shards = [node.masked(name, update) for name, update in updates.items()]
    sums = [each["sum"] for each in node.sums(shards)]
    wrong = read(node, sums[1])
    wrong[0] += 1 << 15
    sums[1] = node.blobs.put(wrong.tobytes())
    before = sorted(node.folder.iterdir())
    assert node.apply(sums, momentum=0.9) == {"strays": [1]}
    assert sorted(node.folder.iterdir()) == before


def test_slices_out_of_range_are_named_and_no_state_is_left(node, updates):
    shards = [node.masked(name, update) for name, update in updates.items()]
    sums = [each["sum"] for each in node.sums(shards)]
    for index in (1, 3):
        wrong = read(node, sums[index])
        wrong[[0, -1]] += 1 << 15  # a top bit is further than four members reach
        sums[index] = node.blobs.put(wrong.tobytes())
    before = sorted(node.folder.iterdir())
    assert node.apply(sums) == {"strays": [1, 3]}
    assert sorted(node.folder.iterdir()) == before


def test_a_sum_of_another_length_is_refused_by_name(node, updates):
    shards = [node.masked(name, update) for name, update in updates.items()]
    sums = [each["sum"] for each in node.sums(shards)]
    sums[2] = node.blobs.put(read(node, sums[2])[:-1].tobytes())
    with pytest.raises(ComputeError, match=f"sum {sums[2].hex()[:16]} has"):
        node.apply(sums)


def test_a_base_of_another_length_is_refused(node):
    short = state.write(node.folder, np.zeros(LENGTH - 1, np.float32))
    with pytest.raises(ComputeError, match=f"needs {WORD_BYTES * LENGTH}"):
        node.apply([], base=short, slices=[])


def test_a_check_passes_what_was_added_up_and_nothing_else(node, updates):
    shards = [node.masked(name, update) for name, update in updates.items()]
    tags = [
        node.call(rounds.tag, slices=BOUNDS, shards=each, seed=BEACON)["values"]
        for each in shards
    ]
    sums = node.sums(shards)
    other = read(node, sums[1]["sum"])
    other[5] ^= 1
    changed = node.blobs.put(other.tobytes())
    for total, good in ((sums[1]["sum"], True), (changed, False)):
        found = node.call(
            rounds.check,
            sum=total,
            carry=sums[1]["carry"],
            start=SLICES[1].start,
            members=4,
            seed=BEACON,
            tag=sum(values[1] for values in tags),
        )
        assert found == {"good": good}


def held(node, root):
    return state.path_of(node.folder, root).read_bytes()


def read(node, name):
    return np.fromfile(node.blobs.path(Digest(name)), RING.dtype)
