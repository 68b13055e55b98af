"""`diagnose`: take a robustness figure, run every check on it, and grade the result.

model, data -> claim (ledger, or PGD-40) -> checks A to G -> verdict -> adaptive attacks -> pictures -> diagnosis.json
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from advreg import models, runtime
from advreg.attacks.verification import accepting_probabilities, logits_of
from advreg.diagnosis import adaptive_attacks as adapting
from advreg.diagnosis.budget import Budget, budget_for
from advreg.diagnosis.checks import (
    binarization,
    convergence,
    failure_indicators,
    model_flags,
    numerics,
    stronger_attacks,
    training_history,
)
from advreg.diagnosis.context import DiagnosisContext, correct_rows
from advreg.diagnosis.gradient_checks import describe_or_reraise
from advreg.diagnosis.loss_surface import loss_pictures
from advreg.diagnosis.module_hooks import Smooth
from advreg.diagnosis.reported_accuracy import ReportedAccuracy, from_ledger, measure_pgd40
from advreg.diagnosis.result import Diagnosis, DiagnosisProgress
from advreg.errors import ModelError, ThreatError
from advreg.evaluation.batch_sizing import is_out_of_memory
from advreg.evaluation.examples import Examples, count, examples_of
from advreg.evaluation.model_identity import matches_ledger
from advreg.module_modes import eval_mode, training_parts
from advreg.objectives import are_probabilities
from advreg.results.checks import Check, causes, flag_check
from advreg.runs import RunFolder
from advreg.statistics import clopper_pearson_interval
from advreg.threat import ThreatModel, as_threat

if TYPE_CHECKING:
    from advreg.data import Dataset

CheckFunction = Callable[[DiagnosisContext], Check]

CHECKS: dict[str, tuple[CheckFunction, ...]] = {
    "C": (
        model_flags.logits,
        model_flags.randomness,
        model_flags.gradient_randomness,
        model_flags.verdict_randomness,
        model_flags.few_classes,
        model_flags.test_time_optimisation,
    ),
    "D": (
        failure_indicators.gradient_path,
        failure_indicators.zero_gradients,
        failure_indicators.noisy_landscape,
        failure_indicators.silent_success,
        failure_indicators.incomplete,
        failure_indicators.copies,
    ),
    "F": (numerics.denormal, numerics.float64, numerics.slope, numerics.reach, numerics.loss_scale),
    "A": (
        stronger_attacks.one_step,
        stronger_attacks.unbounded,
        stronger_attacks.eps_curve,
        stronger_attacks.random_search,
        stronger_attacks.black_box,
    ),
    "B": (
        convergence.examples,
        convergence.one_class,
        convergence.chance,
        convergence.batch,
        convergence.noise,
        convergence.steps,
        convergence.restarts,
        convergence.margin_loss,
        convergence.averaging,
    ),
    "E": (binarization.binarisation,),
    "G": (training_history.collapse, training_history.label_leaking),
}
"""Checks that always run, by group, the cheap groups first."""

THOROUGH_CHECKS: dict[str, tuple[CheckFunction, ...]] = {
    "F": (numerics.scale_free,),
    "A": (stronger_attacks.transfer, stronger_attacks.hard_label),
    "B": (convergence.ratio_loss, convergence.targeted),
}
"""Further checks where the budget is thorough."""

_TRAINING_IMAGES = 5000  # images for a surrogate: it need not be good, only its own
_FROM_LEDGER = (
    "black-box",
    "steps",
    "moved",
    "finite",
    "batch",
    "one-class",
    "chance",
)  # taken as they are; other answers only where nothing was found


def diagnose(
    model: nn.Module,
    data: Dataset | tuple[Tensor, Tensor],
    threat: ThreatModel | str,
    n: int = 500,
    *,
    quick: bool = False,
    budget: Budget | None = None,
    adapt: bool = False,
    train: Dataset | tuple[Tensor, Tensor] | None = None,
    backward: Mapping[str, Smooth] | nn.Module | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    on_progress: Callable[[DiagnosisProgress], None] | None = None,
) -> Diagnosis:
    """Grade whether a robustness figure can be trusted: the verdict, the checks behind it, and what to do next.

    The figure is that of the evaluation in ``out`` of the same model, data and threat, the lowest if there are several;
    checks that its ledger already covers are not measured again. Without one it is the robust accuracy that PGD-40 leaves.

    Args:
        model: maps inputs ``(B, ...)`` in the threat's box to logits ``(B, K)``; in any mode, and left in it.
        data: a data set, or a pair ``(x, y)``.
        threat: norm and eps, one number above 0 for all examples: a `ThreatModel`, or text such as ``"linf:8/255"``.
        n: examples, from the first; all where there are fewer.
        quick: fewer queries and checks.
        budget: how much to spend; by default about a minute of one core for 200 images on small networks.
        adapt: also run the adaptive attacks that the findings suggest, and report the figure that they leave.
        train: training data for the surrogate whose points are transferred; the examples themselves if not given.
        backward: your own way back for ``adapt``: a differentiable stand-in for each named module, or a whole model.
        seed: seed of the figure measured here; the checks draw with ``seed + 1``.
        out: run folder to read an evaluation from and to write ``diagnosis.json`` into.
        on_progress: called before each check with a `DiagnosisProgress`.

    Returns:
        A `Diagnosis`.

    Raises:
        ThreatError: an eps of 0, or one for each example.
        ModelError, DataError: a model that does not run or does not fit into memory, or data that do not fit it.
        RunError: ``out`` cannot be read or written.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
        >>> data = torch.rand(16, 1, 2, 2), torch.randint(3, (16,))
        >>> diagnose(net, data, "linf:0.1", quick=True).verdict in ("TRUSTED", "SUSPECT", "UNRELIABLE")
        True

    Reference: Carlini et al., "On evaluating adversarial robustness", 2019, arXiv:1902.06705, and the papers
    named in docs/diagnose.md.
    """
    began = time.perf_counter()
    threat = as_threat(threat)
    _require_one_radius(threat)
    trains = [name for name, _ in training_parts(model)]
    with _explain_out_of_memory(), eval_mode(model), accepting_probabilities():
        if on_progress:
            on_progress(DiagnosisProgress("the figure", 0, len(checks_for(budget or budget_for(n, quick=quick)))))
        subject, claim = context_of(model, data, threat, n, budget, quick, _training_tensors(train), seed, out)
        ask = _check_runner(claim, on_progress)
        checks = [model_flags.eval_mode(trains), *ask(subject)]
        checks += [training_history.training_history(_read_epochs(out)), stronger_attacks.gap(checks, subject)]
        checks.append(convergence.attacked(claim.failed, checks, subject))
        adapted = None
        if adapt:
            adapted = adapting.adapt(subject, causes(checks), backward=backward)
            checks.append(adapting.adaptive_check(adapted, subject))
        drawn = _draw_pictures(subject) if out is not None else {}
    standing = len(subject.standing)
    found = Diagnosis(
        threat=threat,
        claim=claim.name,
        n=subject.n,
        clean_accuracy=float(subject.right.double().mean()),
        robust_accuracy=standing / subject.n,
        interval=clopper_pearson_interval(standing, subject.n),
        checks=tuple(sorted(checks, key=lambda check: check.group)),
        adapted=adapted,
        pictures=drawn,
        facts={"model": models.describe(model), "seed": seed, "environment": runtime.environment()},
        seconds=time.perf_counter() - began,
    )
    if out is not None:
        RunFolder.at(out).write_json("diagnosis.json", found.record())
    return found


def context_of(
    model: nn.Module,
    data: Dataset | tuple[Tensor, Tensor],
    threat: ThreatModel,
    n: int,
    budget: Budget | None,
    quick: bool,
    train: tuple[Tensor, Tensor] | None,
    seed: int,
    out: str | Path | None,
) -> tuple[DiagnosisContext, ReportedAccuracy]:
    """Return the context that every check receives, and the figure under test.

    Args:
        model: the original, in eval mode.
        data: a data set, or inputs ``(N, ...)`` and labels ``(N,)``.
        threat: norm, eps and box.
        n: number of examples, from the first.
        budget: number of examples, queries and steps to spend; the one that ``quick`` names if None.
        quick: whether to use the small budget.
        train: inputs and labels to train a surrogate on; the examples themselves if None.
        seed: seed of all draws.
        out: run folder with the evaluation that holds the figure; PGD-40 is run where there is none.

    Returns:
        The context, and the figure.

    Raises:
        DataError: data that do not fit the threat model.
        ModelError: a model that cannot be diagnosed.

    Example:
        >>> model, x = nn.Linear(4, 3).eval(), torch.rand(4, 4)
        >>> data = x, model(x).argmax(1)
        >>> subject, figure = context_of(model, data, ThreatModel("linf", 1e-6), 4, None, True, None, 0, None)
        >>> figure.name, subject.n
        ('pgd-40', 4)
    """
    examples = examples_of(data, min(n, count(data)), threat)
    device = next((p.device for p in model.parameters()), examples.x.device)
    x, y = examples.x.to(device), examples.y.to(device)
    _require_usable(model, x)
    ids = torch.arange(len(y), device=device)
    claim = _reported_accuracy(model, examples, x, y, threat, ids, seed, out)
    subject = DiagnosisContext(
        model=model,
        x=x,
        y=y,
        ids=ids,
        right=correct_rows(model, x, y),
        stands=claim.stands.to(device),
        threat=threat,
        attack=claim.attack,
        claim=claim.name,
        nearness=claim.nearness.to(device),
        precision=claim.precision,
        seed=seed + 1,
        budget=budget or budget_for(len(y), quick=quick),
        train=train,
    )
    return subject, claim


def _reported_accuracy(
    model: nn.Module,
    examples: Examples,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    ids: Tensor,
    seed: int,
    out: str | Path | None,
) -> ReportedAccuracy:
    sha256 = models.describe(model)["sha256"]
    kept = from_ledger(out, sha256, examples.sha256, threat, len(examples), partial(matches_ledger, model, x, y))
    return kept or measure_pgd40(model, x, y, threat, ids, seed)


def _require_one_radius(threat: ThreatModel) -> None:
    eps = torch.as_tensor(threat.eps)
    if eps.ndim:
        raise ThreatError(
            f"eps is a tensor of {len(eps)}; a diagnosis needs one number for all: diagnose each radius by itself"
        )
    if not float(eps):
        raise ThreatError(
            f"{threat.norm}:0 allows no change, and no figure to doubt; give an eps above 0, as linf:8/255"
        )


def _require_usable(model: nn.Module, x: Tensor) -> None:
    """Raise if the model does not run at all; probabilities are a finding, not an error."""
    try:
        models.check_model(model, x[:8])
    except ModelError:
        with suppress(Exception):
            if are_probabilities(logits_of(model, x[:8])):
                return
        raise


def _check_runner(
    claim: ReportedAccuracy, on_progress: Callable[[DiagnosisProgress], None] | None
) -> Callable[[DiagnosisContext], list[Check]]:
    """Return a function that runs every check that the ledger does not cover."""
    known = {
        c.name: c for c in claim.free if c.verdict == "pass" or (c.name in _FROM_LEDGER and c.verdict != "skipped")
    }

    def ask(subject: DiagnosisContext) -> list[Check]:
        questions = checks_for(subject.budget)
        found: dict[str, Check] = {}
        for done, (group, question) in enumerate(questions):
            name = name_of(question)
            if on_progress:
                on_progress(DiagnosisProgress(name, done, len(questions), _remaining_accuracy(subject, found.values())))
            found[name] = known[name] if name in known else run_check(question, group, subject)
        return list({**found, **{name: check for name, check in known.items() if name not in found}}.values())

    return ask


def _remaining_accuracy(subject: DiagnosisContext, checks: Iterable[Check]) -> float:
    """Return the figure less the examples that some check broke."""
    broken = {i for check in checks for i in check.ids}
    return (len(subject.standing) - len(broken)) / subject.n


def checks_for(budget: Budget) -> list[tuple[str, CheckFunction]]:
    """Return the checks of a budget with their groups."""
    return [
        (group, question)
        for group, asked in CHECKS.items()
        for question in asked + (THOROUGH_CHECKS.get(group, ()) if budget.thorough else ())
    ]


def name_of(question: CheckFunction) -> str:
    """Return the name of a check function's check."""
    return question.__name__.replace("_", "-")


def run_check(question: CheckFunction, group: str, subject: DiagnosisContext) -> Check:
    """Run one check; one that raises or measures no finite number is suspect, with the reason."""
    try:
        check = question(subject)
    except Exception as cause:  # a model may raise anything anywhere: a diagnosis goes on
        return _failed_check(name_of(question), group, describe_or_reraise(cause))
    if check.measured is not None and not math.isfinite(check.measured):
        return _failed_check(check.name, group, f"measured {check.measured}: {check.says}")
    return replace(check, source="measured")


def _failed_check(name: str, group: str, reason: str) -> Check:
    return flag_check(name, group, convergence.INCONCLUSIVE, reason, raised=True, hard=False)


def _draw_pictures(subject: DiagnosisContext) -> dict[str, Any]:
    """Return the pictures; none where the model raises, which the checks report."""
    try:
        return loss_pictures(subject)
    except Exception as cause:
        describe_or_reraise(cause)  # but for memory
        return {}


@contextmanager
def _explain_out_of_memory() -> Iterator[None]:
    """Raise a one-line error where memory runs out: no check may take that for a finding."""
    try:
        yield
    except (MemoryError, RuntimeError) as cause:  # torch's own kind of each is a RuntimeError
        if not is_out_of_memory(cause):
            raise
        raise ModelError(
            "this diagnosis does not fit into memory; give fewer examples (n), or a larger device"
        ) from cause


def _training_tensors(train: Dataset | tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
    return train if train is None or isinstance(train, tuple) else train.tensors(n=min(len(train), _TRAINING_IMAGES))


def _read_epochs(out: str | Path | None) -> Sequence[Mapping[str, Any]]:
    log = Path(out) / "metrics.jsonl" if out is not None else None
    return RunFolder(Path(out)).read_log("metrics.jsonl") if out is not None and log and log.is_file() else []
