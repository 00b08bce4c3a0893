"""The committed bytecode keeps its rules in random federations."""

import pytest
from contract_machine import Contracts
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test


def run(
    machine: type[Contracts], examples: int, steps: int, *, shrink: bool = True
) -> None:
    phases = [Phase.explicit, Phase.reuse, Phase.generate]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            phases=[*phases, Phase.shrink] if shrink else phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
def test_the_contracts_keep_their_rules_in_a_few_federations():
    run(Contracts, examples=8, steps=30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_contracts_keep_their_rules_and_every_function_is_used():
    Contracts.done.clear()
    Contracts.refused.clear()
    run(Contracts, examples=150, steps=60)
    # A machine that only tries what is refused, or never, would prove little.
    assert len(Contracts.done) == 30
    assert min(Contracts.done.values()) >= 5
    assert len(Contracts.refused) >= 90
