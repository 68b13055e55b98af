"""Identify the language of a text from its script, its letters and its common words; no model is needed."""

from __future__ import annotations

import unicodedata
from collections import Counter

from advreg.language.evaluation.ifeval.lexicon import LETTERS, SCRIPTS, WORDS

_COMMON = {language: frozenset(common.split()) for language, common in WORDS.items()}


def detect(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language, or None for a text without letters of a known script.

    The script of most letters selects the candidates. Among them the score counts common words and characteristic
    letters. Latin text without evidence for another language is English.

    Args:
        text: at least a few words; a sentence is enough for most languages.

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
    return max(languages, key=lambda language: scores[language])  # ties go to the most common language


def _script(text: str) -> str | None:
    """Return the script of most letters; a kana counts four times, because Japanese text also uses Chinese signs."""
    counts: Counter[str] = Counter()
    for letter, times in Counter(c for c in text if c.isalpha()).items():
        name = unicodedata.name(letter, "").split(" ")[0]
        if name in SCRIPTS:
            counts[name] += times * (4 if name in ("HIRAGANA", "KATAKANA") else 1)
    return max(counts, key=lambda name: counts[name]) if counts else None


def _tokens(text: str) -> list[str]:
    """Return the words; combining marks, as in Indian scripts, belong to their letter."""
    return "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text).split()


def _score(language: str, text: str, tokens: list[str]) -> float:
    """Return the share of common words plus the weighted share of characteristic letters."""
    common = sum(token in _COMMON.get(language, frozenset()) for token in tokens)
    own = sum(text.count(letter) for letter in LETTERS.get(language, ""))
    return (common + 0.7 * own) / max(len(tokens), 1)
