"""The 25 verifiable instructions of IFEval, checked strictly or loosely by programs.

Reference: Zhou et al., "Instruction-Following Evaluation for Large Language Models" (2023), https://arxiv.org/abs/2311.07911
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from advreg.errors import DataError, did_you_mean
from advreg.language.evaluation.ifeval import content_checkers, format_checkers

CHECKERS: dict[str, Callable[..., bool]] = {
    "change_case:capital_word_frequency": content_checkers.capital_word_frequency,
    "change_case:english_capital": content_checkers.english_capital,
    "change_case:english_lowercase": content_checkers.english_lowercase,
    "combination:repeat_prompt": format_checkers.repeat_prompt,
    "combination:two_responses": format_checkers.two_responses,
    "detectable_content:number_placeholders": format_checkers.number_placeholders,
    "detectable_content:postscript": format_checkers.postscript,
    "detectable_format:constrained_response": format_checkers.constrained_response,
    "detectable_format:json_format": format_checkers.json_format,
    "detectable_format:multiple_sections": format_checkers.multiple_sections,
    "detectable_format:number_bullet_lists": format_checkers.number_bullet_lists,
    "detectable_format:number_highlighted_sections": format_checkers.number_highlighted_sections,
    "detectable_format:title": format_checkers.title,
    "keywords:existence": content_checkers.existence,
    "keywords:forbidden_words": content_checkers.forbidden_words,
    "keywords:frequency": content_checkers.frequency,
    "keywords:letter_frequency": content_checkers.letter_frequency,
    "language:response_language": content_checkers.response_language,
    "length_constraints:nth_paragraph_first_word": content_checkers.nth_paragraph_first_word,
    "length_constraints:number_paragraphs": content_checkers.number_paragraphs,
    "length_constraints:number_sentences": content_checkers.number_sentences,
    "length_constraints:number_words": content_checkers.number_words,
    "punctuation:no_comma": content_checkers.no_comma,
    "startend:end_checker": format_checkers.end_checker,
    "startend:quotation": format_checkers.quotation,
}
"""Instruction id -> ``(response, **arguments) -> bool``."""


def check_arguments(instruction: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an instruction without those that are None, after verifying that its checker takes them.

    Args:
        instruction: id of the instruction, a key of `CHECKERS`.
        arguments: arguments of the instruction; None for those that are absent.

    Raises:
        DataError: the instruction is unknown, an argument is missing or superfluous, or a relation is unknown.

    Example:
        >>> check_arguments("punctuation:no_comma", {"keywords": None})
        {}
    """
    if instruction not in CHECKERS:
        raise DataError(f"there is no checker for {instruction!r}.{did_you_mean(instruction, CHECKERS)}")
    given = {name: value for name, value in arguments.items() if value is not None}
    expected = list(inspect.signature(CHECKERS[instruction]).parameters)[1:]
    if sorted(given) != sorted(expected):
        raise DataError(f"{instruction} has the arguments {sorted(given)}; it takes {sorted(expected)}")
    for name, value in given.items():
        if name.endswith("relation") and value not in ("at least", "less than"):
            raise DataError(f"{instruction}: {name} is {value!r}; allowed: 'at least', 'less than'")
    return given


def strict(response: str, instruction: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether a response follows an instruction; an empty response follows none.

    Args:
        response: the text.
        instruction: id of the instruction, a key of `CHECKERS`.
        arguments: arguments of its checker.

    Example:
        >>> strict("Yes. No, maybe.", "punctuation:no_comma", {})
        False
    """
    return bool(response.strip()) and CHECKERS[instruction](response, **arguments)


def loose(response: str, instruction: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether a response follows an instruction, possibly after removing its first or last line or its asterisks.

    The model is not penalised for an introduction such as "Sure, here it is:". A response that passes `strict` passes.

    Args:
        response: the text.
        instruction: id of the instruction, a key of `CHECKERS`.
        arguments: arguments of its checker.

    Example:
        >>> loose("Sure, here it is:\\nno commas", "punctuation:no_comma", {})
        True
    """
    return any(strict(variant, instruction, arguments) for variant in _variants(response))


def _variants(response: str) -> list[str]:
    """Return the eight variants of a response: with and without its first line, last line and asterisks."""
    lines = response.split("\n")
    cut = ["\n".join(lines[first : len(lines) - last]).strip() for first, last in product((0, 1), repeat=2)]
    return [response, *cut, *(text.replace("*", "") for text in (response, *cut[1:]))]
