"""The dial: how strongly a trained adapter counts, chosen afterwards on prompts that no figure comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from advreg.language.datasets import EvaluationData, InstructionExample
from advreg.language.evaluation import metrics
from advreg.language.evaluation.evaluate import CHUNK
from advreg.language.evaluation.tasks import REFUSAL, SUCCESS, Attack, LanguageEvaluationContext, Row, stages
from advreg.language.judges.coherence import fluency_limit
from advreg.language.models.adapters import adapter_scale
from advreg.language.models.nll import base_mean_token_nll
from advreg.language.sweep.pareto import TradeoffPoint, least
from advreg.runs import RunFolder

LOG = "dial.jsonl"


def with_fluency_limit(
    bench: LanguageEvaluationContext, benign: Sequence[InstructionExample]
) -> LanguageEvaluationContext:
    """Return the bench with the cost of coherent text that good answers show."""
    prompts, answers = [one.prompt for one in benign], [one.answer for one in benign]
    spent = base_mean_token_nll(bench.lm, bench.reference, prompts, answers)
    return replace(bench, limit=fluency_limit([nll for nll in spent if nll is not None]))


def evaluate_scales(
    bench: LanguageEvaluationContext,
    data: EvaluationData,
    scales: Sequence[float],
    attacks: Mapping[str, Attack],
    run: RunFolder,
    on_progress: Callable[[int, int], None],
) -> list[Row]:
    """Return attack success and over-refusal at every scale; what the run's log holds already is not measured again.

    Args:
        bench: with the trained model.
        data: requests and safe prompts to choose by.
        scales: strengths of the adapter.
        attacks: cheap ones.
        run: the run folder, in which each scale is written down as soon as it is known.
        on_progress: called with how many scales are done, and how many there are.
    """
    about = _identity(data, attacks, bench)
    known = {row["scale"]: row for row in run.read_log(LOG) if row["about"] == about}
    for k, scale in enumerate(scales):
        if scale not in known:
            with adapter_scale(bench.lm, scale):
                known[scale] = {"scale": scale, "about": about, **_figures(bench, data, attacks)}
            run.append(LOG, known[scale])
        on_progress(k + 1, len(scales))
    return [{key: value for key, value in known[scale].items() if key != "about"} for scale in scales]


def select_scale(rows: Sequence[Row], budget: float) -> float:
    """Return the scale with the lowest attack success whose over-refusal is within the budget, by `least`."""
    points = [TradeoffPoint(row[SUCCESS]["value"], row[REFUSAL]["value"], row[REFUSAL]["interval"][1]) for row in rows]
    scale: float = rows[least(points, budget)]["scale"]
    return scale


def _figures(bench: LanguageEvaluationContext, data: EvaluationData, attacks: Mapping[str, Attack]) -> dict[str, Any]:
    rows: list[Row] = []
    for stage in stages(data, attacks):
        for first in range(0, len(stage.items), CHUNK):
            rows += stage.run(bench, stage.items[first : first + CHUNK])
    found = metrics.record(metrics.axes(rows, bench.judge.calibration, bench.seed))
    plain = {key: value for key, value in found[REFUSAL].items() if key != "by_type"}
    return {SUCCESS: found[SUCCESS]["at_least_one"], REFUSAL: plain}


def _identity(data: EvaluationData, attacks: Mapping[str, Attack], bench: LanguageEvaluationContext) -> str:
    known = bench.judge.calibration
    said = [data.fingerprint, sorted(attacks), bench.judge.name, known and asdict(known), bench.max_new_tokens]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
