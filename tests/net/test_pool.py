"""Which holder is asked for which chunk: a value machine, no network."""

from hypothesis import given
from hypothesis import strategies as st

from node.adapters.libp2p.pool import LATE_CHUNKS, LATE_S, SPAN_CHUNKS, Pool


def test_spans_are_contiguous_bounded_and_lowest_first():
    pool = Pool([0, 1, 2, 5, 6, *range(100, 300)], streams=1)
    assert pool.take("a", 0.0) == range(3)
    assert pool.take("a", 0.0) == range(5, 7)
    assert pool.take("a", 0.0) == range(100, 100 + SPAN_CHUNKS)


def test_near_the_end_the_spans_become_short():
    pool = Pool(list(range(12)), streams=4)
    assert [len(pool.take("a", 0.0)) for _ in range(3)] == [3, 2, 1]


def test_a_failed_span_is_free_again_but_not_what_has_landed():
    pool = Pool(list(range(4)), streams=1)
    span = pool.take("a", 0.0)
    assert pool.land(0)
    assert not pool.land(0)
    pool.failed("a", span)
    assert pool.take("b", 0.0) == range(1, 4)
    pool.landed(0)
    for index in (1, 2, 3):
        assert pool.land(index)
        assert not pool.done
        pool.landed(index)
    assert pool.done


def test_a_late_chunk_is_asked_of_one_more_holder_only():
    pool = Pool([0, 1], streams=1)
    span = pool.take("slow", 0.0)
    assert pool.take("fast", LATE_S) is None
    assert pool.take("slow", LATE_S + 1) is None
    assert pool.take("fast", LATE_S + 1) == range(1, 2)
    assert pool.take("third", LATE_S + 1) == range(1)
    assert pool.take("fourth", 9 * LATE_S) is None
    pool.failed("slow", span)  # the others are still bringing both
    assert pool.take("fourth", LATE_S + 1.5) is None
    pool.failed("fast", range(1, 2))
    assert pool.take("fourth", LATE_S + 1.5) == range(1, 2)


def test_late_chunks_are_taken_from_the_far_end_in_short_runs():
    pool = Pool(list(range(20)), streams=1)
    assert pool.take("slow", 0.0) == range(20)
    assert pool.take("fast", LATE_S + 1) == range(20 - LATE_CHUNKS, 20)
    assert pool.take("fast", LATE_S + 1) == range(6, 12)
    assert pool.take("fast", LATE_S + 1) == range(3, 6)


def test_what_was_asked_before_the_pool_existed_can_be_claimed():
    pool = Pool([1, 2, 3, 9], streams=1)
    pool.claim("a", range(8), 0.0)
    assert pool.take("b", 0.0) == range(9, 10)
    pool.failed("a", range(8))
    assert pool.take("b", 0.0) == range(1, 4)


@given(
    st.integers(0, 40),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=60),
)
def test_whatever_holders_do_every_chunk_lands_once(size, steps):
    pool = Pool(list(range(size)), streams=3)
    landed = []
    now = 0.0

    def bring(peer, most):
        span = pool.take(peer, now) or range(0)
        for index in list(span)[:most]:
            if pool.land(index):
                landed.append(index)
                pool.landed(index)
        pool.failed(peer, span)

    for peer, most in steps:
        now += 1.0
        bring(peer, most)
    while not pool.done:
        now += 1.0
        bring("a", SPAN_CHUNKS)
    assert sorted(landed) == list(range(size))
