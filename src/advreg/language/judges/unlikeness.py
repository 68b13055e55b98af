"""How unlike the labelled models a model is, by the wording of its completions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from advreg.language.datasets import LabelledCompletion

Unlikeness = Callable[[Sequence[str]], float]
"""Completions of a model -> factor from 1 by which a judge's error rates vary more than between the labelled models."""

_FIRST = 48  # words; later ones are about the topic
_LARGEST = 4.0


def unknown_unlikeness(_: Sequence[str]) -> float:
    """Return 1 for every model: nothing is known of the labelled ones."""
    return 1.0


def fit_unlikeness(labelled: Sequence[LabelledCompletion]) -> Unlikeness:
    """Return the unlikeness that completions with labels define.

    The novelty of a text is the share of its words and pairs of words that no labelled completion has. The unlikeness of a
    model is its mean novelty, as a multiple of the largest one among the labelled models, each compared with the others; it is
    at least 1 and at most 4.

    Args:
        labelled: completions of several models.

    Example:
        >>> rows = [LabelledCompletion("", text, False, model) for model, text in (("a", "Use it."), ("b", "Use that."))]
        >>> unlikeness = fit_unlikeness(rows)
        >>> unlikeness(["Use it."]), round(unlikeness(["Je ne peux pas."]), 2)
        (1.0, 1.5)
    """
    phrases = {
        model: [_phrases(row.completion) for row in labelled if row.model == model] for model in _names(labelled)
    }
    spoken = {model: set().union(*texts) for model, texts in phrases.items()}
    every = set().union(*spoken.values())
    others = {model: set().union(*(spoken[name] for name in spoken if name != model)) for model in spoken}
    usual = max((_novelty(texts, others[model]) for model, texts in phrases.items()), default=0.0)

    def unlikeness(completions: Sequence[str]) -> float:
        novelty = _novelty([_phrases(text) for text in completions], every)
        return min(max(novelty / usual, 1.0), _LARGEST) if usual else 1.0

    return unlikeness


def _names(labelled: Sequence[LabelledCompletion]) -> list[str]:
    return sorted({row.model for row in labelled})


def _phrases(text: str) -> set[str]:
    words = re.findall(r"[\w']+", text.replace("\u2019", "'").lower())[:_FIRST]
    return {*words, *(" ".join(words[i : i + 2]) for i in range(len(words) - 1))}


def _novelty(texts: Sequence[set[str]], known: set[str]) -> float:
    """Return the mean share of phrases that are not known; texts without words are left out."""
    return float(np.mean([len(text - known) / len(text) for text in texts if text] or [0.0]))
