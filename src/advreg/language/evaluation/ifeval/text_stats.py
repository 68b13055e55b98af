"""Words, sentences and paragraphs of a text, by rules that need no download."""

from __future__ import annotations

import re

_ABBREVIATIONS = {
    *("mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "vs", "etc", "inc", "ltd", "co", "corp", "e.g", "i.e", "no"),
    *(
        "jan",
        "feb",
        "mar",
        "apr",
        "jun",
        "jul",
        "aug",
        "sep",
        "sept",
        "oct",
        "nov",
        "dec",
        "approx",
        "fig",
        "dept",
        "u.s",
    ),
}
_END = re.compile(r"[.!?]+[\"')\]*_\u201d\u2019]*(?=\s|$)|[\u3002\uff01\uff1f\u0964\u06d4]+|\n\s*\n")


def words(text: str) -> list[str]:
    """Return the words: runs of letters, digits and underscores.

    Example:
        >>> words("It's 3 o'clock.")
        ['It', 's', '3', 'o', 'clock']
    """
    return re.findall(r"\w+", text)


def sentences(text: str) -> list[str]:
    """Return the sentences; an abbreviation, an initial or the number of a list item ends none, an empty line does.

    Example:
        >>> sentences("Dr. No met J. Doe at 3.5 m. Why? Nobody knows!")
        ['Dr. No met J. Doe at 3.5 m.', 'Why?', 'Nobody knows!']
    """
    found, begin = [], 0
    for end in _END.finditer(text):
        if not _goes_on(text[begin : end.start()], end.group()):
            found.append(text[begin : end.end()].strip())
            begin = end.end()
    return [s for s in [*found, text[begin:].strip()] if re.search(r"\w", s)]


def _goes_on(before: str, mark: str) -> bool:
    """Tell whether a full stop belongs to an abbreviation, an initial, or the number in front of a list item."""
    if not mark.startswith(".") or len(mark) > 1:
        return False
    last = before.split()[-1] if before.split() else ""
    initial = len(last) == 1 and last.isupper() and last != "I"
    return initial or last.lower().lstrip("(\"'") in _ABBREVIATIONS or (last == before.strip() and last.isdigit())


def compare(found: int, relation: str, wanted: int) -> bool:
    """Tell whether a count stands in the relation ``"at least"`` or ``"less than"`` to the wanted one.

    Raises:
        KeyError: another relation.

    Example:
        >>> compare(3, "at least", 3), compare(3, "less than", 3)
        (True, False)
    """
    return {"at least": found >= wanted, "less than": found < wanted}[relation]
