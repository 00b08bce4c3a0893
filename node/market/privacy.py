"""What may not stand in public metadata (docs/data.md §5).

Titles, sources and column names are public for ever once a listing is anchored.  Two
accidents put a person there: an identifier typed into the text, and a table without a
header row, whose first record would be published as the names of its columns.  Both
are refused.  Columns that name a direct identifier are legal, their values stay
encrypted, but the owner is told.
"""

import re

from node.market import DatasetError

_EMAIL = re.compile(r"[\w.+\-]+@[\w\-]+\.[A-Za-z]{2,}")
_SSN = re.compile(r"(?<![\w\-])\d{3}-\d{2}-\d{4}(?![\w\-])")
_PHONE = re.compile(
    r"(?<![\w./\-])(?:\+\d{1,3}[ \-]?)?\(?\d{3,4}\)?[ .\-]\d{3}[ .\-]\d{3,4}\b"
    # With the country's number before it, or the trunk's nought.
    r"|(?<![\w+])\+\d{1,3}(?: ?\(0\))?(?:[ .\-/()]{0,2}\d{2,8}){2,5}(?!\d)"
    r"|(?<![\w./\-])0\d{1,4}[ /\-]\d{5,8}(?!\d)"
)
_RECORD = re.compile(
    r"\b(?:mrn|nhs|ssn|pid|pat(?:ient)?[ _\-]?(?:id|no|nr|number))[ .:#=_\-]*\d{4,}(?!\d)",
    re.IGNORECASE,
)
"""Too short to be told from other numbers, but for the word before it."""
_LONG_NUMBER = re.compile(r"(?<!\d)\d{9,}(?!\d)")
"""Nine digits: a US social security number; hospital numbers have 7 to 10, but shorter
runs are trial registrations and PubMed identifiers as well."""
_MONTH = (
    r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])(?:[a-zä]*\.?)"
)
_DATE = re.compile(
    r"(?<!\d)(?:\d{4}[./\-]\d{1,2}[./\-]\d{1,2}"
    r"|\d{1,2}[./\-]\d{1,2}[./\-](?:19|20)?\d{2})(?!\d)"
    r"|(?<![^\W_])(?<!\.)(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?![^\W_])"
    rf"|(?<!\d)\d{{1,2}}(?:st|nd|rd|th|\.)?[ \-]?{_MONTH}[ ,\-]{{0,2}}(?:19|20)\d{{2}}(?!\d)"
    rf"|\b{_MONTH}[ \-]?\d{{1,2}}(?:st|nd|rd|th)?[ ,\-]{{1,2}}(?:19|20)\d{{2}}(?!\d)",
    re.IGNORECASE,
)
_IDENTIFIERS = (
    ("an e-mail address", _EMAIL),
    ("a social security number", _SSN),
    ("a telephone number", _PHONE),
    ("a number of nine or more digits", _LONG_NUMBER),
    ("the number of a patient's record", _RECORD),
)
_NUMBER = re.compile(r"[+\-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+\-]?\d+)?")
_WORD = re.compile(r"[a-z]+")
_DIRECT = frozenset(
    {
        *("address", "birthdate", "dob", "email", "fax", "firstname", "forename"),
        *("lastname", "mail", "mobile", "mrn", "name", "nhs", "passport", "phone"),
        *("postcode", "ssn", "street", "surname", "telephone", "zip", "zipcode"),
    }
)


def check_text(what: str, text: str, *, dates: bool = False) -> None:
    """Refuse `text` if it holds what looks like an identifier of a person.

    `dates` are allowed where a citation stands; a full date in a title or in a column's
    name is an element the HIPAA safe harbour list names.
    """
    for name, pattern in _IDENTIFIERS:
        if pattern.search(text):
            # The finding is not repeated: the message may be logged.
            raise DatasetError(
                f"{what} holds {name}, which would be public",
                hint="take it out; a listing cannot be unpublished",
            )
    if not dates and _DATE.search(text):
        raise DatasetError(
            f"{what} holds a full date, which would be public",
            hint="give the year only",
        )


def check_column_names(names: list[str]) -> None:
    """Refuse names that are identifiers, or the first record of a table."""
    for place, name in enumerate(names, 1):
        what = f"the name of column {place}"
        if _NUMBER.fullmatch(name.strip()):
            raise DatasetError(
                f"{what} is a number: the table seems to have no header row",
                hint="the first row must name the columns; it is published",
            )
        if name[:1] in "=+-@\t\r":
            raise DatasetError(
                f"{what} begins like a spreadsheet formula",
                hint="rename the column",
            )
        check_text(what, name)


def direct_identifiers(names: list[str]) -> list[str]:
    """Columns whose names say that they hold direct identifiers; a warning, not more."""
    return [
        name
        for name in names
        if not _DIRECT.isdisjoint(_WORD.findall(_split_camel(name).lower()))
        or name.lower().replace("_", "").replace(".", "") in _DIRECT
    ]


def _split_camel(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
