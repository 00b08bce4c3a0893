"""Fine-tuning on two hosts goes on when one dies; pads never begin again."""

import pytest
import torch
from transformers import BertConfig, BertModel

from ee.smode import Ring
from ee.smode.cost import BlockShape, backward_values, forward_values
from ee.smode.model import share_model
from node.errors import ComputeError
from node.smode.local import host_process
from node.smode.session import SharedSession

pytestmark = pytest.mark.slow

STEPS = 5
IDS = torch.randint(0, 50, (4, 7), generator=torch.Generator().manual_seed(1))
TARGET = torch.randn(4, 7, 32, generator=torch.Generator().manual_seed(2))


def _shared():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=16,
    )  # fmt: skip
    return share_model(BertModel(config).eval(), Ring())


def _train(session, shared, at_product=None):
    """Losses of `STEPS` LoRA steps; `at_product(n)` is called before product n."""
    halves = shared.adapt(rank=3, scale=0.5, seed=1)
    adam = torch.optim.AdamW(halves, lr=0.02)
    seen = 0

    def counted(_module, _inputs):
        nonlocal seen
        seen += 1
        if at_product is not None:
            at_product(seen)

    layer = shared.model.get_submodule("encoder.layer.1.output.dense")
    layer.register_forward_pre_hook(counted)

    def one():
        out = shared.model(input_ids=IDS).last_hidden_state
        loss = ((out - TARGET) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        return float(loss.detach())

    losses = []
    for _ in range(STEPS):
        losses.append(session.run(one))
        adam.step()
    return losses


def test_a_host_that_dies_costs_its_step_and_no_more(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    with host_process(second) as b:
        with host_process(first) as a:
            shared = _shared()
            with SharedSession(shared, Ring(), (a, b)) as session:
                wanted = _train(session, shared)
                whole = session.bytes_computing
                assert session.links == 1
            shape = BlockShape(32, 128, 32, gated=False)
            values = forward_values(shape, 2) + backward_values(shape, 2)
            assert 1 <= whole / (8 * values * IDS.numel() * STEPS) < 1.1

        shared = _shared()
        dying = host_process(first)
        dying.__enter__()
        alive = []

        def at_product(number):
            # In the middle of the third step; what runs such hosts starts it again.
            if number == 3:
                dying.__exit__(None, None, None)
                first.unlink()
                again = host_process(first)
                again.__enter__()
                alive.append(again)

        try:
            with SharedSession(shared, Ring(), (str(first), b)) as session:
                found = _train(session, shared, at_product)
                assert session.links == 2  # under a seed of its own
                assert session.account.leak_bits == 0.0
                assert whole < session.bytes_computing < 2 * whole
        finally:
            for host in alive:
                host.__exit__(None, None, None)
    assert found == pytest.approx(wanted, rel=1e-4)
    assert wanted[-1] < 0.99 * wanted[0]


def test_a_host_that_stays_away_ends_the_session(tmp_path):
    with host_process(tmp_path / "b") as b:
        with host_process(tmp_path / "a") as a:
            shared = _shared()
            session = SharedSession(shared, Ring(), (a, b), pauses_s=(0.01,))
        with (
            session,
            pytest.raises(ComputeError, match=r"no S-mode host answers|went away"),
        ):
            _train(session, shared)
