"""Values as a person reads them, safe to print; nothing here needs a terminal."""

import math
import time
from datetime import UTC, datetime

_SHORT_DIGITS = 16


def plain(text: str, *, keep: str = "") -> str:
    """`text` without what a terminal would obey: escapes, controls, direction marks."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else _escaped(char) for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def short(digest: str | None) -> str:
    """The first 16 digits; every command that takes an id takes these."""
    return "-" if not digest else digest[:_SHORT_DIGITS]


def count(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shown(value: object) -> str:
    """A value as a cell of a table."""
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def decimal(value: float | None) -> str:
    """Four places, so that a column of them can be compared."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def moment(unix_s: float) -> str:
    """UTC, to the second."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S}"


def size(number: int) -> str:
    """Bytes, in the unit a person would choose."""
    if number < 1000:
        return f"{number} B"
    scaled, units = float(number), iter(("kB", "MB", "GB", "TB"))
    unit = ""
    while scaled >= 1000 and unit != "TB":
        scaled, unit = scaled / 1000, next(units)
    return f"{scaled:.1f} {unit}"


def until(unix_s: float) -> str:
    """How long to go, or since when it is over."""
    left = unix_s - time.time()
    return f"in {span(left)}" if left > 0 else f"{span(-left)} ago"


def span(seconds: float) -> str:
    """The two largest units."""
    whole = int(seconds)
    parts = (
        (whole // 86400, "d"),
        (whole // 3600 % 24, "h"),
        (whole // 60 % 60, "min"),
        (whole % 60, "s"),
    )
    first = next((place for place, (number, _) in enumerate(parts) if number), 3)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2])
