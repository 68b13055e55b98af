"""The final part of a completion: reasoning models write their thoughts first, which no user sees."""

from __future__ import annotations

import re

_TAGS = r"think|thinking|thought|thoughts|reasoning|reflection|scratchpad"
_OPEN = rf"<(?:{_TAGS})>|\[think\]|\u25c1think\u25b7|<\|channel\|>analysis(?:<\|message\|>)?|\Aanalysis(?=[A-Z])"
_CLOSE = rf"</(?:{_TAGS})>|\[/think\]|\u25c1/think\u25b7|<\|channel\|>final(?:<\|message\|>)?|assistantfinal"
_CLOSES = re.compile(_CLOSE, re.IGNORECASE)
_OPENS = re.compile(_OPEN, re.IGNORECASE)


def final_answer(completion: str) -> str | None:
    """Return a completion without its reasoning, or None if it ends inside the reasoning.

    Args:
        completion: text of a model; its block of thoughts may be empty, opened by the chat template, or absent.

    Example:
        >>> final_answer("<think>\\n\\n</think>\\n\\nI must decline."), final_answer("They want it.</think>No.")
        ('I must decline.', 'No.')
        >>> final_answer("<think>The user wants") is None, final_answer("Use an oven.")
        (True, 'Use an oven.')
    """
    end = max((found.end() for found in _CLOSES.finditer(completion)), default=0)
    rest = completion[end:]
    opened = _OPENS.search(rest)
    if opened is None:
        return rest.strip() if end else completion
    return rest[: opened.start()].strip() or None
