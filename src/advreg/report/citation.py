"""The sentence that quotes an evaluation with everything that a figure needs."""

from __future__ import annotations

from advreg.report import formatting
from advreg.report.facts import EvaluationFacts

_DIGITS = 12  # of a SHA-256: enough to distinguish weights, few enough to print


def citation(evaluation: EvaluationFacts) -> str:
    """Return a citation of an evaluation: accuracy, interval, threat model, examples, protocol, verdict, weights and version.

    Args:
        evaluation: the evaluation.

    Returns:
        One sentence.

    Example:
        >>> from advreg.report.facts import ThreatFacts
        >>> found = EvaluationFacts("linf-0.1-quick@1", ThreatFacts("linf", 0.1), 500, 0, 0.9, 0.4, interval=(0.36, 0.44))
        >>> citation(found).split(", ")[1:]
        ['linf 0.1', '500 images', 'seed 0', 'protocol linf-0.1-quick@1', 'not diagnosed.']
    """
    n = evaluation.n
    robust, clean = formatting.percent(evaluation.robust_accuracy, n), formatting.percent(evaluation.clean_accuracy, n)
    parts = [
        f"Robust accuracy {robust} (95% interval {formatting.interval(evaluation.interval, n)}; clean {clean})",
        f"{evaluation.threat.norm} {formatting.eps(evaluation.threat)}",
        f"{formatting.count(n)} {_examples(evaluation)}, seed {evaluation.seed}",
        f"protocol {evaluation.protocol}",
        evaluation.verdict or "not diagnosed",
        *_origin(evaluation),
    ]
    return ", ".join(parts) + "."


def _examples(evaluation: EvaluationFacts) -> str:
    name, split = evaluation.data.get("name"), evaluation.data.get("split")
    examples = evaluation.words.examples
    return f"{split} {examples} of {name}" if name and split in ("train", "test") else examples


def _origin(evaluation: EvaluationFacts) -> list[str]:
    """Return the weights and the version of advreg, as far as the results hold them."""
    digest, version = str(evaluation.model.get("sha256", "")), evaluation.environment.get("advreg")
    return [
        *([f"weights {digest[:_DIGITS]}"] if digest else []),
        *([f"advreg {version}"] if version else []),
    ]
