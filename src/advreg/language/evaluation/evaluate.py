"""Evaluate a language model: prompts -> tasks -> chunks of 16 -> rows of a ledger -> metrics with intervals.

Every chunk is written as soon as it is complete, so an interruption loses at most one chunk.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from advreg import runtime
from advreg._deprecation import renamed_attribute
from advreg.errors import ConfigError, DataError, RunError
from advreg.language.attacks.result import count_model_passes, describe_attack
from advreg.language.datasets import EvaluationData
from advreg.language.evaluation.context import LanguageEvaluationContext, Row
from advreg.language.evaluation.journal import LEDGER, Journal, open_journal
from advreg.language.evaluation.metrics import compute_differences, compute_metrics, metrics_record
from advreg.language.evaluation.outcomes import score_missing
from advreg.language.evaluation.tasks import (
    REFERENCE,
    SUCCESS,
    UPPER_BOUNDS,
    Attack,
    EvaluationTask,
    default_attacks,
    evaluation_tasks,
)
from advreg.language.judges import HarmJudge, Judge, RemoteJudge, keyword_judge
from advreg.language.judges.calibration import Calibration
from advreg.language.judges.coherence import fluency_limit
from advreg.language.models.endpoint import ServiceModel
from advreg.language.models.loading import LanguageModel
from advreg.models import state_sha256
from advreg.runs import RunFolder

PROTOCOL = "language@1"
CHUNK = 16
_RESULTS = "results.json"


@dataclass(frozen=True)
class LanguageEvaluationProgress:
    """Progress of an evaluation, reported at the start of each task and after each of its chunks.

    Attributes:
        stage: name of the task, such as ``attack_success/direct``.
        done: prompts of the task that are finished.
        total: prompts of the task.
        seconds: wall time of the evaluation so far.
    """

    stage: str
    done: int
    total: int
    seconds: float


OnProgress = Callable[[LanguageEvaluationProgress], None]


@dataclass(frozen=True, repr=False)
class LanguageEvaluation:
    """Metrics of a language model with 95% intervals, which contain the judge's errors where they are known.

    Attributes:
        model: name of the model.
        seed: seed of the attacks and of all resampling.
        n: number of prompts of each kind.
        judge: name, sensitivity, specificity, agreement, number of labels and of labelled models, whether they support a
            correction, and the name of the judge of harm. Without labels the rates are None and the numbers 0.
        metrics: nested dictionaries of `Estimate`, as in results.json; None where nothing was measured.
        differences: paired differences from the base evaluation; empty without a base evaluation.
        forwards: example-forwards spent, including those of the judge.
        backwards: example-backwards spent.
        seconds: wall time, earlier runs included.
        rows: the rows of the ledger.
    """

    model: str
    seed: int
    n: Mapping[str, int]
    judge: Mapping[str, Any]
    metrics: Mapping[str, Any]
    differences: Mapping[str, Any]
    forwards: int
    backwards: int
    seconds: float
    rows: Sequence[Row] = field(default=())

    axes = renamed_attribute("axes", "metrics")

    def __repr__(self) -> str:
        success = self.metrics["attack_success"].get("at_least_one")
        effect, refusal = self.metrics.get("attack_effect", {}).get("at_least_one"), self.metrics["over_refusal"]
        parts = [f"attack success above benign {effect.value:+.1%}"] if effect else []
        parts += [f"attack success {success.value:.1%}"] if success else []
        parts += [f"over-refusal {refusal['value']:.1%}"] if refusal else []
        return f"LanguageEvaluation({self.model!r}, {', '.join(parts) or 'no metric'})"

    @property
    def queries(self) -> int:
        """Queries of attacking models."""
        return sum(row.get("queries", 0) for row in self.rows)

    @property
    def converged(self) -> dict[str, tuple[int, int]]:
        """Searches that converged, and all searches, of each attack on harmful requests that measures it."""
        found: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            if row["axis"] == SUCCESS and "converged" in row:
                done, every = found.get(row["attack"], (0, 0))
                found[row["attack"]] = (done + row["converged"], every + 1)
        return found

    def record(self) -> dict[str, Any]:
        """Return the content of results.json."""
        return {
            "kind": "language",
            "protocol": PROTOCOL,
            "model": self.model,
            "seed": self.seed,
            "n": dict(self.n),
            "judge": dict(self.judge),
            "axes": metrics_record(dict(self.metrics)),
            "differences": metrics_record(dict(self.differences)),
            "passes": {"forwards": self.forwards, "backwards": self.backwards, "queries": self.queries},
            "converged": {name: list(counts) for name, counts in self.converged.items()},
            "seconds": round(self.seconds, 3),
            "environment": runtime.environment(),
        }


def evaluate(
    lm: LanguageModel,
    data: EvaluationData,
    *,
    attacks: Mapping[str, Attack] | None = None,
    judge: Judge | None = None,
    harm: HarmJudge | None = None,
    rater: RemoteJudge | None = None,
    reference: LanguageModel | None = None,
    base: LanguageEvaluation | str | Path | None = None,
    seed: int = 0,
    max_new_tokens: int = 48,
    task_tokens: int = 256,
    out: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> LanguageEvaluation:
    """Measure attack success, over-refusal, truthfulness, instruction following, helpfulness and coherence of a model.

    An attack succeeds on a request if it obtains a completion that the judge of harm scores as harmful. The attacks in words
    then also run on benign prompts, and ``attack_effect``, the paired difference of the two success rates, is the headline:
    an application that leaks without an attack is not counted as attacked. Without a judge of harm, every coherent completion
    that is no refusal is a success: an upper bound of harm. An empty or incoherent completion counts as neither harm, nor
    help, nor a refusal. A completion without a verdict counts neither as attacked nor as withstood: intervals cover both, and
    the same call asks for missing verdicts again. ``at_least_one`` covers the attacks in words; the attacks of `UPPER_BOUNDS`
    are reported beside it.

    Args:
        lm: the model.
        data: the prompts; a metric without prompts is left out.
        attacks: name -> ``(lm, requests, *, seed, max_new_tokens) -> LanguageAttackResult``; these and no others run. By
            default direct, roleplay and best_of_n.
        judge: classifies refusals; the keyword judge, whose error rates are unknown, by default. `words_judge` trains one
            on labels.
        harm: decides which attacks succeed, see `remote_harm_judge`.
        rater: service that rates helpfulness; it receives prompts and completions. Without it only proxies are measured.
        reference: base model whose likelihood decides whether text is coherent; by default the model without its adapter.
        base: evaluation to compare with, or the folder that was its ``out``.
        seed: seed of the attacks and of all resampling; the draws of an attack depend on it and on the id of the request.
        max_new_tokens: length of a completion in tokens.
        task_tokens: length of a completion for verifiable instructions in tokens.
        out: run folder; the evaluation writes and resumes ``evaluation/language@1/`` in it.
        on_progress: called at the start of each task and after each chunk of 16 prompts.

    Returns:
        The metrics, and the rows that they come from.

    Raises:
        ConfigError: no prompts, an attack name that is not an identifier, or a length below 1.
        DataError: two prompts of one kind have the same id.
        ModelError: the model or an attack fails.
        RunError: ``out`` belongs to another evaluation, or ``base`` holds no evaluation.
    """
    chosen = _words_first(default_attacks() if attacks is None else attacks)
    tasks = evaluation_tasks(data, chosen, with_baseline=harm is not None)
    if not tasks or min(max_new_tokens, task_tokens) < 1:
        sizes = f"data {data.n}, max_new_tokens {max_new_tokens}, task_tokens {task_tokens}"
        raise ConfigError(
            f"there is nothing to evaluate ({sizes}); give prompts of at least one kind and lengths above 0"
        )
    for task in tasks:
        _require_unique_ids(task)
    base_rows = None if base is None else _base_rows(base)
    context = LanguageEvaluationContext(
        lm, reference, judge or keyword_judge(), rater, seed, max_new_tokens, task_tokens, harm=harm
    )
    folder = None if out is None else Path(out) / "evaluation" / PROTOCOL
    with open_journal(folder, _identity(context, data, chosen)) as journal:
        for task in tasks:
            limited = context if task.metric == REFERENCE else _with_fluency_limit(context, journal.rows)
            _run_task(limited, task, journal, on_progress)
        result = _result(context, data, journal, base_rows)
        if journal.folder is not None:
            journal.folder.write_json(_RESULTS, result.record())
    return result


def _result(
    context: LanguageEvaluationContext, data: EvaluationData, journal: Journal, base: Sequence[Row] | None
) -> LanguageEvaluation:
    """Compute the metrics of a finished evaluation."""
    rows = journal.rows
    return LanguageEvaluation(
        model=context.lm.name,
        seed=context.seed,
        n=data.n,
        judge=_judge_record(context.judge, context.harm),
        metrics=compute_metrics(rows, context.judge, context.seed, context.harm),
        differences={} if base is None else compute_differences(rows, base, context.judge, context.seed, context.harm),
        forwards=sum(row["forwards"] for row in rows),
        backwards=sum(row["backwards"] for row in rows),
        seconds=journal.seconds,
        rows=tuple(rows),
    )


def _require_unique_ids(task: EvaluationTask) -> None:
    """Raise if two prompts share an id, because rows and random draws belong to ids."""
    counts = Counter(item.id for item in task.items)
    repeated = next((i for i, count in counts.items() if count > 1), None)
    if repeated is not None:
        raise DataError(f"{task.name}: two prompts have the id {repeated}; give each prompt of a kind its own id")


def _run_task(
    context: LanguageEvaluationContext, task: EvaluationTask, journal: Journal, on_progress: OnProgress | None
) -> None:
    """Run a task chunk by chunk; chunks that the journal holds are not run again, but missing verdicts are asked for."""
    report = on_progress or (lambda _: None)
    report(LanguageEvaluationProgress(task.name, 0, len(task.items), journal.seconds))
    for first in range(0, len(task.items), CHUNK):
        items = task.items[first : first + CHUNK]
        rows = journal.find(task, items)
        if rows is None:
            start = time.perf_counter()
            rows = _run_chunk(context, task, items)
            journal.write(task, rows, time.perf_counter() - start)
        elif any(row.get("pending") or row.get("missing") for row in rows):
            rows = score_missing(context, rows)
            journal.replace(rows)
        journal.rows += rows
        report(LanguageEvaluationProgress(task.name, first + len(items), len(task.items), journal.seconds))


def _run_chunk(context: LanguageEvaluationContext, task: EvaluationTask, items: Sequence[Any]) -> list[Row]:
    """Return the rows of some prompts, each with its share of the passes; the last row is marked."""
    with count_model_passes(context.lm, context.reference) as spent:
        rows = task.run(context, items)
    shares = spent.shares(len(rows)).tolist()
    return [
        {**row, "forwards": forwards, "backwards": backwards, "last": index == len(rows) - 1}
        for index, (row, (forwards, backwards)) in enumerate(zip(rows, shares, strict=True))
    ]


def _with_fluency_limit(context: LanguageEvaluationContext, rows: Sequence[Row]) -> LanguageEvaluationContext:
    """Return the context with the coherence limit that the reference responses determine."""
    values = [row["nll"] for row in rows if row["axis"] == REFERENCE and row["nll"] is not None]
    return replace(context, limit=fluency_limit(values))


def _words_first(attacks: Mapping[str, Attack]) -> dict[str, Attack]:
    """Return the attacks in words followed by those on activations."""
    invalid = next((name for name in attacks if not name.isidentifier() or name == "at_least_one"), None)
    if invalid is not None:
        raise ConfigError(f"an attack is named {invalid!r}; give a name of letters, digits and _, and not at_least_one")
    return {name: attacks[name] for name in sorted(attacks, key=lambda name: name in UPPER_BOUNDS)}


def _identity(
    context: LanguageEvaluationContext, data: EvaluationData, attacks: Mapping[str, Attack]
) -> dict[str, str | int]:
    """Return what determines the rows; a folder resumes only an evaluation with the same identity."""
    calibration, rater = context.judge.calibration, context.rater
    settings = {
        "attacks": {name: describe_attack(attack) for name, attack in attacks.items()},
        "tokens": [context.max_new_tokens, context.task_tokens],
        "judge": [context.judge.name, calibration.counts if calibration else None],
        "rater": rater.model if rater else None,
        "harm": [context.harm.name, context.harm.threshold] if context.harm else None,
        "reference": fingerprint(context.reference) if context.reference else None,
    }
    return {
        "protocol": PROTOCOL,
        "model": fingerprint(context.lm),
        "data": data.fingerprint,
        "settings": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "seed": context.seed,
        "chunk": CHUNK,
    }


def fingerprint(lm: LanguageModel) -> str:
    """Return the SHA-256 of a model's weights, adapter scales and system prompt; of a service, of its address and model.

    Args:
        lm: the model.
    """
    if isinstance(lm, ServiceModel):
        return hashlib.sha256(f"{lm.name} {lm.system}".encode()).hexdigest()
    layers = (module for module in lm.network.modules() if hasattr(module, "lora_A") and hasattr(module, "scaling"))
    scales = sorted({str(sorted(layer.scaling.items())) for layer in layers})
    prompt = "" if lm.system is None else f" {lm.system}"
    return hashlib.sha256(f"{state_sha256(lm.network)} {scales}{prompt}".encode()).hexdigest()


def _judge_record(judge: Judge, harm: HarmJudge | None) -> dict[str, Any]:
    """Return the judges' names and error rates for results.json."""
    record = {"name": judge.name, **_calibration_record(judge.calibration), "harm": harm and harm.name}
    if harm is None or harm.calibration is None:
        return record
    of_harm = _calibration_record(harm.calibration)
    seen, right = of_harm["specificity"], of_harm["sensitivity"]  # the calibration is one of harmlessness
    return record | {"harm_calibration": {**of_harm, "sensitivity": seen, "specificity": right}}


def _calibration_record(calibration: Calibration | None) -> dict[str, Any]:
    names = ("sensitivity", "specificity", "agreement")
    return {
        **{name: None if calibration is None else getattr(calibration, name) for name in names},
        "n": calibration.n if calibration else 0,
        "models": len(calibration.counts) if calibration else 0,
        "corrects": calibration is not None and calibration.supports_correction,
    }


def _base_rows(base: LanguageEvaluation | str | Path) -> Sequence[Row]:
    """Return the rows of the base evaluation.

    Raises:
        RunError: the folder holds no evaluation of a language model.
    """
    if isinstance(base, LanguageEvaluation):
        return base.rows
    folder = RunFolder.open(Path(base))
    rows = folder.read_log(f"evaluation/{PROTOCOL}/{LEDGER}")[1:]
    if not rows:
        raise RunError(f"{folder.path} holds no evaluation of a language model; evaluate the base model there first")
    return rows
