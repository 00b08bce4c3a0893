"""What a requester gets and keeps of its answers, and how it goes on after a stop."""

import numpy as np
import pytest
from evaluation_world import CSV, RUN, SPEC, eventually, scores_without_a_key

from node.errors import AccessError, TransportError
from node.market.works import Work
from node.services.answered import key_of
from node.services.certificates import Certificate
from node.services.inference_asking import score_file
from protocol.evaluation import (
    INFER_PROTOCOL,
)
from protocol.wire import decode


async def test_a_long_inference_says_how_far_it_is(federation):
    async with federation(verify=False) as nodes:
        work, seen = Work("asked.csv", "encrypting"), []
        keep = nodes.clinic.certificates.keep

        async def kept(*arguments):
            seen.append((work.what, work.done, work.total))
            await keep(*arguments)

        nodes.clinic.certificates.keep = kept
        await nodes.clinic.requester.run(nodes.model, "host", CSV, work)
        case = 3 * SPEC.tokens * SPEC.width
        assert seen == [
            ("inferring", 0, 20 * case),
            ("inferring", 16 * case, 20 * case),
        ]
        assert work.done == work.total


def cut_after(nodes, orders, error):
    """Of what the clinic asks for, `orders` are answered and then no more."""
    real, asked = nodes.clinic.transport.request, []

    async def request(peer, protocol, payload, **options):
        if protocol == INFER_PROTOCOL:
            asked.append(payload)
            if len(asked) > orders:
                raise error
        return await real(peer, protocol, payload, **options)

    nodes.clinic.transport.request = request

    def mend():
        nodes.clinic.transport.request = real
        return asked

    return mend


HALF = b"".join(CSV.splitlines(keepends=True)[:17])
"""One order's worth of records."""


async def test_a_call_that_stops_midway_gives_its_answers_and_is_gone_on_with(
    federation,
):
    async with federation(verify=False) as nodes:
        ask, host = nodes.clinic.requester.run, nodes.host.receipts
        lost = TransportError("stream reset", hint="is it up?")
        # Before the first answer there is nothing to give.
        mend = cut_after(nodes, 0, lost)
        with pytest.raises(TransportError, match="host: stream reset"):
            await ask(nodes.model, "host", CSV)
        mend()
        mend = cut_after(nodes, 1, lost)
        part = await ask(nodes.model, "host", CSV)
        assert len(mend()) == 2
        assert len(part["receipts"]) == len(await host.rows()) == 1
        assert part["scores"][16:] == [None] * 4
        assert None not in part["scores"][:16]
        assert part["stopped"] == "host: stream reset"
        assert part["hint"].startswith("is it up?; the same call again")
        (event,) = await nodes.clinic.events("inference.stopped")
        assert (event["rows"], event["of"]) == (16, 20)
        assert score_file(part).splitlines()[17:] == [b'""'] * 4
        # Again, and as if the daemon had been restarted: only the others are asked.
        whole = await ask(nodes.model, "host", CSV)
        assert (whole["stopped"], whole["hint"]) == (None, None)
        assert whole["receipts"][0] == part["receipts"][0]
        assert whole["scores"][:16] == part["scores"][:16]
        assert len(await host.rows()) == 2
        np.testing.assert_allclose(whole["scores"], scores_without_a_key(), atol=0.05)
        # What is through is asked anew by whoever asks again.
        again = await ask(nodes.model, "host", CSV)
        assert not set(again["receipts"]) & set(whole["receipts"])
        assert again["scores"] == whole["scores"]
        assert len(await host.rows()) == 4
        assert not await nodes.clinic.store.scan("inference-answered")


async def test_what_was_answered_goes_for_the_same_rows_alone(federation):
    async with federation(verify=False) as nodes:

        async def ask(records, orders=9):
            mend = cut_after(nodes, orders, TransportError("stream reset"))
            found = await nodes.clinic.requester.run(nodes.model, "host", records)
            mend()
            return found["receipts"]

        cut = await ask(CSV, 1)
        assert await ask(HALF.replace(b"0.5,", b"0.75,", 1)) != cut
        assert await ask(HALF) == cut
        assert await ask(HALF) != cut
        # A certificate that cannot be read is no answer.
        (first,) = await ask(CSV, 1)
        for key, data in await nodes.clinic.store.scan("certificates"):
            if key.hex() == first:
                nodes.clinic.blobs.delete(decode(data, Certificate).rows)
        assert first not in await ask(CSV)


async def test_what_was_answered_in_time_is_read_after_the_licence_has_ended(
    federation, monkeypatch
):
    async with federation(verify=False) as nodes:
        made = await nodes.clinic.releases.make(
            nodes.clinic.runs, RUN, ["host"], days=30
        )
        model = bytes.fromhex(made["model"])
        await eventually(lambda: model in nodes.host.releases.roots())
        ask = nodes.clinic.requester.run
        mend = cut_after(nodes, 1, TransportError("stream reset"))
        part = await ask(model, "host", CSV)
        mend()
        over = made["until"] + 1
        monkeypatch.setattr("node.services.releases.now_s", lambda: over)
        asked = await nodes.host.receipts.rows()
        again = await ask(model, "host", CSV)
        assert again["receipts"] == part["receipts"]
        assert again["scores"] == part["scores"]
        assert "ended at" in again["stopped"]
        with pytest.raises(AccessError, match="ended at"):
            await ask(model, "host", CSV.replace(b"0.5,", b"0.75,", 1))
        whole = await ask(model, "host", HALF)
        assert (whole["scores"], whole["stopped"]) == (part["scores"][:16], None)
        with pytest.raises(AccessError, match="ended at"):
            await ask(model, "host", HALF)
        assert await nodes.host.receipts.rows() == asked


def test_an_answer_is_that_of_one_model_host_and_shape():
    made = {
        key_of(model, host, shape, b"rows")
        for model in (b"m" * 32, b"n" * 32)
        for host in (b"h" * 32, b"i" * 32)
        for shape in ((1, 2, 2), (2, 1, 2))
    }
    assert len(made) == 8
