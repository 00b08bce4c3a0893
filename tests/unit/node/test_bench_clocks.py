"""What a round's work is, of the clocks of the compute child: warm calls only."""

import json

import pytest

from node.bench.aggregate import MEMBERS, _clocks, _figures


def line(method, processor, *, warm, masks=0.0, grown=0.0):
    return json.dumps(
        {
            "method": method,
            "processor": processor,
            "masks": masks,
            "grown_mb": grown,
            "warm": warm,
        }
    )


@pytest.fixture
def clocks(tmp_path):
    def written(*lines):
        path = tmp_path / "clocks"
        path.write_text("".join(f"{one}\n" for one in lines))
        return path

    return written


def test_the_first_calls_libraries_are_no_rounds_work(clocks):
    path = clocks(
        line("model.create", 9.0, warm=False),
        line("round.mask", 2.5, warm=False, masks=1.0, grown=300.0),
        *[line("round.mask", 0.5, warm=True, masks=0.2, grown=8.0)] * 3,
    )
    found = _clocks(path, 4)
    assert found["methods"] == {"round.mask": 0.5}
    assert found["masks"] == pytest.approx(0.2)
    assert found["grown_mb"] == 8.0


def test_what_is_called_several_times_a_round_counts_as_often(clocks):
    first = line("round.sum", 3.0, warm=False)
    later = [line("round.sum", each, warm=True) for each in (0.1, 0.2, 0.3, 0.2, 0.2)]
    assert _clocks(clocks(first, *later), 2)["methods"] == {"round.sum": 0.6}


def test_a_method_that_was_called_once_has_no_figure(clocks):
    path = clocks(line("round.mask", 2.5, warm=False, masks=1.0))
    assert _clocks(path, 1) == {"masks": 0.0, "grown_mb": 0.0, "methods": {}}


def answer(seconds, survivors=MEMBERS, *, accepted=True):
    return {
        "seconds": seconds,
        "survivors": survivors,
        "accepted": accepted,
        "state": "aa",
        "sent": 60,
        "processor": 0.1,
        "grown_mb": 1.0,
    }


@pytest.fixture
def home(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "clocks").write_text(
        "".join(f"{line('round.mask', 0.5, warm=True, masks=0.2)}\n" for _ in range(4))
    )
    return tmp_path


def turn(seconds, theirs, survivors=MEMBERS):
    return [answer(seconds, survivors) for _ in range(MEMBERS)], theirs


def test_a_round_that_an_update_missed_is_no_measurement(home):
    """It is over sooner, and would make the median better."""
    turns = [turn(2.0, 1.0), turn(0.1, 1.0, survivors=3), turn(2.0, 1.0)]
    found = _figures(turns, 20, home)
    assert (found["round_seconds"], found["vs_hivemind"]) == (2.0, 2.0)
    assert (found["rounds"], found["turns"]) == (2, 2)
    assert found["child_processor_seconds"] == {"round.mask": 0.5}  # of all four rounds
    with pytest.raises(RuntimeError, match="no measured round had all 4 updates"):
        _figures([turn(0.1, 1.0, survivors=3)], 20, home)


def test_a_yardstick_of_fewer_is_left_out_of_the_ratio(home):
    found = _figures([turn(2.0, None), turn(3.0, 1.0), turn(2.0, None)], 20, home)
    assert (found["round_seconds"], found["vs_hivemind"]) == (2.0, 3.0)
    assert (found["rounds"], found["turns"]) == (3, 1)
