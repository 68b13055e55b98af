"""Checkers of the content of a response: keywords, letters, words, sentences, paragraphs, language and case."""

from __future__ import annotations

import re
from collections.abc import Sequence

from advreg.language.evaluation.ifeval.scripts import detect
from advreg.language.evaluation.ifeval.text_stats import compare, sentences, words


def existence(response: str, keywords: Sequence[str]) -> bool:
    """Return whether every keyword occurs, also inside a word; case is ignored.

    Example:
        >>> existence("A RED house", ["red"]), existence("A house", ["red"])
        (True, False)
    """
    return all(keyword.lower() in response.lower() for keyword in keywords)


def forbidden_words(response: str, forbidden_words: Sequence[str]) -> bool:
    """Return whether none of these words occurs as a whole word; case is ignored.

    Example:
        >>> forbidden_words("a rocket", ["rock"]), forbidden_words("a rock", ["rock"])
        (True, False)
    """
    return not any(re.search(rf"\b{re.escape(word)}\b", response, re.IGNORECASE) for word in forbidden_words)


def frequency(response: str, keyword: str, frequency: int, relation: str) -> bool:
    """Return whether a keyword occurs at least, or less than, ``frequency`` times; case is ignored.

    Args:
        response: the text.
        keyword: counted also inside a word.
        frequency: the number of the instruction.
        relation: ``"at least"`` or ``"less than"``.

    Returns:
        True if the instruction is followed.

    Example:
        >>> frequency("war and War", "war", 2, "at least")
        True
    """
    return compare(response.lower().count(keyword.lower()), relation, frequency)


def letter_frequency(response: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """Return whether a letter or sign occurs at least, or less than, ``let_frequency`` times; case is ignored.

    Args:
        response: the text.
        letter: one character.
        let_frequency: the number of the instruction.
        let_relation: ``"at least"`` or ``"less than"``.

    Returns:
        True if the instruction is followed.

    Example:
        >>> letter_frequency("The end", "e", 2, "less than")
        False
    """
    return compare(response.lower().count(letter.lower()), let_relation, let_frequency)


def number_words(response: str, num_words: int, relation: str) -> bool:
    """Return whether there are at least, or less than, ``num_words`` words.

    Example:
        >>> number_words("a b c", 3, "at least")
        True
    """
    return compare(len(words(response)), relation, num_words)


def number_sentences(response: str, num_sentences: int, relation: str) -> bool:
    """Return whether there are at least, or less than, ``num_sentences`` sentences.

    Example:
        >>> number_sentences("One. Two.", 2, "less than")
        False
    """
    return compare(len(sentences(response)), relation, num_sentences)


def number_paragraphs(response: str, num_paragraphs: int) -> bool:
    """Return whether ``***`` divides the response into exactly ``num_paragraphs`` paragraphs, none of them empty.

    A divider at the very beginning or end is ignored.

    Example:
        >>> number_paragraphs("a *** b", 2)
        True
    """
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", response)]
    paragraphs = parts[not parts[0] : len(parts) - (not parts[-1] and len(parts) > 1)]
    return len(paragraphs) == num_paragraphs and all(paragraphs)


def nth_paragraph_first_word(response: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    r"""Return whether there are ``num_paragraphs`` paragraphs between empty lines and the n-th begins with a word.

    Args:
        response: the text.
        num_paragraphs: exact number of paragraphs.
        nth_paragraph: number of the paragraph, from 1.
        first_word: its first word; case and punctuation are ignored.

    Returns:
        True if the instruction is followed.

    Example:
        >>> nth_paragraph_first_word("Oak.\n\nElm, again", 2, 2, "elm")
        True
    """
    paragraphs = [part.strip() for part in re.split(r"\n\n", response) if part.strip()]
    if len(paragraphs) != num_paragraphs or nth_paragraph > len(paragraphs):
        return False
    begin = paragraphs[nth_paragraph - 1].split()[0].lstrip("'\"")
    return re.split(r"[.,?!'\"]", begin)[0].lower() == first_word.lower()


def response_language(response: str, language: str) -> bool:
    """Return whether the response is in a language, given by its ISO 639-1 code.

    Example:
        >>> response_language("Das ist ein kurzer Satz.", "de")
        True
    """
    return detect(response) == language


def english_capital(response: str) -> bool:
    """Return whether the response is English without a lowercase letter.

    Example:
        >>> english_capital("THIS IS ALL LOUD!"), english_capital("This is not")
        (True, False)
    """
    return response.isupper() and detect(response) == "en"


def english_lowercase(response: str) -> bool:
    """Return whether the response is English without an uppercase letter.

    Example:
        >>> english_lowercase("this is all quiet."), english_lowercase("This is not")
        (True, False)
    """
    return response.islower() and detect(response) == "en"


def capital_word_frequency(response: str, capital_frequency: int, capital_relation: str) -> bool:
    """Return whether at least, or less than, ``capital_frequency`` words are all uppercase; digits are ignored.

    Example:
        >>> capital_word_frequency("NASA and the EU", 2, "at least")
        True
    """
    tokens = re.findall(r"\w+(?:[-'\u2019]\w+)*", response)
    return compare(sum(token.isupper() for token in tokens), capital_relation, capital_frequency)


def no_comma(response: str) -> bool:
    """Return whether the response has no comma.

    Example:
        >>> no_comma("a; b"), no_comma("a, b")
        (True, False)
    """
    return "," not in response
