"""Power analysis: the differences that a number of examples can detect, computed before the comparison."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.hardening.gate.decision import Rules
from advreg.statistics import minimum_detectable_difference, noninferiority

_DISAGREEMENT = (0.05, 0.1, 0.2)


def plan(n: int, rules: Rules, guarded: Sequence[tuple[str, int, float]] = ()) -> tuple[str, ...]:
    """Return one line for each difference that ``n`` examples can detect.

    Args:
        n: number of attacked examples.
        rules: margins and level.
        guarded: name, number of examples and margin of each guarded metric; empty means clean accuracy on the same examples.

    Example:
        >>> for line in plan(1000, Rules()): print(line)
        1000 examples, level 0.05, power 80%: a gain shows from 1.8 pp on if the models disagree on 5%, 2.5 on 10%, 3.5 on 20%
        clean accuracy, margin 1.0 pp: not worse can be shown if the net loss is at most 4 of 1000
    """
    seen = [f"{100 * minimum_detectable_difference(n, d, alpha=rules.alpha, sides=1):.1f}" for d in _DISAGREEMENT]
    rest = ", ".join(f"{pp} on {d:.0%}" for pp, d in zip(seen[1:], _DISAGREEMENT[1:], strict=True))
    gain = f"a gain shows from {seen[0]} pp on if the models disagree on {_DISAGREEMENT[0]:.0%}, {rest}"
    first = f"{n} examples, level {rules.alpha:g}, power 80%: {gain}"
    rows = guarded or [("clean accuracy", n, rules.clean_margin)]
    return (first, *(f"{name}, margin {100 * m:.1f} pp: {shows(count, m, rules.alpha)}" for name, count, m in rows))


def shows(n: int, margin: float, alpha: float) -> str:
    """Return in words the largest net loss that is still shown not worse.

    Args:
        n: number of examples.
        margin: accepted loss, a share.
        alpha: level of the test.
    """
    loss = bearable_loss(n, margin, alpha)
    if loss < 0:
        return f"{n} examples are too few even without a loss; {enough(margin, alpha)} would do"
    return f"not worse can be shown if the net loss is at most {loss} of {n}"


def bearable_loss(n: int, margin: float, alpha: float) -> int:
    """Return the largest net loss that is still shown not worse; -1 if even no loss is not shown.

    Args:
        n: number of examples.
        margin: accepted loss, a share.
        alpha: level of the test.
    """
    low, high = -1, max(int(margin * n), 0) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if noninferiority(middle, 0, n, margin) <= alpha else (low, middle)
    return low


def enough(margin: float, alpha: float) -> int:
    """Return a number of examples that is enough to show a challenger without losses not worse.

    Args:
        margin: accepted loss, a share.
        alpha: level of the test.
    """
    n = 16
    while noninferiority(0, 0, n, margin) > alpha:
        n += max(n // 8, 1)
    return n
