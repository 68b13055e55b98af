"""Which language a text is in, from its letters and its commonest words: no model, no download."""

from __future__ import annotations

import unicodedata
from collections import Counter

from advreg.language.evaluation.ifeval.lexicon import LETTERS, SCRIPTS, WORDS

_COMMON = {language: frozenset(common.split()) for language, common in WORDS.items()}


def detect(text: str) -> str | None:
    """Return the ISO 639-1 code of the language a text is in, or None where no letter tells.

    The script of most of its letters decides; within a script, the share of words that are common in a language, and
    letters that only it has. Latin text that speaks for nothing else is taken for English.

    Args:
        text: some words at least; a sentence is enough for most languages.

    Example:
        >>> detect("Der Hund ist nicht im Haus."), detect("THE DOG IS NOT IN THE HOUSE."), detect("123")
        ('de', 'en', None)
    """
    lowered = unicodedata.normalize("NFC", text).lower()
    languages = SCRIPTS.get(_script(lowered) or "", ())
    if not languages:
        return None
    tokens = [token for token in _tokens(lowered) if not token.isdigit()]
    scores = {language: _score(language, lowered, tokens) for language in languages}
    return max(languages, key=lambda language: scores[language])  # of equals the first: the commonest


def _script(text: str) -> str | None:
    """Return the script that most letters belong to; one sign of Japanese outweighs three Chinese ones."""
    counts: Counter[str] = Counter()
    for letter, times in Counter(c for c in text if c.isalpha()).items():
        name = unicodedata.name(letter, "").split(" ")[0]
        if name in SCRIPTS:
            counts[name] += times * (4 if name in ("HIRAGANA", "KATAKANA") else 1)
    return max(counts, key=lambda name: counts[name]) if counts else None


def _tokens(text: str) -> list[str]:
    """Return words; signs that hang on a letter, as in Indian scripts, belong to it."""
    return "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text).split()


def _score(language: str, text: str, tokens: list[str]) -> float:
    common = sum(token in _COMMON.get(language, frozenset()) for token in tokens)
    own = sum(text.count(letter) for letter in LETTERS.get(language, ""))
    return (common + 0.7 * own) / max(len(tokens), 1)
