"""The sentences of an evaluation of another task than classification."""

from __future__ import annotations

from advreg.report.facts import EvaluationFacts
from advreg.report.formatting import eps, percent


def meaning_of_scores(evaluation: EvaluationFacts) -> tuple[str, str]:
    """Describe an evaluation of another task by its mean scores: 1 is right in everything.

    Args:
        evaluation: the evaluation.

    Returns:
        Two sentences: without an attack, and under attack.
    """
    clean = f"Without an attack, the mean score in the task {evaluation.task} is {percent(evaluation.clean_accuracy)}."
    size = f"{evaluation.threat.norm}:{eps(evaluation.threat)}"
    worst = f"At the worst points found within {size} it is {percent(evaluation.robust_accuracy)}"
    figures = [
        f"{name.replace('_', ' ')} goes from {found['clean']:.3f} to {found['robust']:.3f}"
        for name, found in evaluation.corpus.items()
        if isinstance(found, dict) and {"clean", "robust"} <= set(found)
    ]
    return clean, f"{worst}{'; ' if figures else ''}{', '.join(figures)}."
