"""Documents whose links lead somewhere and whose quotations are what is said."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def documents():
    skipped = {".venv", "node_modules", "demo-run", ".git"}
    return sorted(
        path
        for path in ROOT.rglob("*.md")
        if not skipped & set(path.relative_to(ROOT).parts)
    )


def broken_links(text, folder):
    """Relative links of a Markdown text that lead nowhere, anchors included."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [
        target
        for target in targets
        if not re.match(r"[a-z]+:", target) and not resolves(target, text, folder)
    ]


def resolves(target, text, folder):
    name, _, anchor = target.partition("#")
    path = folder / name
    if name and not path.exists():
        return False
    return not anchor or anchor in anchors(path.read_text() if name else text)


def anchors(text):
    """The anchors GitHub gives to headings."""
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize(
    "path", documents(), ids=lambda path: str(path.relative_to(ROOT))
)
def test_relative_links_lead_somewhere(path):
    assert broken_links(path.read_text(), path.parent) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "there.md").write_text("# One two\n")
    text = (
        "[a](there.md) [b](there.md#one-two) [c](gone.md) [d](there.md#three) `[e](x)`"
    )
    assert broken_links(text, tmp_path) == ["gone.md", "there.md#three"]


def test_every_document_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in index, path.name


def quoted_errors(guide):
    """First column of the table of error lines."""
    table = guide.split("## Error lines", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


def unsaid(lines):
    """Those that no message in the code has the words for, in this order."""
    code = "\n".join(path.read_text() for path in (ROOT / "node").rglob("*.py"))
    # Adjacent literals are one text to Python.
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    gap = r"\s?(\{[^\n]*?\})\s?"

    def pattern(line):
        return gap.join(re.escape(part.strip()) for part in line.split("…") if part)

    return [line for line in lines if not re.search(pattern(line), code)]


def test_every_error_line_of_the_guide_is_one_the_code_can_say():
    lines = quoted_errors((ROOT / "docs" / "operations.md").read_text())
    assert len(lines) > 20
    assert unsaid(lines) == []


def test_an_error_line_nobody_says_is_found():
    assert unsaid(["chain id is …, expected …", "chain id … is wrong"]) == [
        "chain id … is wrong"
    ]
