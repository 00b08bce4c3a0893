"""What a broken judge must fail; `test_mutants` tries them on each."""

from dispute_scenes import MADE, STYLES, small, there
from test_dispute_courses import (
    test_a_leaf_of_another_length_cannot_be_shown,
    test_one_leaf_is_all_that_a_challenger_sees,
    test_silence_loses_and_so_does_a_challenger_with_nothing_to_show,
    test_what_cannot_be_accused,
    test_what_is_asked_for_must_be_shown_in_time_and_as_it_was_hashed,
)
from test_dispute_proofs import (
    test_a_true_salt_convicts_nobody,
    test_evidence_of_another_place_is_none,
)
from test_disputed_models import (
    test_a_base_is_made_with_the_gain_of_its_place_and_norm,
    test_a_model_under_other_rules_is_not_judged_by_these,
    test_a_part_that_there_is_not_convicts_nobody,
    test_an_activation_of_another_place_is_none,
    test_what_a_host_says_of_a_part_that_there_is_not_is_not_heard,
    test_zero_is_no_root_that_everything_stands_under,
)
from test_judged_numbers import (
    test_a_wrong_number_of_any_part_is_shown_by_what_it_is_made_of,
    test_no_number_of_a_true_answer_is_wrong_to_the_contract,
    test_the_tables_of_the_contract_are_those_of_the_op_spec,
    test_what_rounds_to_128_is_127_to_the_contract_too,
    test_what_the_reference_computes_is_right_to_the_contract_and_nothing_beside_it,
)

from protocol.dispute import Part

QUICK = {
    "true answers": lambda _: test_no_number_of_a_true_answer_is_wrong_to_the_contract(
        small()
    ),
    "tables": lambda _: test_the_tables_of_the_contract_are_those_of_the_op_spec(),
    "other places": lambda _: test_evidence_of_another_place_is_none(),
    "limits": lambda _: test_what_rounds_to_128_is_127_to_the_contract_too(),
    "salts": lambda _: test_a_true_salt_convicts_nobody(),
    "asking": lambda _: (
        test_what_is_asked_for_must_be_shown_in_time_and_as_it_was_hashed()
    ),
    "one leaf": lambda _: test_one_leaf_is_all_that_a_challenger_sees(),
    "lengths": lambda _: test_a_leaf_of_another_length_cannot_be_shown(Part.SCORE),
    "silence": lambda _: (
        test_silence_loses_and_so_does_a_challenger_with_nothing_to_show(small())
    ),
    "accusing": lambda _: test_what_cannot_be_accused(),
    "other rules": lambda _: test_a_model_under_other_rules_is_not_judged_by_these(),
    "gains": lambda _: test_a_base_is_made_with_the_gain_of_its_place_and_norm(),
    "other activations": lambda _: test_an_activation_of_another_place_is_none(),
    "no such part": lambda _: (
        test_what_a_host_says_of_a_part_that_there_is_not_is_not_heard()
    ),
    "absent parts": lambda _: test_a_part_that_there_is_not_convicts_nobody(),
    "zero roots": lambda _: test_zero_is_no_root_that_everything_stands_under(),
    **{
        f"seed {seed} {style}": lambda _, seed=seed, style=style: (
            test_what_the_reference_computes_is_right_to_the_contract_and_nothing_beside_it(
                seed, style
            )
        )
        for seed in (0, 1, 2)
        for style in STYLES
    },
    **{
        f"wrong {part.name}": lambda patch, part=part: (
            test_a_wrong_number_of_any_part_is_shown_by_what_it_is_made_of(
                part, next(n for n in STYLES if there(part, STYLES[n])), patch
            )
        )
        for part in MADE
    },
}
"""What a broken judge must fail, the quickest first (`test_mutants`)."""
