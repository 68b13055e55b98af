"""Word substitution attack on text classifiers: a greedy search over embedding neighbours and typing errors.

The search is cheap and bounds the number of replaced words, so the remaining accuracy is an upper bound. It does not guarantee
that a text keeps its meaning: neighbours in an embedding table are often synonyms and sometimes antonyms. A human reader still
understands a typing error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from advreg.language.classifiers.examples import check_examples
from advreg.language.classifiers.model import TextClassifier, predict

_WORD = re.compile(r"[A-Za-z']+")
_ALPHABET = re.compile(r"[a-z]{2,}")


@dataclass(frozen=True)
class SubstitutionResult:
    """The result of the attack on one text.

    Attributes:
        text: the text of highest loss; the original if no substitution raised the loss.
        broken: whether the classifier misclassifies it.
        replaced: number of replaced words.
        forwards: number of texts that the classifier evaluated.
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
    """Attack each text by word substitution, in the order of the words' importance.

    Args:
        classifier: the classifier, in eval mode.
        texts: texts to attack.
        labels: class of each text.
        words: largest number of replaced words in a text.
        neighbours: number of words from the embedding table to try for each word.
        typos: whether to try typing errors too.

    Returns:
        One result for each text, in order.

    Raises:
        DataError: there are no texts, their number is not that of the labels, or a label is no class of the head.
        ModelError: the head has no classes that exclude each other.

    Reference: the order of words follows Jin et al., "Is BERT really robust? A strong baseline for natural language attack on
    text classification and entailment", AAAI 2020, arXiv:1907.11932, without its semantic constraints.
    """
    check_examples(classifier, texts, labels)
    table = _Neighbours(classifier, neighbours)
    candidates = partial(_candidates, table, typos)
    return [_attack(classifier, text, label, words, candidates) for text, label in zip(texts, labels, strict=True)]


def _attack(
    classifier: TextClassifier, text: str, label: int, words: int, candidates: Callable[[str], list[str]]
) -> SubstitutionResult:
    """Replace words greedily until the text breaks or the limit of words is reached."""
    text = _visible_text(classifier, text)
    worst, wrong = _losses(classifier, [text], label)
    best = float(worst[0])
    forwards, replaced = 1, 0
    if bool(wrong[0]):
        return SubstitutionResult(text, True, 0, forwards)
    positions = _by_importance(classifier, text, label)
    forwards += len(positions)
    for position in positions:
        if replaced == words:
            break
        span = list(_WORD.finditer(text))[position]
        variants = [text[: span.start()] + word + text[span.end() :] for word in candidates(span.group())]
        if not variants:
            continue
        losses, wrong = _losses(classifier, variants, label)
        forwards += len(variants)
        highest = int(losses.argmax())
        if float(losses[highest]) <= best:
            continue
        text, best = variants[highest], float(losses[highest])
        replaced += 1
        if bool(wrong[highest]):
            return SubstitutionResult(text, True, replaced, forwards)
    return SubstitutionResult(text, False, replaced, forwards)


def _visible_text(classifier: TextClassifier, text: str) -> str:
    """Return the part of a text within the classifier's length limit."""
    coded = classifier.tokenizer(
        text, truncation=True, max_length=classifier.tokens, return_offsets_mapping=True, add_special_tokens=True
    )
    return text[: max(end for _, end in coded["offset_mapping"])] or text


def _by_importance(classifier: TextClassifier, text: str, label: int) -> list[int]:
    """Return the indices of the words by importance: the loss of the text without the word, highest first."""
    spans = list(_WORD.finditer(text))
    if not spans:
        return []
    losses, _ = _losses(classifier, [text[: span.start()] + text[span.end() :] for span in spans], label)
    order: list[int] = losses.argsort(descending=True, stable=True).tolist()
    return order


def _losses(classifier: TextClassifier, texts: list[str], label: int) -> tuple[Tensor, Tensor]:
    """Return the loss of each text, and whether it is misclassified."""
    logits = predict(classifier, texts)
    truth = torch.full((len(texts),), label)
    return cross_entropy(logits, truth, reduction="none"), logits.argmax(1) != truth


def _candidates(table: _Neighbours, typos: bool, word: str) -> list[str]:
    """Return the substitutes of a word."""
    substitutes = [*table.of(word), *(typing_errors(word) if typos else [])]
    return [other for other in dict.fromkeys(substitutes) if other != word]


def typing_errors(word: str) -> list[str]:
    """Return common typing errors of a word: two letters swapped, a letter omitted, a letter doubled.

    The first and the last letter, which readers rely on, stay; a word below four letters has no typing errors.

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
    """The nearest whole words in a classifier's embedding table, by cosine similarity."""

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
        """Return the neighbours of a word, capitalized like it; none if the tokenizer splits the word."""
        place = self.places.get(word.lower())
        if place is None or not self.count:
            return []
        nearest = (self.rows @ self.rows[place]).topk(min(self.count + 1, len(self.words))).indices.tolist()
        others = [self.words[other] for other in nearest if other != place][: self.count]
        return [other.capitalize() if word[0].isupper() else other for other in others]
