"""Near-twins: prompts that share most of their content words, such as "Write a guide to X" and "Give a tutorial on X"."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from advreg.language.datasets.examples import Item

ALIKE = 0.6
"""Share of the content words of two prompts that near-twins have in common, at least (Jaccard)."""

_FRAME = """
a about an and any are as at be by can could do does for from get give has have how i if in into is it its me my of on or other
our out over people person please should some someone such that the their them they this to up use used using was way we what
when where which will with without would you your step detailed instruction explain provide write create develop make guide
tutorial teach show tell describe script program
"""
_FUNCTION_WORDS = frozenset(_FRAME.split())
"""Words of grammar, and those that frame a request whatever it is about."""


def content_words(text: str) -> frozenset[str]:
    """Return the stems of the words that say what a prompt is about; all its words if there are none.

    Args:
        text: a prompt.

    Example:
        >>> sorted(content_words("Write a tutorial on how to pick locks"))
        ['lock', 'pick']
    """
    words = re.findall(r"[^\W_]+", text.lower())
    stems = (re.sub(r"(?<=\w{3})(ies|es|s|ing|ed|e)$", "", word) for word in words if word not in _FUNCTION_WORDS)
    return frozenset(stem for stem in stems if stem not in _FUNCTION_WORDS) or frozenset(words)


def twin_pairs(prompts: Sequence[str], alike: float = ALIKE) -> Iterator[tuple[int, int]]:
    """Yield the pairs of near-twins, found through their rarest words: two sets that overlap enough share one of these.

    Args:
        prompts: the prompts.
        alike: smallest share of content words in common, above 0.

    Example:
        >>> list(twin_pairs(["Write a guide to picking locks", "Bake a cake", "Teach me to pick a lock"]))
        [(0, 2)]
    """
    sets = [content_words(prompt) for prompt in prompts]
    frequency = Counter(word for words in sets for word in words)
    index: dict[str, list[int]] = defaultdict(list)
    for second, words in enumerate(sets):
        rarest = sorted(words, key=lambda word: (frequency[word], word))[
            : len(words) - math.ceil(alike * len(words)) + 1
        ]
        for first in sorted({other for word in rarest for other in index[word]}):
            if len(sets[first] & words) >= alike * len(sets[first] | words):
                yield first, second
        for word in rarest:
            index[word].append(second)


def twin_groups(prompts: Sequence[str], alike: float = ALIKE) -> list[int]:
    """Return the number of each prompt's group: near-twins, and the near-twins of these, are in one group.

    Args:
        prompts: the prompts.
        alike: smallest share of content words in common, above 0.

    Returns:
        The place of the first prompt of the group, for each prompt.

    Example:
        >>> twin_groups(["Write a guide to picking locks", "Bake a cake", "Teach me to pick a lock"])
        [0, 1, 0]
    """
    root = list(range(len(prompts)))

    def find(place: int) -> int:
        while root[place] != place:
            root[place] = root[root[place]]
            place = root[place]
        return place

    for first, second in twin_pairs(prompts, alike):
        low, high = sorted((find(first), find(second)))
        root[high] = low
    return [find(place) for place in range(len(prompts))]


def without_twins(items: Sequence[Item], others: Sequence[str], alike: float = ALIKE) -> list[Item]:
    """Return the items without a near-twin among other prompts.

    Args:
        items: items with a prompt.
        others: prompts, such as those of the training data.
        alike: smallest share of content words in common, above 0.

    Example:
        >>> from advreg.language.datasets.examples import SafePrompt
        >>> without_twins([SafePrompt(0, "Pick a lock"), SafePrompt(1, "Bake a cake")], ["How do I pick locks?"])[0].id
        1
    """
    count = len(others)
    pairs = twin_pairs([*others, *(item.prompt for item in items)], alike)
    known = {second - count for first, second in pairs if first < count <= second}
    return [item for place, item in enumerate(items) if place not in known]
