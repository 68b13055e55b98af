"""Attacking a text classifier by replacing words: a greedy search over neighbours in its embeddings and over typing errors.

What it is: a cheap search inside a bounded number of words, so the accuracy that it leaves is an upper bound. What it is not:
a guarantee that a text keeps its meaning. Neighbours in an embedding table are often synonyms and sometimes opposites; nobody
read the results. Typing errors leave the meaning to a human reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from advreg.language.classifiers.model import TextClassifier, predict

_WORD = re.compile(r"[A-Za-z']+")
_ALPHABET = re.compile(r"[a-z]{2,}")


@dataclass(frozen=True)
class SubstitutionResult:
    """One text under attack.

    Attributes:
        text: the worst one found; the original where nothing did any harm.
        broken: whether the classifier gets it wrong, the original included.
        replaced: how many words were replaced.
        forwards: texts that the classifier was asked about.
    """

    text: str
    broken: bool
    replaced: int
    forwards: int


def substitute(
    classifier: TextClassifier,
    texts: Sequence[str],
    labels: Sequence[int],
    *,
    words: int = 4,
    neighbours: int = 6,
    typos: bool = True,
) -> list[SubstitutionResult]:
    """Attack each text by replacing at most so many words, those first that matter most.

    Args:
        classifier: in eval mode.
        texts, labels: what to attack.
        words: how many words of a text may be replaced.
        neighbours: how many words from the embedding table are tried for each.
        typos: whether typing errors are tried as well.

    Returns:
        One result a text, in order.

    Reference: the order of words as in Jin et al., "Is BERT really robust?", AAAI 2020, without its checks of meaning.
    """
    table = _Neighbours(classifier, neighbours)
    candidates = partial(_candidates, table, typos)
    return [_attack(classifier, text, label, words, candidates) for text, label in zip(texts, labels, strict=True)]


def _attack(
    classifier: TextClassifier, text: str, label: int, words: int, candidates: Callable[[str], list[str]]
) -> SubstitutionResult:
    text = _visible_text(classifier, text)
    worst, wrong = _losses(classifier, [text], label)
    best, forwards, replaced = float(worst[0]), 1, 0
    if bool(wrong[0]):
        return SubstitutionResult(text, True, 0, forwards)
    places = _by_importance(classifier, text, label)
    forwards += len(places)
    for place in places:
        if replaced == words:
            break
        span = list(_WORD.finditer(text))[place]
        tried = [text[: span.start()] + word + text[span.end() :] for word in candidates(span.group())]
        if not tried:
            continue
        losses, wrong = _losses(classifier, tried, label)
        forwards += len(tried)
        chosen = int(losses.argmax())
        if float(losses[chosen]) <= best:
            continue
        text, best, replaced = tried[chosen], float(losses[chosen]), replaced + 1
        if bool(wrong[chosen]):
            return SubstitutionResult(text, True, replaced, forwards)
    return SubstitutionResult(text, False, replaced, forwards)


def _visible_text(classifier: TextClassifier, text: str) -> str:
    """Return the part of a text that the classifier reads: words beyond it cannot matter."""
    coded = classifier.tokenizer(
        text, truncation=True, max_length=classifier.tokens, return_offsets_mapping=True, add_special_tokens=True
    )
    return text[: max(end for _, end in coded["offset_mapping"])] or text


def _by_importance(classifier: TextClassifier, text: str, label: int) -> list[int]:
    """Return the places of words, first the one without which the loss is highest."""
    spans = list(_WORD.finditer(text))
    if not spans:
        return []
    losses, _ = _losses(classifier, [text[: span.start()] + text[span.end() :] for span in spans], label)
    order: list[int] = losses.argsort(descending=True, stable=True).tolist()
    return order


def _losses(classifier: TextClassifier, texts: list[str], label: int) -> tuple[Tensor, Tensor]:
    logits = predict(classifier, texts)
    truth = torch.full((len(texts),), label)
    return cross_entropy(logits, truth, reduction="none"), logits.argmax(1) != truth


def _candidates(table: _Neighbours, typos: bool, word: str) -> list[str]:
    found = [*table.of(word), *(typing_errors(word) if typos else [])]
    return [other for other in dict.fromkeys(found) if other != word]


def typing_errors(word: str) -> list[str]:
    """Return common typing errors inside a word: neighbours swapped, a letter left out, a letter doubled.

    The first and the last letter stay, as readers go by them; words of less than four letters stay whole.

    Example:
        >>> typing_errors("cant")
        ['cnat', 'cnt', 'caant']
    """
    if len(word) < 4:
        return []
    k = len(word) // 2 - 1 if len(word) > 4 else 1
    swapped = word[:k] + word[k + 1] + word[k] + word[k + 2 :]
    return [swapped, word[:k] + word[k + 1 :], word[:k] + word[k] + word[k:]]


class _Neighbours:
    """The nearest whole words in a classifier's embedding table, by cosine."""

    def __init__(self, classifier: TextClassifier, count: int) -> None:
        self.count = count
        vocabulary = classifier.tokenizer.get_vocab()
        self.words = sorted(word for word in vocabulary if _ALPHABET.fullmatch(word))
        ids = torch.tensor([vocabulary[word] for word in self.words], dtype=torch.int64, device=classifier.device)
        with torch.no_grad():
            layer = classifier.network.get_input_embeddings()  # type: ignore[operator]
            self.rows = normalize(layer(ids).float(), dim=-1)
        self.places = {word: place for place, word in enumerate(self.words)}

    def of(self, word: str) -> list[str]:
        """Return the neighbours of a word, as it is written; none for one that the tokenizer splits."""
        place = self.places.get(word.lower())
        if place is None or not self.count:
            return []
        nearest = (self.rows @ self.rows[place]).topk(min(self.count + 1, len(self.words))).indices.tolist()
        others = [self.words[other] for other in nearest if other != place][: self.count]
        return [other.capitalize() if word[0].isupper() else other for other in others]
