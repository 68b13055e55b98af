"""The context of a diagnosis: model, examples, the figure under test and its attack, and helpers that the checks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks import pgd
from advreg.attacks.search import QuerySpec, query
from advreg.attacks.verification import logits_of
from advreg.diagnosis.budget import Budget
from advreg.diagnosis.gradient_checks import Averaged, input_gradient
from advreg.diagnosis.pgd_trace import Trace, trace_pgd
from advreg.evaluation.batch_sizing import AdaptiveBatcher
from advreg.objectives import Objective, margin
from advreg.plugins import filter_kwargs
from advreg.results.checks import Check, skip_check
from advreg.threat import ThreatModel

Attack = Callable[..., Any]
"""``(model, x, y, threat, *, seed, ids) -> result`` with ``broken``; options are bound."""

ROWS = 256
_EPS_SHARES = (0.25, 0.5, 1.0, 1.5, 2.0)  # radii of the curve, as multiples of the threat's eps

PGD_40 = "pgd-40"
"""Name of a figure that the diagnosis measures itself."""


class Survivors:
    """The survivors of the stronger attacks: a sample of the robust examples, which all attacks share, and the others.

    Args:
        rows: rows of the robust examples, nearest to the boundary first.
        examples: size of the sample at the start.

    Attributes:
        sample: rows that no attack has broken.
        behind: rows farther from the boundary, which join the sample where an attack breaks many.
    """

    def __init__(self, rows: Tensor, examples: int) -> None:
        self.sample, self.behind = rows[:examples], rows[examples:]

    def remove(self, broken: Tensor) -> None:
        """Remove rows that an attack broke from the sample.

        Args:
            broken: rows that an attack broke ``(R,)``.
        """
        self.sample = self.sample[~torch.isin(self.sample, broken)]

    def extend(self, count: int) -> Tensor:
        """Move the nearest rows from behind into the sample, and return them.

        Args:
            count: number of rows.

        Returns:
            The rows that join.
        """
        joining, self.behind = self.behind[:count], self.behind[count:]
        self.sample = torch.cat([self.sample, joining])
        return joining


@dataclass(frozen=True, eq=False)
class DiagnosisContext:
    """The arguments that every check shares.

    Attributes:
        model: the original, in eval mode.
        x, y, ids: examples ``(N, ...)``, labels and ids ``(N,)``.
        right: whether the model classifies each clean example correctly ``(N,)``.
        robust: whether the figure counts each example as robust ``(N,)``.
        threat: threat model of the figure.
        attack: the attack behind the figure, unchanged.
        claim: name of the figure: ``"pgd-40"``, or the id of a protocol.
        nearness: margin of each example at the worst point that the figure's attacks found ``(N,)``, below 0 where it is
            robust; the margin of the clean point by default.
        precision: precision of the fast copy behind the figure.
        seed: seed of all draws; differs from the figure's, so that a repeated attack draws anew.
        budget: limits on the cost of the checks.
        train: inputs and labels to train a surrogate on; None: the examples themselves.
        surrogates: surrogates trained so far; the key is whether adversarially.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    ids: Tensor
    right: Tensor
    robust: Tensor
    threat: ThreatModel
    attack: Attack
    claim: str
    nearness: Tensor | None = None
    precision: str = "float32"
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    train: tuple[Tensor, Tensor] | None = None
    surrogates: dict[bool, nn.Module] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of examples in the figure."""
        return len(self.y)

    @property
    def robust_rows(self) -> Tensor:
        """Rows that the figure counts as robust."""
        return self.robust.nonzero()[:, 0]

    @cached_property
    def survivors(self) -> Survivors:
        """The robust examples that stronger attacks try, nearest to the boundary first; broken ones are removed."""
        margin_of = margins(self.model, self.x, self.y) if self.nearness is None else self.nearness
        order = margin_of[self.robust_rows].argsort(descending=True, stable=True)
        return Survivors(self.robust_rows[order], self.budget.examples)

    def probes(self) -> Tensor:
        """Return the rows that gradients and losses are measured on: robust ones first, then others classified correctly."""
        rows = torch.cat([self.robust_rows, (self.right & ~self.robust).nonzero()[:, 0]])
        return rows[: self.budget.probes]

    @cached_property
    def predicted(self) -> Tensor:
        """Classes that the model predicts for the clean examples ``(N,)``."""
        return in_batches(all_rows(self.x), lambda part: logits_of(self.model, self.x[part]).argmax(1))

    @cached_property
    def no_gradient(self) -> str:
        """Reason why the input has no gradient; empty where it has one."""
        rows = self.probes()[:8]
        return (
            input_gradient(self.model, self.x[rows], self.y[rows])[1]
            if len(rows)
            else "no example is classified correctly"
        )

    @cached_property
    def is_random(self) -> bool:
        """Return whether repeated outputs on the same input differ."""
        return len({logits_of(self.model, self.x[:8]).numpy(force=True).tobytes() for _ in range(4)}) > 1

    @cached_property
    def trace(self) -> Trace:
        """Loss and margin at every step of PGD-40 on the probes."""
        rows = self.probes()
        return trace_pgd(self.model, self.x[rows], self.y[rows], self.threat, ids=self.ids[rows], seed=self.seed)

    @cached_property
    def by_eps(self) -> dict[float, Tensor]:
        """Whether each of the first correct examples survives 20 steps of PGD ``(R,)``, by radius."""
        rows = self.right.nonzero()[:, 0][: self.budget.examples]
        widest = float(full_box(self.threat, self.x).eps)
        radii = sorted({min(share * float(self.threat.eps), widest) for share in _EPS_SHARES})
        attack = partial(pgd, steps=20)
        return {eps: ~run_on(self, attack, rows, threat=self.threat.with_eps(eps)) for eps in radii}


def run_on(
    context: DiagnosisContext,
    attack: Attack,
    rows: Tensor,
    model: nn.Module | None = None,
    threat: ThreatModel | None = None,
) -> Tensor:
    """Return which of these rows an attack breaks, ``(R,)``.

    Args:
        context: model, examples and figure.
        attack: the attack.
        rows: rows to attack ``(R,)``.
        model: another model to attack.
        threat: another threat model.

    Returns:
        Booleans ``(R,)``.

    Example:
        >>> from advreg import attacks
        >>> from advreg.diagnosis.diagnose import make_context
        >>> model, x = nn.Linear(4, 3).eval(), torch.rand(4, 4)
        >>> context, _ = make_context(model, (x, model(x).argmax(1)), ThreatModel("linf", 1e-6), 4, quick=True)
        >>> run_on(context, attacks.fgsm, torch.arange(2), threat=ThreatModel("linf", 0.0)).tolist()
        [False, False]
    """

    def broken_of(part: Tensor) -> Tensor:
        options = filter_kwargs(attack, seed=context.seed, ids=context.ids[part])
        found = attack(model or context.model, context.x[part], context.y[part], threat or context.threat, **options)
        broken: Tensor = found.broken
        if (
            model is None and context.is_random and bool(broken.any())
        ):  # one lucky draw proves nothing: verify on the average
            hit = broken.nonzero()[:, 0]
            broken[hit] = ~correct_rows(Averaged(context.model), found.x_adv[hit], context.y[part[hit]])
        return broken

    return in_batches(rows, broken_of, most=len(rows))


def in_batches(rows: Tensor, work: Callable[[Tensor], Tensor], most: int = ROWS) -> Tensor:
    """Return the results of a function on batches of rows, joined; smaller batches where one does not fit into memory.

    Args:
        rows: rows ``(R,)``.
        work: function of some rows.
        most: largest batch.

    Returns:
        The results of all rows ``(R, ...)``.

    Example:
        >>> in_batches(torch.arange(5), lambda rows: 2 * rows, most=2).tolist()
        [0, 2, 4, 6, 8]
    """
    return torch.cat(AdaptiveBatcher(most).of(rows, work) or [work(rows)])


def all_rows(x: Tensor) -> Tensor:
    """Return the index of every row, on the device of ``x``.

    Args:
        x: inputs ``(B, ...)``.

    Returns:
        Integers ``(B,)``.
    """
    return torch.arange(len(x), device=x.device)


def correct_rows(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return whether a model classifies each input correctly, ``(B,)``.

    Args:
        model: the network.
        x: clean inputs ``(B, ...)``.
        y: labels ``(B,)``.

    Returns:
        Booleans ``(B,)``.
    """
    return in_batches(all_rows(x), lambda part: logits_of(model, x[part]).argmax(1) == y[part])


def gradients(model: nn.Module, x: Tensor, y: Tensor, objective: Objective) -> Tensor:
    """Return the gradient of the objective at each input, ``(B, ...)``.

    Args:
        model: the network.
        x: inputs ``(B, ...)``.
        y: labels ``(B,)``.
        objective: ``(logits, y) -> (B,)``.

    Returns:
        Gradients ``(B, ...)``; weights get none.

    Example:
        >>> gradients(nn.Flatten(), torch.zeros(1, 3), torch.tensor([0]), lambda logits, y: logits[:, 1]).tolist()
        [[0.0, 1.0, 0.0]]
    """
    return in_batches(all_rows(x), lambda part: query(QuerySpec(model, objective), x[part], y[part])[2])


def margins(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the margin of each input without gradient, ``(B,)``: negative where it is classified correctly.

    Args:
        model: the network.
        x: clean inputs ``(B, ...)``.
        y: labels ``(B,)``.

    Returns:
        Values ``(B,)``.
    """
    return in_batches(all_rows(x), lambda part: margin(logits_of(model, x[part]), y[part]))


def full_box(threat: ThreatModel, x: Tensor) -> ThreatModel:
    """Return the threat model that allows every point of the box.

    Args:
        threat: norm and box.
        x: inputs ``(B, ...)``, for the number of values.

    Returns:
        A threat model of the same norm and box.

    Example:
        >>> full_box(ThreatModel("l2", 0.5), torch.zeros(1, 4)).eps
        2.0
    """
    low, high = threat.box
    d = x[0].numel()
    return threat.with_eps((high - low) * {"linf": 1.0, "l2": d**0.5, "l1": float(d)}[threat.norm])


def needs_gradient(context: DiagnosisContext, name: str, group: str) -> Check | None:
    """Return a skipped check where the input has no gradient, else None.

    Args:
        context: model, examples and figure.
        name: name of the check.
        group: group of the check, A to G.

    Returns:
        The skipped check, or None.
    """
    return skip_check(name, group, "there is no gradient: see gradient-path") if context.no_gradient else None


def needs_certainty(context: DiagnosisContext, name: str, group: str) -> Check | None:
    """Return a skipped check where the model is random, else None.

    Args:
        context: model, examples and figure.
        name: name of the check.
        group: group of the check, A to G.

    Returns:
        The skipped check, or None.
    """
    return skip_check(name, group, "the model is random: see randomness") if context.is_random else None
