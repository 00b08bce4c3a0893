"""A survival curve of 18 institutions against the pooled one."""

import math

import pytest
from lung_curves import BINNED_AT_MOST, kaplan_meier, lung
from query_world import World, csv_of

from node.errors import AccessError
from protocol.queries.spec import MICRO

SURVIVAL = {"columns": ["days", "status"], "event": "2"}


@pytest.mark.slow
async def test_a_survival_curve_over_18_institutions_is_the_pooled_one_within_its_noise(
    nursery, tmp_path, monkeypatch
):
    parts = lung()
    pooled = [row for part in parts for row in part]
    assert (len(parts), len(pooled)) == (18, 227)
    world = World(18, tmp_path)
    await world.start(nursery, [csv_of(part) for part in parts])
    await world.allow(["survival"], epsilon=6.0)

    async def curve(until, bins, rho):
        answer = await world.lab.queries.ask(
            "survival",
            world.datasets,
            round(rho * MICRO),
            between=(0.0, float(until)),
            bins=bins,
            **SURVIVAL,
        )
        return answer, answer["result"]["curves"][0]["points"]

    answer, points = await curve(720, 12, 0.5)
    assert answer["noise_sd"] == pytest.approx(math.sqrt(18 / (2 * 0.5)))
    assert len(points) >= 6
    expected = kaplan_meier(pooled, [one["time"] for one in points])
    for point, exact in zip(points, expected, strict=True):
        assert abs(point["survival"] - exact) <= 4 * point["noise_sd"] + BINNED_AT_MOST
        assert point["at_risk"] >= answer["floor"]
    assert any(
        abs(point["survival"] - exact) > 1e-6
        for point, exact in zip(points, expected, strict=True)
    )
    # The budget: what was paid is written down everywhere, and there is an end to it.
    rows = [(await site.queries.rows())[0] for site in world.sites]
    assert all(row["questions"] == 1 for row in rows)
    assert all(0 < row["epsilon_spent"] <= 6.0 for row in rows)
    before = [site.ran for site in world.sites]
    with pytest.raises(AccessError, match=r"18 of 18 did not answer.*left"):
        await curve(720, 12, 5.0)
    assert [site.ran for site in world.sites] == before

    # Control: without noise, and a bin for each day, it is the pooled curve exactly.
    monkeypatch.setattr(
        "protocol.queries.noise.discrete_gaussian", lambda sigma2, below: 0
    )
    answer, points = await curve(1023, 1023, 0.01)
    expected = kaplan_meier(pooled, [one["time"] for one in points])
    found = [one["survival"] for one in points]
    assert len(points) > 600
    assert found == pytest.approx(expected, abs=1e-12)
    # And it is a test that can fail: with one institution less it is another curve.
    fewer = [row for part in parts[1:] for row in part]
    other = kaplan_meier(fewer, [one["time"] for one in points])
    assert max(abs(a - b) for a, b in zip(found, other, strict=True)) > 0.005
