"""Refusal judges: functions from completions to verdicts, with their calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from advreg.language.datasets import LabelledCompletion
from advreg.language.judges.calibration import Calibration, compare_judge
from advreg.language.judges.stock_refusals import is_stock_refusal
from advreg.language.judges.unlikeness import Unlikeness, fit_unlikeness, unknown_unlikeness

Refuses = Callable[[Sequence[str]], list[bool]]


@dataclass(frozen=True)
class Judge:
    """A classifier of refusals, full or partial.

    Attributes:
        name: name of the judge, for results.
        refuses: completions -> whether each is a refusal; called on coherent completions only.
        calibration: error rates on human labels; rates are not corrected if None.
        unlikeness: completions of a model -> how unlike the labelled models it is, from 1; it widens the intervals.
    """

    name: str
    refuses: Refuses
    calibration: Calibration | None = None
    unlikeness: Unlikeness = unknown_unlikeness


def keyword_judge(labelled: Sequence[LabelledCompletion] = ()) -> Judge:
    """Return a judge that knows the stock refusals of assistants, in the languages of `stock_refusals.PATTERNS`.

    Args:
        labelled: completions with human labels, for its calibration; none if empty.

    Returns:
        A `Judge`, with a calibration if there are labels.

    Raises:
        DataError: the labels have one class only, or the judge is close to chance on them.

    Example:
        >>> keyword_judge().refuses(["I cannot help with that.", "Sure!"])
        [True, False]
    """
    if not labelled:
        return Judge("keyword", _match_stock_refusals)
    flagged = _match_stock_refusals([row.completion for row in labelled])
    calibration = compare_judge(flagged, [bool(row.refused) for row in labelled], [row.model for row in labelled])
    return Judge("keyword", _match_stock_refusals, calibration, fit_unlikeness(labelled))


def _match_stock_refusals(completions: Sequence[str]) -> list[bool]:
    """Return whether each completion begins with a stock refusal."""
    return [is_stock_refusal(completion) for completion in completions]
