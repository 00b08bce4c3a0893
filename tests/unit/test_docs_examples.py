"""The example of docs/ee.md runs as it stands."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "ee.md"


def test_the_ten_lines_of_the_ee_page_run():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 14
    exec(compile(code, str(PAGE), "exec"), {})  # our own page
