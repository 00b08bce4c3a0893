"""The example of docs/ee.md runs as it stands."""

import ast
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "ee.md"


def test_the_ten_lines_of_the_ee_page_run():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(ast.parse(code).body) <= 12
    exec(compile(code, str(PAGE), "exec"), {})  # our own page
