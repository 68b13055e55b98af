"""Checks of what a response contains: keywords, letters, words, sentences, paragraphs, language and case."""

from __future__ import annotations

import re
from collections.abc import Sequence

from advreg.language.evaluation.ifeval.scripts import detect
from advreg.language.evaluation.ifeval.text_stats import compare, sentences, words


def existence(response: str, keywords: Sequence[str]) -> bool:
    """Every keyword occurs, in whatever case, also inside a word."""
    return all(keyword.lower() in response.lower() for keyword in keywords)


def forbidden(response: str, forbidden_words: Sequence[str]) -> bool:
    """None of these words occurs as a word of its own, in whatever case."""
    return not any(re.search(rf"\b{re.escape(word)}\b", response, re.IGNORECASE) for word in forbidden_words)


def frequency(response: str, keyword: str, frequency: int, relation: str) -> bool:
    """A keyword occurs so often, in whatever case, also inside a word."""
    return compare(response.lower().count(keyword.lower()), relation, frequency)


def letter_frequency(response: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """A letter or sign occurs so often, in either case."""
    return compare(response.lower().count(letter.lower()), let_relation, let_frequency)


def number_words(response: str, num_words: int, relation: str) -> bool:
    """So many words."""
    return compare(len(words(response)), relation, num_words)


def number_sentences(response: str, num_sentences: int, relation: str) -> bool:
    """So many sentences."""
    return compare(len(sentences(response)), relation, num_sentences)


def number_paragraphs(response: str, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs with ``***`` between them; none is empty, save before the first and after the last mark."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", response)]
    kept = parts[not parts[0] : len(parts) - (not parts[-1] and len(parts) > 1)]
    return len(kept) == num_paragraphs and all(kept)


def nth_paragraph_first_word(response: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs with an empty line between them, and the n-th begins with this word."""
    paragraphs = [part.strip() for part in re.split(r"\n\n", response) if part.strip()]
    if len(paragraphs) != num_paragraphs or nth_paragraph > len(paragraphs):
        return False
    begin = paragraphs[nth_paragraph - 1].split()[0].lstrip("'\"")
    return re.split(r"[.,?!'\"]", begin)[0].lower() == first_word.lower()


def response_language(response: str, language: str) -> bool:
    """The whole response is in one language, given by its ISO 639-1 code."""
    return detect(response) == language


def english_capital(response: str) -> bool:
    """English without a small letter."""
    return response.isupper() and detect(response) == "en"


def english_lowercase(response: str) -> bool:
    """English without a capital letter."""
    return response.islower() and detect(response) == "en"


def capital_word_frequency(response: str, capital_frequency: int, capital_relation: str) -> bool:
    """So many words are in capitals throughout; numbers beside the letters count as capitals."""
    tokens = re.findall(r"\w+(?:[-'\u2019]\w+)*", response)
    return compare(sum(token.isupper() for token in tokens), capital_relation, capital_frequency)


def no_comma(response: str) -> bool:
    """No comma anywhere."""
    return "," not in response
