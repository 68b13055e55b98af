"""Checkers of the format of a response: lists, highlights, sections, titles, JSON, beginning and end."""

from __future__ import annotations

import json
import re

_FIXED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def number_placeholders(response: str, num_placeholders: int) -> bool:
    """Return whether there are at least ``num_placeholders`` placeholders in square brackets, such as ``[address]``.

    Example:
        >>> number_placeholders("[name] of [town]", 2)
        True
    """
    return len(re.findall(r"\[.*?\]", response)) >= num_placeholders


def postscript(response: str, postscript_marker: str) -> bool:
    r"""Return whether a postscript begins with the marker; ``p. s.`` is accepted for ``P.S.``.

    Example:
        >>> postscript("Bye.\np. s. more", "P.S.")
        True
    """
    letters = [letter for letter in postscript_marker.lower() if letter.isalpha()]
    spaced = r"\.\s?".join(letters) + (r"\." if postscript_marker.endswith(".") else "")
    known = postscript_marker.strip().upper() in ("P.S.", "P.P.S", "P.P.S.")
    return re.search(spaced if known else re.escape(postscript_marker.lower()), response.lower()) is not None


def number_bullet_lists(response: str, num_bullets: int) -> bool:
    r"""Return whether exactly ``num_bullets`` lines begin with ``*`` or ``-``; a line in bold does not count.

    Example:
        >>> number_bullet_lists("* a\n* b", 2)
        True
    """
    return len(re.findall(r"^\s*(?:\*[^*\n]|-).*$", response, re.MULTILINE)) == num_bullets


def constrained_response(response: str) -> bool:
    """Return whether one of the three fixed answers occurs.

    Example:
        >>> constrained_response("My answer is maybe."), constrained_response("maybe")
        (True, False)
    """
    return any(fixed in response for fixed in _FIXED)


def number_highlighted_sections(response: str, num_highlights: int) -> bool:
    """Return whether at least ``num_highlights`` passages within a line are marked ``*so*`` or ``**so**``.

    Example:
        >>> number_highlighted_sections("*a* and **b**", 2)
        True
    """
    bold = re.findall(r"\*\*([^\n*]*)\*\*", response)
    single = re.findall(r"\*([^\n*]*)\*", re.sub(r"\*\*[^\n*]*\*\*", " ", response))
    return sum(bool(found.strip()) for found in bold + single) >= num_highlights


def multiple_sections(response: str, section_spliter: str, num_sections: int) -> bool:
    """Return whether there are at least ``num_sections`` headings of a divider and a number, such as ``Section 1``.

    Example:
        >>> multiple_sections("Section 1 a Section 2 b", "Section", 2)
        True
    """
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", response)) >= num_sections


def json_format(response: str) -> bool:
    """Return whether the whole response is JSON, or JSON inside a fence of three backticks.

    Example:
        >>> json_format('{"a": 1}'), json_format('{a: 1}')
        (True, False)
    """
    bare = re.sub(r"^```(?:json|Json|JSON)?|```$", "", response.strip()).strip()
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


def title(response: str) -> bool:
    """Return whether there is a title in double angular brackets, ``<<so>>``.

    Example:
        >>> title("<<A day>> text"), title("<A day>")
        (True, False)
    """
    return any(found.strip("<> ") for found in re.findall(r"<<[^\n]+>>", response))


def two_responses(response: str) -> bool:
    """Return whether six asterisks divide the response into two different responses.

    Example:
        >>> two_responses("a ****** b"), two_responses("a ****** a")
        (True, False)
    """
    parts = [part.strip() for part in response.split("******")]
    responses = parts[not parts[0] : len(parts) - (not parts[-1] and len(parts) > 1)]
    return len(responses) == 2 and all(responses) and responses[0] != responses[1]


def repeat_prompt(response: str, prompt_to_repeat: str) -> bool:
    """Return whether the response begins with the prompt, word for word; case is ignored.

    Example:
        >>> repeat_prompt("say hi. Hi", "Say hi.")
        True
    """
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(response: str, end_phrase: str) -> bool:
    """Return whether the response ends with a phrase, optionally followed by a quotation mark; case is ignored.

    Example:
        >>> end_checker("Bye. peace!", "Peace!")
        True
    """
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(response: str) -> bool:
    """Return whether the whole response is inside double quotation marks.

    Example:
        >>> quotation('"All of it."'), quotation('"Half" of it')
        (True, False)
    """
    bare = response.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'
