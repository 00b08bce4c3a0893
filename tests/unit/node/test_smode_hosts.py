"""Two host processes on local sockets: products join, refusals travel, torch stays away."""

import subprocess
import sys

import numpy as np
import pytest

from ee.smode import Gaussian, KeyHolder, PadLedger, Request, Ring
from ee.smode.holder import LayerSize
from node.errors import ComputeError
from node.smode.host import Session
from node.smode.link import HostLink
from node.smode.local import host_process

pytestmark = pytest.mark.slow

SEED = bytes(range(32))
WEIGHT = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    with host_process(folder / "a") as first, host_process(folder / "b") as second:
        yield first, second


@pytest.mark.parametrize("arithmetic", [Ring(), Gaussian(10)], ids=["ring", "gauss"])
def test_two_processes_and_a_key_holder_make_a_product(hosts, arithmetic):
    sizes = {"a": LayerSize(5, 6, arithmetic.weight_scale(WEIGHT))}
    x = np.random.default_rng(1).normal(size=(7, 5))
    with HostLink(*hosts, arithmetic, {"a": WEIGHT}, SEED) as link:
        holder = KeyHolder(arithmetic, PadLedger(SEED, set()), link, sizes)
        y = holder.product("a", x)
        back = holder.product("a", y, backward=True)
        sent = holder.account.bytes_up + holder.account.bytes_down
        # What frames add to the numbers: names and shapes.
        assert sent < link.bytes_computing < sent + 1000
    np.testing.assert_allclose(y, x @ WEIGHT.T, atol=0.02)
    np.testing.assert_allclose(back, y @ WEIGHT, atol=0.1)


def test_a_repeated_pad_is_refused_over_the_wire(hosts):
    share = np.zeros((1, 5), np.uint64)
    with HostLink(*hosts, Ring(), {"a": WEIGHT}, SEED) as link:
        pair = (Request("a", False, 3, 1, share), Request("a", False, 3, 1, None))
        link(*pair)
        with pytest.raises(ComputeError, match="pad 3 after 3"):
            link(*pair)


def test_a_session_cannot_be_loaded_again():
    # A second load under the old seed would start its pads again.
    session = Session()
    load = {"op": "load", "arithmetic": "ring64"}
    assert session.answer(load, {"a": WEIGHT})[0] == {"ok": True}
    assert "loaded" in session.answer(load, {"a": WEIGHT})[0]["error"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"op": "load", "arithmetic": "odd"}, "'odd'"),
        ({"op": "load"}, "cannot be read"),
        ({"op": "multiply"}, "nothing is loaded"),
    ],
)
def test_what_cannot_be_read_is_answered_with_an_error(header, said):
    assert said in Session().answer(header, {})[0]["error"]


def test_a_host_that_is_not_there_or_goes_away_is_an_error_with_a_hint(tmp_path):
    with pytest.raises(ComputeError, match="no S-mode host answers") as caught:
        HostLink(str(tmp_path / "x"), "y", Ring(), {}, SEED)
    assert "rexis smode serve" in caught.value.hint()
    with host_process(tmp_path / "b") as second:
        with host_process(tmp_path / "a") as first:
            link = HostLink(first, second, Ring(), {"a": WEIGHT}, SEED)
        with link, pytest.raises(ComputeError, match="went away"):
            link(
                Request("a", False, 0, 1, np.zeros((1, 5), np.uint64)),
                Request("a", False, 0, 1, None),
            )


def test_a_host_needs_no_torch():
    check = "import sys, node.smode.host; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
