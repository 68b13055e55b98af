"""Words and sentences of a text, by rules that need no download."""

from __future__ import annotations

import re

_TITLES = frozenset({"mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st"})
_MONTHS = frozenset({"jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"})
_OTHERS = frozenset({"vs", "etc", "inc", "ltd", "co", "corp", "e.g", "i.e", "no", "approx", "fig", "dept", "u.s"})
_ABBREVIATIONS = _TITLES | _MONTHS | _OTHERS
_END = re.compile(r"[.!?]+[\"')\]*_\u201d\u2019]*(?=\s|$)|[\u3002\uff01\uff1f\u0964\u06d4]+|\n\s*\n")


def words(text: str) -> list[str]:
    """Return the words of a text: runs of letters, digits and underscores.

    Example:
        >>> words("It's 3 o'clock.")
        ['It', 's', '3', 'o', 'clock']
    """
    return re.findall(r"\w+", text)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text.

    Abbreviations, initials and numbers of list items do not end a sentence; an empty line does.

    Example:
        >>> sentences("Dr. No met J. Doe at 3.5 m. Why? Nobody knows!")
        ['Dr. No met J. Doe at 3.5 m.', 'Why?', 'Nobody knows!']
    """
    found: list[str] = []
    begin = 0
    for end in _END.finditer(text):
        if not _is_inside_sentence(text[begin : end.start()], end.group()):
            found.append(text[begin : end.end()].strip())
            begin = end.end()
    return [s for s in [*found, text[begin:].strip()] if re.search(r"\w", s)]


def _is_inside_sentence(before: str, mark: str) -> bool:
    """Return whether a full stop belongs to an abbreviation, an initial, or the number of a list item."""
    if not mark.startswith(".") or len(mark) > 1:
        return False
    last = before.split()[-1] if before.split() else ""
    initial = len(last) == 1 and last.isupper() and last != "I"
    return initial or last.lower().lstrip("(\"'") in _ABBREVIATIONS or (last == before.strip() and last.isdigit())


def compare(found: int, relation: str, wanted: int) -> bool:
    """Return whether a count is ``"at least"`` or ``"less than"`` a number.

    Raises:
        KeyError: the relation is unknown.

    Example:
        >>> compare(3, "at least", 3), compare(3, "less than", 3)
        (True, False)
    """
    return {"at least": found >= wanted, "less than": found < wanted}[relation]
