"""`diagnose`: take a robustness figure, run every check on it, and grade the result.

model, data -> figure (ledger, or PGD-40) -> checks A to G -> verdict -> adaptive attacks -> pictures -> diagnosis.json
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
from advreg.attacks.model import input_dtype
from advreg.attacks.verification import accepting_probabilities, logits_of
from advreg.diagnosis import adaptive_attacks
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
from advreg.diagnosis.module_hooks import Approximation
from advreg.diagnosis.reported_accuracy import ReportedAccuracy, from_ledger, measure_pgd40
from advreg.diagnosis.result import Diagnosis, DiagnosisProgress
from advreg.diagnosis.task_diagnosis import diagnose_task
from advreg.errors import ModelError, ThreatError
from advreg.evaluation.batch_sizing import is_out_of_memory
from advreg.evaluation.examples import first_examples, first_tensors, threat_on
from advreg.evaluation.model_identity import matches_ledger
from advreg.module_modes import eval_mode, training_parts
from advreg.objectives import are_probabilities
from advreg.results.checks import Check, causes, flag_check
from advreg.runs import RunFolder
from advreg.statistics import clopper_pearson_interval
from advreg.tasks import CLASSES, Task, as_task
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data

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

_TRAINING_IMAGES = 5000  # training images of a surrogate, which need not be accurate
_FROM_LEDGER = (
    "black-box",
    "steps",
    "moved",
    "finite",
    "batch",
    "one-class",
    "chance",
)  # checks taken from a ledger with any outcome; others only where they pass


def diagnose(
    model: nn.Module,
    data: Data,
    threat: ThreatModel | str,
    n: int = 500,
    *,
    quick: bool = False,
    budget: Budget | None = None,
    adapt: bool = False,
    train: Data | None = None,
    backward: Mapping[str, Approximation] | nn.Module | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    on_progress: Callable[[DiagnosisProgress], None] | None = None,
    task: Task | str = CLASSES,
) -> Diagnosis:
    """Grade whether a robustness figure can be trusted: a verdict, the checks behind it, and a remedy for each finding.

    The figure is that of the evaluation in ``out`` of the same model, data and threat, the lowest of several; checks that its
    ledger covers are not measured again. Without an evaluation the figure is the robust accuracy under PGD-40.

    Args:
        model: maps inputs ``(B, ...)`` in the threat's box to logits ``(B, K)``; in any mode, and left in it.
        data: a data set, a pair ``(x, y)``, a DataLoader or any other form of ``docs/your-data.md``.
        threat: norm and eps, one number above 0 for all examples: a `ThreatModel`, or text such as ``"linf:8/255"``.
        n: examples, from the first; all where there are fewer.
        quick: fewer queries and checks.
        budget: limits on the cost; by default about a minute of one core for 200 images on small networks.
        adapt: also run the adaptive attacks that the findings suggest, and report the figure that they leave.
        train: training data of the surrogate for transfer attacks; the examples themselves by default.
        backward: your own backward pass for ``adapt``: a differentiable approximation of each named module, or a model.
        seed: seed of the figure measured here; the checks draw with ``seed + 1``.
        out: run folder to read an evaluation from and to write ``diagnosis.json`` into.
        on_progress: called before each check with a `DiagnosisProgress`.
        task: what an output is worth; checks that other tasks than classification lack are skipped with a reason.

    Returns:
        A `Diagnosis`.

    Raises:
        ThreatError: an eps of 0, or one for each example.
        ModelError, DataError: the model raises or does not fit into memory, or the data do not fit the model.
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
    threat = threat_on(data, threat)
    _require_one_radius(threat)
    if (chosen := as_task(task)) is not CLASSES:
        with eval_mode(model):
            return diagnose_task(model, data, threat, n, chosen, seed=seed, out=out, adapt=adapt)
    in_train_mode = [name for name, _ in training_parts(model)]
    with _explain_out_of_memory(), eval_mode(model), accepting_probabilities():
        if on_progress:
            on_progress(DiagnosisProgress("the figure", 0, len(checks_for(budget or budget_for(n, quick=quick)))))
        context, reported = make_context(
            model,
            data,
            threat,
            n,
            budget=budget,
            quick=quick,
            train=None if train is None else first_tensors(train, _TRAINING_IMAGES),
            seed=seed,
            out=out,
        )
        run_checks = _check_runner(reported, on_progress)
        checks = [model_flags.eval_mode(in_train_mode), *run_checks(context)]
        checks += [training_history.training_history(_read_epochs(out)), stronger_attacks.gap(checks, context)]
        checks.append(convergence.attacked(reported.failed, checks, context))
        adapted = None
        if adapt:
            adapted = adaptive_attacks.adapt(context, causes(checks), backward=backward)
            checks.append(adaptive_attacks.adaptive_check(adapted, context))
        pictures = _draw_pictures(context) if out is not None else {}
    survivors = len(context.robust_rows)
    diagnosis = Diagnosis(
        threat=threat,
        claim=reported.name,
        n=context.n,
        clean_accuracy=float(context.right.double().mean()),
        robust_accuracy=survivors / context.n,
        interval=clopper_pearson_interval(survivors, context.n),
        checks=tuple(sorted(checks, key=lambda check: check.group)),
        adapted=adapted,
        pictures=pictures,
        facts={"model": models.describe(model), "seed": seed, "environment": runtime.environment()},
        seconds=time.perf_counter() - began,
    )
    if out is not None:
        RunFolder.at(out).write_json("diagnosis.json", diagnosis.record())
    return diagnosis


def make_context(
    model: nn.Module,
    data: Data,
    threat: ThreatModel,
    n: int,
    *,
    budget: Budget | None = None,
    quick: bool = False,
    train: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> tuple[DiagnosisContext, ReportedAccuracy]:
    """Return the context that every check receives, and the figure under test.

    Args:
        model: the original, in eval mode.
        data: a data set, or inputs ``(N, ...)`` and labels ``(N,)``.
        threat: norm, eps and box.
        n: number of examples, from the first.
        budget: limits on the cost; None: chosen by ``n`` and ``quick``.
        quick: whether to use the small budget.
        train: inputs and labels to train a surrogate on; the examples themselves if None.
        seed: seed of all draws.
        out: run folder with the evaluation that holds the figure; without one PGD-40 measures it.

    Returns:
        The context, and the figure.

    Raises:
        DataError: data outside the box of the threat model.
        ModelError: a model that cannot be diagnosed.

    Example:
        >>> model, x = nn.Linear(4, 3).eval(), torch.rand(4, 4)
        >>> data = x, model(x).argmax(1)
        >>> context, figure = make_context(model, data, ThreatModel("linf", 1e-6), 4, quick=True)
        >>> figure.name, context.n
        ('pgd-40', 4)
    """
    examples = first_examples(data, n, threat, input_dtype(model))
    device = next((p.device for p in model.parameters()), examples.x.device)
    x, y = examples.x.to(device), examples.y.to(device)
    _require_usable(model, x)
    ids = torch.arange(len(y), device=device)
    sha256 = models.describe(model)["sha256"]
    matches = partial(matches_ledger, model, x, y)
    evaluated = from_ledger(out, sha256, examples.sha256, threat, len(examples), matches)
    reported = evaluated or measure_pgd40(model, x, y, threat, ids, seed)
    context = DiagnosisContext(
        model=model,
        x=x,
        y=y,
        ids=ids,
        right=correct_rows(model, x, y),
        robust=reported.robust.to(device),
        threat=threat,
        attack=reported.attack,
        claim=reported.name,
        nearness=reported.nearness.to(device),
        precision=reported.precision,
        seed=seed + 1,
        budget=budget or budget_for(len(y), quick=quick),
        train=train,
    )
    return context, reported


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
    """Raise if the model raises; probabilities are a finding, not an error."""
    try:
        models.check_model(model, x[:8])
    except ModelError:
        with suppress(Exception):
            if are_probabilities(logits_of(model, x[:8])):
                return
        raise


def _check_runner(
    reported: ReportedAccuracy, on_progress: Callable[[DiagnosisProgress], None] | None
) -> Callable[[DiagnosisContext], list[Check]]:
    """Return a function that runs every check that the ledger of the figure does not cover."""
    known = {
        c.name: c for c in reported.free if c.verdict == "pass" or (c.name in _FROM_LEDGER and c.verdict != "skipped")
    }

    def run_checks(context: DiagnosisContext) -> list[Check]:
        functions = checks_for(context.budget)
        found: dict[str, Check] = {}
        for done, (group, function) in enumerate(functions):
            name = name_of(function)
            if on_progress:
                on_progress(DiagnosisProgress(name, done, len(functions), _remaining_accuracy(context, found.values())))
            found[name] = known[name] if name in known else run_check(function, group, context)
        return list({**found, **{name: check for name, check in known.items() if name not in found}}.values())

    return run_checks


def _remaining_accuracy(context: DiagnosisContext, checks: Iterable[Check]) -> float:
    """Return the figure less the examples that checks broke."""
    broken = {i for check in checks for i in check.ids}
    return (len(context.robust_rows) - len(broken)) / context.n


def checks_for(budget: Budget) -> list[tuple[str, CheckFunction]]:
    """Return the checks of a budget with their groups."""
    return [
        (group, function)
        for group, functions in CHECKS.items()
        for function in functions + (THOROUGH_CHECKS.get(group, ()) if budget.thorough else ())
    ]


def name_of(function: CheckFunction) -> str:
    """Return the name of the check that a function makes."""
    return function.__name__.replace("_", "-")


def run_check(function: CheckFunction, group: str, context: DiagnosisContext) -> Check:
    """Run one check; a check that raises or measures no finite number is suspect, with the reason.

    Args:
        function: makes the check.
        group: letter of its group.
        context: model, examples and figure.
    """
    try:
        check = function(context)
    except Exception as cause:  # a model may raise anything anywhere: the diagnosis goes on
        return _failed_check(name_of(function), group, describe_or_reraise(cause))
    if check.measured is not None and not math.isfinite(check.measured):
        return _failed_check(check.name, group, f"measured {check.measured}: {check.says}")
    return replace(check, source="measured")


def _failed_check(name: str, group: str, reason: str) -> Check:
    return flag_check(name, group, convergence.INCONCLUSIVE, reason, raised=True, hard=False)


def _draw_pictures(context: DiagnosisContext) -> dict[str, Any]:
    """Return the pictures, or none where the model raises, which the checks report."""
    try:
        return loss_pictures(context)
    except Exception as cause:
        describe_or_reraise(cause)  # raises again if memory ran out
        return {}


@contextmanager
def _explain_out_of_memory() -> Iterator[None]:
    """Raise a one-line error where memory runs out, so that no check reports it as a finding."""
    try:
        yield
    except (MemoryError, RuntimeError) as cause:  # torch's own kind of each is a RuntimeError
        if not is_out_of_memory(cause):
            raise
        raise ModelError(
            "this diagnosis does not fit into memory; give fewer examples (n), or a larger device"
        ) from cause


def _read_epochs(out: str | Path | None) -> Sequence[Mapping[str, Any]]:
    log = Path(out) / "metrics.jsonl" if out is not None else None
    return RunFolder(Path(out)).read_log("metrics.jsonl") if out is not None and log and log.is_file() else []
