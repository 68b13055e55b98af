"""Checks of the form of a response: lists, highlights, sections, titles, JSON, how it begins and ends."""

from __future__ import annotations

import json
import re

_FIXED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def number_placeholders(response: str, num_placeholders: int) -> bool:
    """At least so many placeholders in square brackets, such as ``[address]``."""
    return len(re.findall(r"\[.*?\]", response)) >= num_placeholders


def postscript(response: str, postscript_marker: str) -> bool:
    """A postscript begins with the marker; ``P.S.`` may be written ``p. s.``."""
    letters = [letter for letter in postscript_marker.lower() if letter.isalpha()]
    spaced = r"\.\s?".join(letters) + (r"\." if postscript_marker.endswith(".") else "")
    known = postscript_marker.strip().upper() in ("P.S.", "P.P.S", "P.P.S.")
    return re.search(spaced if known else re.escape(postscript_marker.lower()), response.lower()) is not None


def number_bullet_lists(response: str, num_bullets: int) -> bool:
    """Exactly so many lines begin with ``*`` or ``-``; a line in bold is none."""
    return len(re.findall(r"^\s*(?:\*[^*\n]|-).*$", response, re.MULTILINE)) == num_bullets


def constrained_response(response: str) -> bool:
    """One of the three fixed answers occurs."""
    return any(fixed in response for fixed in _FIXED)


def number_highlighted_sections(response: str, num_highlights: int) -> bool:
    """At least so many passages of a line are marked ``*so*`` or ``**so**``."""
    bold = re.findall(r"\*\*([^\n*]*)\*\*", response)
    single = re.findall(r"\*([^\n*]*)\*", re.sub(r"\*\*[^\n*]*\*\*", " ", response))
    return sum(bool(found.strip()) for found in bold + single) >= num_highlights


def multiple_sections(response: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many sections, each under its mark with a number: ``Section 1``."""
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", response)) >= num_sections


def json_format(response: str) -> bool:
    """The whole response is JSON, or JSON inside a fence of three backticks."""
    bare = re.sub(r"^```(?:json|Json|JSON)?|```$", "", response.strip()).strip()
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


def title(response: str) -> bool:
    """Somewhere a title in double angular brackets, ``<<so>>``."""
    return any(found.strip("<> ") for found in re.findall(r"<<[^\n]+>>", response))


def two_responses(response: str) -> bool:
    """Two responses that differ, with six asterisks between them."""
    parts = [part.strip() for part in response.split("******")]
    kept = parts[not parts[0] : len(parts) - (not parts[-1] and len(parts) > 1)]
    return len(kept) == 2 and all(kept) and kept[0] != kept[1]


def repeat_prompt(response: str, prompt_to_repeat: str) -> bool:
    """The response begins with the request, word for word, in whatever case."""
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(response: str, end_phrase: str) -> bool:
    """The response ends with this phrase, in whatever case; a closing quotation mark may follow."""
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(response: str) -> bool:
    """The whole response stands in double quotation marks."""
    bare = response.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'
