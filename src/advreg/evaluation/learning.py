"""Check whether a network learned anything: a constant network is robust against every attack, at the share of one class.

Pure functions of labels and predictions on clean examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from advreg.results.checks import Check, Outcome, skip_check
from advreg.statistics import clopper_pearson_interval

NOT_LEARNING = "not learning"
"""Cause of these checks."""

_DOMINANCE = 0.9  # share of the examples outside the largest class that one predicted class must cover to fail
_OTHERS = 5  # examples of other classes, all missed: chance explains 3% where half are recognised


def one_class(labels: Sequence[int], predicted: Sequence[int]) -> Check:
    """Grade the share of the most frequent prediction on clean examples.

    The threshold lies nine tenths of the way from the share of the largest class to 1, so that a class that dominates the data
    may dominate the predictions. A network that predicts one class for everything fails where at least five examples belong
    to other classes, and is suspect where fewer do.

    Args:
        labels: labels of the clean examples.
        predicted: predicted classes, in the same order.

    Returns:
        The graded check.

    Example:
        >>> one_class([0, 1] * 30, [1] * 60).verdict, one_class([0, 1] * 30, [0, 1] * 30).verdict
        ('fail', 'pass')
    """
    if not labels:
        return skip_check("one-class", "B", "there are no clean predictions to count")
    largest, n = _largest_class_size(labels), len(labels)
    if largest == n:
        return skip_check("one-class", "B", "the data hold one class")
    favourite, count = Counter(predicted).most_common(1)[0]
    ends, threshold = clopper_pearson_interval(count, n), 1 - (1 - _DOMINANCE) * (1 - largest / n)
    sure = ends[0] > threshold or (count == n and n - _count_of(labels, favourite) >= _OTHERS)
    outcome: Outcome = "fail" if sure else "suspect" if count == n else "pass"
    says = f"{count / n:.1%} of {n} clean examples are predicted as class {favourite}; the largest class is {largest / n:.1%}"
    return Check("one-class", "B", outcome, count / n, ends, threshold, threshold, says, NOT_LEARNING)


def chance(labels: Sequence[int], predicted: Sequence[int]) -> Check:
    """Grade clean accuracy: the lower end of its exact interval must lie above the share of the largest class.

    A constant network reaches that share. Where even a network without errors could not be distinguished from chance, the cause
    is that there are few examples.

    Args:
        labels: labels of the clean examples.
        predicted: predicted classes, in the same order.

    Returns:
        The graded check.

    Example:
        >>> chance([0, 1, 2] * 40, [1] * 120).verdict, chance([0, 1, 2] * 40, [0, 1, 2] * 40).verdict
        ('suspect', 'pass')
    """
    if not labels:
        return skip_check("chance", "B", "there are no clean predictions to count")
    share, n = _largest_class_size(labels) / len(labels), len(labels)
    if share == 1:
        return skip_check("chance", "B", "the data hold one class, so every accuracy is at chance")
    right = sum(label == guess for label, guess in zip(labels, predicted, strict=True))
    (low, high), classes = clopper_pearson_interval(right, n), len(set(labels))
    hopeless = high >= share >= clopper_pearson_interval(n, n)[0]
    cause = "few examples" if hopeless else NOT_LEARNING
    above = "above" if low > share else "not above"
    says = (
        f"clean accuracy {right / n:.1%} [{low:.1%}, {high:.1%}] is {above} chance: "
        f"the largest of {classes} classes is {share:.1%} of {n} examples"
    )
    outcome: Outcome = "pass" if low > share else "suspect"
    return Check("chance", "B", outcome, right / n, (low, high), share, None, says, cause)


def _largest_class_size(labels: Sequence[int]) -> int:
    """Return the number of examples in the largest class."""
    return Counter(labels).most_common(1)[0][1]


def _count_of(labels: Sequence[int], label: int) -> int:
    """Return the number of examples in a class."""
    return sum(each == label for each in labels)
