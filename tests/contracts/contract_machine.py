"""Random federations on the committed bytecode, held against the rules in Python.

Actors and targets are mostly ones that may do what they try; a machine of strangers would prove
that strangers are refused.  There is one rule, and it takes its act from a seed: Hypothesis likes
small values and leaves whole rules out of a run, which makes federations where little happens.
It still shrinks a failure to the few acts that it takes.
"""

from collections import Counter
from random import Random

from contract_chance import ACTS
from contract_deals import Deals
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from node.adapters.deployment import DAY_S
from node.adapters.memory_ledger import Scope


class Contracts(Deals, RuleBasedStateMachine):
    """One federation with a coin, priced datasets, auditors and a stranger."""

    @initialize()
    def begin(self) -> None:
        self.seeds: Counter[int] = Counter()
        self.deploy()
        for dataset, to in ((0, "r"), (1, "q"), (1, "r")):
            self.give(dataset, "a", True, to, Scope(3, 1, 3), DAY_S)

    @rule(seed=st.integers(0, 2**64 - 1))
    def somebody_tries_something(self, seed: int) -> None:
        # Hypothesis also likes to repeat itself.
        self.seeds[seed] += 1
        chance = Random(f"{seed} {self.seeds[seed]}")
        name, arguments = chance.choice(ACTS)
        drawn = {key: pick(chance) for key, pick in arguments.items()}
        note(f"{name}({', '.join(f'{key}={value}' for key, value in drawn.items())})")
        getattr(self, name)(**drawn)
