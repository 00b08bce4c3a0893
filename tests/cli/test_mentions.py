"""Every command that a hint or a page tells a person to type is one that exists."""

import re
from pathlib import Path

import click

from node.cli.main import cli

TREE = Path(__file__).parents[2]
PLACES = sorted(
    path
    for pattern in ("node/**/*.py", "docs/**/*.md", "README.md", "config/**/*")
    for path in TREE.glob(pattern)
    if path.is_file()
)
# `rexis --home PATH noun verb ...` in backticks, or after four blanks as Markdown has code.
MENTION = re.compile(
    r"(?:`|^    (?:\$ )?)rexis((?: --home \S+)?(?: [a-z][a-z-]*)+)", re.MULTILINE
)


def mentions(text):
    for found in MENTION.finditer(text):
        yield re.sub(r"^ --home \S+", "", found[1]).split()


def missing(words):
    """The word that names no command; None where all is well."""
    command = cli
    for word in words:
        if not isinstance(command, click.Group):
            return None  # arguments follow
        found = command.get_command(click.Context(command), word)
        if found is None:
            return word
        command = found
    return None


def test_commands_that_are_mentioned_exist():
    wrong = [
        f"{path.relative_to(TREE)}: rexis {' '.join(words)}"
        for path in PLACES
        for words in mentions(path.read_text(errors="replace"))
        if missing(words)
    ]
    assert not wrong


def test_the_search_finds_mentions_and_what_is_wrong_with_them():
    text = "run `rexis --home {x} grants revoke`\n    rexis run watch abc\n"
    first, second = mentions(text)
    assert (missing(first), missing(second)) == ("grants", None)
