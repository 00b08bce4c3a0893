"""What is heard, once and in bounds."""

import hashlib

from protocol.rounds import ears
from protocol.rounds.messages import Heard, Tags

CONTEXT = bytes(32)


def heard(sender: int, values: tuple[int, ...], *, signature: int = 0) -> Heard:
    """The same statement may be signed anew: another envelope, the same words."""
    drawn = hashlib.sha512(bytes([sender, *values]) + signature.to_bytes(4, "big"))
    name = bytes([sender]) * 32
    body = Tags(values)
    return Heard(
        name, CONTEXT, bytes(32), 0, 0, body, drawn.digest(), name + drawn.digest()
    )


def test_a_statement_signed_anew_is_taken_already_and_costs_no_room():
    listening = ears.Ears()
    one = heard(1, (1,))
    assert listening.note(one) is None
    listening.took(one)
    size = listening.size()
    for signature in range(1, 2000):
        again = heard(1, (1,), signature=signature)
        assert listening.has_taken(again)
        assert listening.note(again) is None
        listening.took(again)
    assert listening.size() == size
    assert len(listening._taken) == 1


def test_what_one_member_was_heard_on_is_not_another_members():
    listening = ears.Ears()
    one, other = heard(1, (1,)), heard(2, (1,))
    listening.note(one)
    listening.took(one)
    assert not listening.has_taken(other)
    assert listening.note(other) is None
    listening.took(other)
    assert listening.has_taken(one)
    assert listening.has_taken(other)


def test_a_second_statement_in_a_place_that_was_taken_is_looked_at():
    listening = ears.Ears()
    one, lie = heard(1, (1,)), heard(1, (2,))
    listening.note(one)
    listening.took(one)
    assert not listening.has_taken(lie)
    assert listening.note(lie) == one
    listening.took(lie)
    assert listening.has_taken(one)
    assert not listening.has_taken(lie)


def test_with_a_new_round_places_start_over():
    listening = ears.Ears()
    one = heard(1, (1,))
    listening.note(one)
    listening.took(one)
    listening.forget([one.sender])
    assert not listening.has_taken(one)
