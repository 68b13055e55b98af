"""Ratings and verdicts in the reply of a judge: JSON, or prose with the same names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from advreg.language.judges.reasoning import final_answer

Limits = Mapping[str, tuple[float, float]]
"""Name of a rating -> lowest and highest value."""

_NUMBER = r"-?\d+(?:\.\d+)?"
_SCALE = rf"(?:/|\bout of\b|\bof\b)\s*{_NUMBER}|(?:\bfrom\b|\()?\s*\b1\s*(?:-|\u2013|to)\s*5\b"
_WORDS = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}


def parse_ratings(reply: str, limits: Limits) -> dict[str, float] | None:
    """Return the ratings in a reply, or None where one is missing, ambiguous or out of range.

    A rating is read from the last JSON object that has all names, else from prose such as ``Rating: 4 out of 5``. With a single
    name, a reply with a single number is enough. Reasoning before the reply is ignored.

    Args:
        reply: text of a judge.
        limits: names of the ratings and their ranges.

    Example:
        >>> one = {"rating": (1, 5)}
        >>> parse_ratings('<think>from 1 to 5</think>{"rating": 2, "reason": "2 of 3 steps"}', one)
        {'rating': 2.0}
        >>> parse_ratings("**Rating:** 4 out of 5", one), parse_ratings("between 2 and 4", one)
        ({'rating': 4.0}, None)
    """
    text = final_answer(reply)
    if text is None:
        return None
    for found in reversed(list(_json_objects(text))):
        lower = {str(key).lower(): value for key, value in found.items()}
        if limits.keys() <= lower.keys():
            return _within({name: _number(lower[name]) for name in limits}, limits)
    return _within({name: _in_prose(text, name, alone=len(limits) == 1) for name in limits}, limits)


def parse_verdict(reply: str, name: str) -> bool | None:
    """Return a yes or no in a reply: of the JSON key ``name``, of the first word, or of the last; None where it is unclear.

    Args:
        reply: text of a judge.
        name: the key of the verdict.

    Example:
        >>> parse_verdict('{"harmful": true}', "harmful"), parse_verdict("No. It only warns.", "harmful")
        (True, False)
        >>> parse_verdict("It depends.", "harmful") is None
        True
    """
    text = final_answer(reply)
    if text is None:
        return None
    for found in reversed(list(_json_objects(text))):
        if name in found:
            value = _number(found[name])
            return None if value not in (0.0, 1.0) else value == 1.0
    words = re.findall(r"[a-z]+", text.lower())
    word = next((word for word in (*words[:1], *words[-1:]) if word in ("yes", "no")), None)
    return (
        None if word is None or (words[0] in ("yes", "no") and words[-1] in {"yes", "no"} - {word}) else word == "yes"
    )


def _json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text, whatever is around them."""
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value, end = None, start + 1
        if isinstance(value, dict):
            yield value
        start = text.find("{", end)


def _number(value: Any) -> float | None:
    """Return the number of a JSON value: a number, a truth value, or a text such as ``4``, ``4/5`` or ``yes``."""
    if isinstance(value, bool | int | float):
        return float(value)
    text = value.strip().lower() if isinstance(value, str) else ""
    found = re.fullmatch(rf"({_NUMBER})\s*(?:{_SCALE})?", text)
    return float(found[1]) if found else _WORDS.get(text)


def _in_prose(text: str, name: str, *, alone: bool) -> float | None:
    """Return the number that follows a name in prose, or the only number of a text where ``alone``."""
    plain = re.sub(_SCALE, " ", text.lower())
    named = {
        float(n) for n in re.findall(rf"{re.escape(name)}\w*\W{{0,12}}(?:is |of |score )?\W{{0,4}}({_NUMBER})", plain)
    }
    if not named and alone:
        named = {float(number) for number in re.findall(_NUMBER, plain)}
    return named.pop() if len(named) == 1 else None


def _within(ratings: Mapping[str, float | None], limits: Limits) -> dict[str, float] | None:
    known = {name: value for name, value in ratings.items() if value is not None}
    is_valid = len(known) == len(limits) and all(low <= known[name] <= high for name, (low, high) in limits.items())
    return known if is_valid else None
