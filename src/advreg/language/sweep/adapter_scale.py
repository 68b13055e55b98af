"""Select the scale of a trained adapter on validation prompts, which no reported metric uses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from advreg.language.datasets import EvaluationData, InstructionExample
from advreg.language.evaluation.context import LanguageEvaluationContext, Row
from advreg.language.evaluation.evaluate import CHUNK
from advreg.language.evaluation.metrics import compute_metrics, metrics_record
from advreg.language.evaluation.tasks import REFUSAL, SUCCESS, Attack, evaluation_tasks
from advreg.language.judges.coherence import fluency_limit
from advreg.language.models.adapters import adapter_scale
from advreg.language.models.nll import base_mean_token_nll
from advreg.language.sweep.pareto import has_unscored, lowest_attack_success, tradeoff_point
from advreg.runs import RunFolder

LOG = "dial.jsonl"


def with_fluency_limit(
    context: LanguageEvaluationContext, benign: Sequence[InstructionExample]
) -> LanguageEvaluationContext:
    """Return the context with the coherence limit that reference responses determine.

    Args:
        context: the model and the base model.
        benign: instructions with reference responses.
    """
    prompts, answers = [example.prompt for example in benign], [example.answer for example in benign]
    nlls = base_mean_token_nll(context.lm, context.reference, prompts, answers)
    return replace(context, limit=fluency_limit([nll for nll in nlls if nll is not None]))


def evaluate_scales(
    context: LanguageEvaluationContext,
    data: EvaluationData,
    scales: Sequence[float],
    attacks: Mapping[str, Attack],
    *,
    run: RunFolder,
    on_progress: Callable[[int, int], None],
) -> list[Row]:
    """Return attack success and over-refusal at every scale; logged scales with all verdicts are not evaluated again.

    Args:
        context: the trained model and the judge.
        data: validation requests and safe prompts.
        scales: scales of the adapter.
        attacks: cheap attacks, by name.
        run: the run folder; each scale is logged as soon as it is evaluated.
        on_progress: called with the number of finished scales and the number of all scales.

    Returns:
        A row for each scale with the keys ``scale``, ``attack_success`` and ``over_refusal``.
    """
    identity = _identity(data, attacks, context)
    recorded = {row["scale"]: row for row in run.read_log(LOG) if row["about"] == identity and not has_unscored(row)}
    for index, scale in enumerate(scales):
        if scale not in recorded:
            with adapter_scale(context.lm, scale):
                metrics = _scale_metrics(context, data, attacks)
            recorded[scale] = {"scale": scale, "about": identity, **metrics}
            run.append(LOG, recorded[scale])
        on_progress(index + 1, len(scales))
    return [{key: value for key, value in recorded[scale].items() if key != "about"} for scale in scales]


def select_scale(rows: Sequence[Row], budget: float) -> float:
    """Return the scale with the lowest attack success whose over-refusal is within the budget.

    Args:
        rows: rows of `evaluate_scales`.
        budget: largest acceptable over-refusal, as a share; the estimates decide, as in `lowest_attack_success`.

    Raises:
        RunError: the judge scored no completion at a scale.

    Example:
        >>> share = lambda value: {"value": value, "interval": [0.0, 1.0], "n": 40}
        >>> pairs = {0.5: (0.3, 0.04), 1.0: (0.0, 0.2)}
        >>> rows = [{"scale": s, SUCCESS: share(a), REFUSAL: share(b)} for s, (a, b) in pairs.items()]
        >>> select_scale(rows, 0.05), select_scale(rows, 0.2)
        (0.5, 1.0)
    """
    points = [
        tradeoff_point({"axes": {SUCCESS: {"at_least_one": row[SUCCESS]}, REFUSAL: row[REFUSAL]}}) for row in rows
    ]
    scale: float = rows[lowest_attack_success(points, budget)]["scale"]
    return scale


def _scale_metrics(
    context: LanguageEvaluationContext, data: EvaluationData, attacks: Mapping[str, Attack]
) -> dict[str, Any]:
    """Return attack success and over-refusal at the current scale."""
    rows: list[Row] = []
    for task in evaluation_tasks(data, attacks):
        for first in range(0, len(task.items), CHUNK):
            rows += task.run(context, task.items[first : first + CHUNK])
    metrics = metrics_record(compute_metrics(rows, context.judge, context.seed, context.harm))
    refusal = {key: value for key, value in metrics[REFUSAL].items() if key != "by_type"}
    return {SUCCESS: metrics[SUCCESS]["at_least_one"], REFUSAL: refusal}


def _identity(data: EvaluationData, attacks: Mapping[str, Attack], context: LanguageEvaluationContext) -> str:
    """Return a hash of what determines the rows; logged rows with another hash are not reused."""
    calibration = context.judge.calibration
    settings = [
        data.fingerprint,
        sorted(attacks),
        context.judge.name,
        calibration and calibration.counts,
        context.harm and context.harm.name,
        context.max_new_tokens,
    ]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
