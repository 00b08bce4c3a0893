"""docs/ee.md shows code that runs."""

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[3] / "docs" / "ee.md"


def test_the_ten_lines_of_the_guide_run():
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "import secrets" in block]
    code = [line for line in example.splitlines() if line and "import" not in line]
    assert len(code) <= 10
    names: dict = {}
    exec(example, names)
    (training,) = [block for block in blocks if "Equivariant" in block]
    exec(training, names)
    names["trunk"](
        inputs_embeds=names["rows"].detach()
    ).last_hidden_state.sum().backward()
    names["optimiser"].step()
